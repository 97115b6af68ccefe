"""config/helm/penstock gives what config/kubernetes gives, and a wrong value is refused by name."""

import copy
import json
import re
import unittest

import yaml

from common import CHART, HELM, KUBERNETES, agent_of, documents, kustomize, one, output, pod_of, run, validate

REQUIRED = {
    "cluster": "prod-eu-1",
    "image": {"repository": "registry.example.com/penstock"},
    "location": {
        "bucket": "acme-cluster-backups",
        "region": "eu-west-1",
        "prefix": "fleet",
        "roleArn": "arn:aws:iam::222222222222:role/BackupWriter",
    },
}
STATIC = {"credentials": {"kind": "static"}}
BUNDLE = (KUBERNETES / "overlays" / "private-ca" / "ca.pem").read_text()
RECIPIENTS = (KUBERNETES / "overlays" / "client-encryption" / "recipients.txt").read_text().split()
# Which values make each overlay.
SAME = {
    "irsa": {"serviceAccount": {"annotations": {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::111111111111:role/PenstockBase",
        "eks.amazonaws.com/sts-regional-endpoints": "true",
    }}},
    "pod-identity": {},
    "static-credentials": {"credentials": {"kind": "static", "externalIdInSecret": True}},
    "private-ca": STATIC | {"certificate": {"bundle": BUNDLE}, "location": {
        "s3Url": "https://s3.example.internal", "stsUrl": "https://sts.example.internal", "ec2Url": "https://ec2.example.internal",
    }},
    "client-encryption": {"clientEncryption": {"recipients": RECIPIENTS}},
    "cluster": {"clusterAgent": {"enabled": True}},
    "control-plane": {
        "credentials": {"kind": "static", "externalIdInSecret": True},
        "etcd": {"enabled": True},
        "resources": {"limits": {"memory": "768Mi"}},
    },
}


def merged(base, more):
    result = copy.deepcopy(base)
    for key, value in more.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and isinstance(result.get(key), dict) else value
    return result


def template(values):
    return run(HELM, "template", "penstock", CHART, "--namespace", "penstock", "--values", "-", stdin=yaml.safe_dump(values))


def rendered(more):
    done = template(merged(REQUIRED, more))
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def plain(objects):
    """Without what the two are meant to differ in: Helm's labels and checksum, kustomize's hashes, the order of lists that are sets."""
    text = json.dumps(objects)
    for name in {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}:
        text = text.replace(f'"{name}"', f'"{re.sub("-[a-z0-9]{10}$", "", name)}"')
    result = {}
    for each in json.loads(text):
        if each["kind"] == "Namespace":
            continue  # Helm makes it, or whoever installs the chart
        labels = each["metadata"].get("labels", {})
        for label in list(labels):
            if label.startswith("helm.sh/") or label.removeprefix("app.kubernetes.io/") in ("instance", "version", "managed-by"):
                del labels[label]
        if each["kind"] in ("DaemonSet", "Deployment"):
            metadata = each["spec"]["template"]["metadata"]
            metadata["annotations"] = {
                name: value for name, value in metadata.get("annotations", {}).items() if not name.startswith("checksum/")
            }
            pod = each["spec"]["template"]["spec"]
            pod["volumes"].sort(key=lambda volume: volume["name"])
            for container in pod["containers"]:
                container["volumeMounts"].sort(key=lambda mount: mount["name"])
            # The overlay leaves copying etcdctl at the base's limit; the chart has one value for both containers.
            for container in pod.get("initContainers", []):
                container["resources"]["limits"].pop("memory")
        if each["kind"] == "ConfigMap":
            each["data"] = {key: value.rstrip("\n") for key, value in (each.get("data") or {}).items()}
        result[each["kind"], each["metadata"]["name"]] = each
    return result


class Chart(unittest.TestCase):
    maxDiff = None

    def test_it_gives_what_each_overlay_gives(self):
        for name, values in SAME.items():
            with self.subTest(overlay=name):
                ours, theirs = plain(rendered(values)), plain(kustomize(KUBERNETES / "overlays" / name))
                self.assertEqual(ours.keys(), theirs.keys())
                for key in theirs:
                    self.assertEqual(ours[key], theirs[key], key)

    def test_it_saves_claims_as_the_components_do(self):
        import pathlib
        import tempfile

        for hooks, components in ((False, ["claims"]), (True, ["claims", "claims-hooks"])):
            with tempfile.TemporaryDirectory(dir=KUBERNETES / "overlays") as folder:
                listed = ", ".join(f"../../components/{name}" for name in components)
                text = f"namespace: penstock\nresources: [../pod-identity]\ncomponents: [{listed}]\n"
                (pathlib.Path(folder) / "kustomization.yaml").write_text(text)
                theirs = plain(kustomize(folder))
            ours = plain(rendered({"claims": {"enabled": True, "hooks": hooks}}))
            # An API server outside EKS is on another port, as for the cluster's agent.
            ours["NetworkPolicy", "penstock"]["spec"]["egress"].remove({"ports": [{"port": 6443, "protocol": "TCP"}]})
            theirs["ConfigMap", "penstock"]["data"]["penstock.toml"] = theirs["ConfigMap", "penstock"]["data"]["penstock.toml"].replace(
                "hooks = false", f"hooks = {str(hooks).lower()}"
            )
            self.assertEqual(ours, theirs)
        without = rendered({"claims": {"enabled": True, "createRole": False}})
        self.assertEqual([each["kind"] for each in without if "rbac" in each["apiVersion"]], [])

    def test_its_pod_monitor_is_the_component_s(self):
        theirs = yaml.safe_load((KUBERNETES / "components/pod-monitor/podmonitor.yaml").read_text())
        self.assertEqual(one(rendered({"podMonitor": {"enabled": True}}), "PodMonitor")["spec"], theirs["spec"])

    def test_every_overlay_is_compared(self):
        self.assertEqual(sorted(SAME), sorted(path.name for path in (KUBERNETES / "overlays").iterdir() if path.is_dir()))

    def test_lint_and_schemas(self):
        for values in (*SAME.values(), {"podMonitor": {"enabled": True}, "hostPaths": ["/srv/data"]}):
            done = run(HELM, "lint", "--strict", CHART, "--values", "-", stdin=yaml.safe_dump(merged(REQUIRED, values)))
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            validate(rendered(values))

    def test_more_of_the_host_is_mounted_read_only(self):
        objects = rendered({"hostPaths": ["/srv/data"]})
        [mount] = [mount for mount in agent_of(objects)["volumeMounts"] if mount["mountPath"] == "/srv/data"]
        [volume] = [volume for volume in pod_of(objects)["volumes"] if volume["name"] == mount["name"]]
        self.assertEqual((mount["readOnly"], volume["hostPath"]["path"]), (True, "/srv/data"))

    def test_the_cluster_agents_role_state_and_configuration_can_be_others(self):
        rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]}]
        values = {"enabled": True, "stateClaim": "penstock-state", "config": "cluster = \"x\"\n", "schedule": "@daily"}
        objects = rendered({"clusterAgent": values | {"rbac": {"rules": rules}}})
        validate(objects)
        self.assertEqual(one(objects, "ClusterRole")["rules"], rules)
        [state] = [volume for volume in pod_of(objects, "Deployment")["volumes"] if volume["name"] == "state"]
        self.assertEqual(state["persistentVolumeClaim"], {"claimName": "penstock-state"})
        self.assertEqual(one(objects, "ConfigMap", "penstock-cluster")["data"]["penstock.toml"], "cluster = \"x\"\n")
        self.assertEqual(one(objects, "ConfigMap", "penstock-settings")["data"]["PENSTOCK_CLUSTER_SCHEDULE"], "@daily")
        without = rendered({"clusterAgent": {"enabled": True, "rbac": {"create": False}}})
        self.assertEqual([each["kind"] for each in without if "rbac" in each["apiVersion"]], [])

    def test_the_cluster_agent_has_credentials_and_ca_too(self):
        objects = rendered(merged(SAME["private-ca"], {"clusterAgent": {"enabled": True}}))
        for part, of in (("volumes", pod_of), ("volumeMounts", agent_of)):
            theirs = [each for each in of(objects)[part] if each["name"] in ("credentials", "ca")]
            ours = [each for each in of(objects, "Deployment")[part] if each["name"] in ("credentials", "ca")]
            self.assertEqual((len(ours), ours), (2, theirs))

    def test_agents_of_either_kind_have_the_recipients_and_no_private_key(self):
        for more in ({"recipients": RECIPIENTS}, {"configMap": "ours"}):
            objects = rendered({"clientEncryption": more, "clusterAgent": {"enabled": True}})
            for kind in ("DaemonSet", "Deployment"):
                [volume] = [each for each in pod_of(objects, kind)["volumes"] if each["name"] == "recipients"]
                self.assertEqual(volume["configMap"]["name"], more.get("configMap", "penstock-public-keys"))
            self.assertNotRegex(json.dumps(objects), "(?i)identity_file|secret-key-|identity-file")

    def test_a_change_rolls_out(self):
        def annotation(values, kind="DaemonSet"):
            return one(rendered(values), kind)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

        seen = {annotation(values) for values in ({}, {"cluster": "other"}, {"config": "cluster = \"x\"\n"}, {"schedule": "0 1 * * *"}, {"clientEncryption": {"recipients": RECIPIENTS}})}
        self.assertEqual(len(seen), 5)
        of_cluster = ({}, {"schedule": "0 1 * * *"}, {"config": "cluster = \"x\"\n"})
        seen = {annotation({"clusterAgent": {"enabled": True, **values}}, "Deployment") for values in of_cluster}
        self.assertEqual(len(seen), 3)

    def test_what_looks_odd_and_is_right(self):
        digest = "0.1.0@sha256:" + "0" * 64
        objects = rendered({"schedule": "@daily", "image": {"tag": digest}})
        self.assertEqual(agent_of(objects)["image"], f"registry.example.com/penstock:{digest}")
        self.assertEqual(one(objects, "ConfigMap", "penstock-settings")["data"]["PENSTOCK_VOLUMES_SCHEDULE"], "@daily")

    def test_a_mistake_names_the_value(self):
        for values, named in (
            ({"cluster": "Prod EU"}, "/cluster"),
            ({"clusterr": "x"}, "'clusterr'"),
            ({"location": {"bucket": "Bad_Bucket"}}, "/location/bucket"),
            ({"location": {"region": ""}}, "/location/region"),
            ({"location": {"roleArn": "BackupWriter"}}, "/location/roleArn"),
            ({"location": {"externalId": "x"}}, "/location/externalId"),
            ({"location": {"s3Url": "s3.example.com"}}, "/location/s3Url"),
            ({"location": {"encryption": {"mode": "kms"}}}, "/location/encryption/mode"),
            ({"location": {"encryption": {"kmsKeyId": "k"}}}, "location.encryption.kmsKeyId"),
            ({"location": {"buckett": "x"}}, "'buckett'"),
            ({"credentials": {"kind": "statik"}}, "/credentials/kind"),
            ({"credentials": {"externalIdInSecret": True}}, "credentials.externalIdInSecret"),
            ({"certificate": {"bundle": "no PEM"}}, "/certificate/bundle"),
            ({"certificate": {"bundle": BUNDLE, "configMap": "x"}}, "certificate.configMap"),
            ({"certificate": {"mode": "replace"}}, "/certificate/mode"),
            ({"clientEncryption": {"recipients": ["AGE-SECRET-KEY-1" + "Q" * 58]}}, "/clientEncryption/recipients/0"),
            ({"clientEncryption": {"recipients": RECIPIENTS[:1] * 2}}, "/clientEncryption/recipients"),
            ({"clientEncryption": {"recipients": RECIPIENTS, "configMap": "x"}}, "clientEncryption.configMap"),
            ({"clientEncryption": {"identity": "x"}}, "'identity'"),
            ({"schedule": "hourly"}, "/schedule"),
            ({"clusterAgent": {"schedule": "hourly"}}, "/clusterAgent/schedule"),
            ({"clusterAgent": {"stateClaim": "A b"}}, "/clusterAgent/stateClaim"),
            ({"clusterAgent": {"enabled": True}, "etcd": {"enabled": True}}, "clusterAgent.enabled"),
            ({"claims": {"enabled": True}, "etcd": {"enabled": True}}, "claims.enabled"),
            ({"claims": {"hooks": True}}, "claims.hooks"),
            ({"clusterAgent": {"rbac": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]}}}, "verbs"),
            ({"memory": "lots"}, "/memory"),
            ({"memory": "1GiB"}, "resources.limits.memory"),
            ({"hostPaths": ["srv"]}, "/hostPaths/0"),
            ({"hostPaths": ["/srv", "/etc/"]}, "hostPaths[1]"),
            ({"image": {"tag": "a b"}}, "/image/tag"),
            ({"image": {"repository": ""}}, "/image/repository"),
            ({"image": {"tag": "@sha256:" + "0" * 64}}, "/image/tag"),
            ({"resources": {"limits": {"memory": 512}}}, "/resources/limits/memory"),
            ({"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "x"}}}, "role-arn"),
            ({"tolerations": [{"effect": "Never"}]}, "/tolerations/0/effect"),
            ({"updateStrategy": {"maxUnavailable": "many"}}, "/updateStrategy/maxUnavailable"),
            ({"terminationGracePeriodSeconds": 5}, "/terminationGracePeriodSeconds"),
            ({"networkPolicy": {"metricsNamespace": "A"}}, "/networkPolicy/metricsNamespace"),
            ({"podMonitor": {"interval": "often"}}, "/podMonitor/interval"),
        ):
            with self.subTest(values=values):
                done = template(merged(REQUIRED, values))
                self.assertNotEqual(done.returncode, 0, "was taken")
                self.assertIn(named, done.stderr)

    def test_a_value_of_the_wrong_type_is_named_whichever_it_is(self):
        def every(values, path=()):
            for key, value in values.items():
                yield (*path, key), value
                if isinstance(value, dict):
                    yield from every(value, (*path, key))

        for path, value in every(yaml.safe_load((CHART / "values.yaml").read_text())):
            wrong = 7 if isinstance(value, (dict, list)) else {"wrong": 1}
            for key in reversed(path):
                wrong = {key: wrong}
            with self.subTest(path=path):
                done = template(merged(REQUIRED, wrong))
                self.assertNotEqual(done.returncode, 0, "was taken")
                self.assertRegex(done.stderr, f"/{'/'.join(path)}|{re.escape('.'.join(path))}")

    def test_values_and_schema_have_the_same_names(self):
        def of_values(values, path=""):
            for key, value in values.items():
                yield f"{path}/{key}"
                if isinstance(value, dict) and value and not re.search("/(requests|limits)$", f"{path}/{key}"):
                    yield from of_values(value, f"{path}/{key}")

        def of_schema(schema, path=""):
            for key, value in schema.get("properties", {}).items():
                yield f"{path}/{key}"
                if value.get("additionalProperties") is False and key not in ("requests", "limits"):
                    yield from of_schema(value, f"{path}/{key}")

        values = yaml.safe_load((CHART / "values.yaml").read_text())
        schema = json.loads((CHART / "values.schema.json").read_text())
        self.assertEqual(sorted(of_values(values)), sorted(set(of_schema(schema)) - {"/global"}))

    def test_the_files_are_the_manifests_own(self):
        folders = {"penstock.toml": "base", "penstock-etcd.toml": "components/etcd", "penstock-cluster.toml": "components/cluster", "penstock-claims.toml": "components/claims"}
        for ours, theirs in folders.items():
            self.assertEqual((CHART / "files" / ours).read_text(), (KUBERNETES / theirs / "penstock.toml").read_text())

    def test_versions_agree_with_the_package(self):
        version = re.search(r'^version = "(.+)"$', (CHART.parents[2] / "Cargo.toml").read_text(), re.M)[1]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))
        for where in ("base", "components/cluster", "components/restore"):
            [image] = yaml.safe_load((KUBERNETES / where / "kustomization.yaml").read_text())["images"]
            self.assertEqual(image["newTag"], version)

    def test_it_can_be_packaged(self):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.assertIn("penstock-", output(HELM, "package", CHART, "--destination", folder))


if __name__ == "__main__":
    unittest.main()
