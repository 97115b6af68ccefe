"""config/kubernetes: each overlay renders, is valid, is as hardened as it says, and holds a configuration that Penstock takes."""

import copy
import pathlib
import re
import shutil
import tempfile
import tomllib
import unittest

import yaml
from common import (
    KUBERNETES,
    PENSTOCK,
    agent_of,
    config_check,
    configuration_of,
    environment_of,
    kustomize,
    mebibytes,
    of_node_agents,
    one,
    overlays,
    pod_of,
    run,
    validate,
    with_configuration,
)


class Overlays(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rendered = {name: of_node_agents(kustomize(KUBERNETES / "overlays" / name)) for name in overlays()}

    def test_there_is_one_for_each_way_in(self):
        self.assertEqual(overlays(), ["client-encryption", "cluster", "control-plane", "irsa", "pod-identity", "private-ca", "static-credentials"])

    def test_valid_against_the_schemas(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                validate(objects)

    def test_a_wrong_field_would_be_seen(self):
        objects = kustomize(KUBERNETES / "overlays" / "irsa")
        pod_of(objects)["hostnetwork"] = True
        with self.assertRaises(Exception) as raised:
            validate(objects)
        self.assertIn("hostnetwork", str(raised.exception))

    def test_the_configuration_is_one(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                with tempfile.TemporaryDirectory() as folder:
                    done = config_check(objects, folder)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_mistake_in_any_setting_names_the_value(self):
        wrong = {
            "NODE_NAME": ("Node 1", "node:"),
            "PENSTOCK_CLUSTER": ("Prod", "cluster:"),
            "PENSTOCK_BUCKET": ("Bad_Bucket", "locations.primary.bucket:"),
            "PENSTOCK_REGION": ("", "locations.primary.region:"),
            "PENSTOCK_PREFIX": ("/fleet", "locations.primary.prefix:"),
            "PENSTOCK_ROLE_ARN": ("BackupWriter", "locations.primary.assume_role[0].role_arn:"),
            "PENSTOCK_EXTERNAL_ID": ("x", "locations.primary.assume_role[0].external_id:"),
            "PENSTOCK_S3_URL": ("s3.example.com", "locations.primary.s3_url:"),
            "PENSTOCK_STS_URL": ("sts.example.com", "locations.primary.sts_url:"),
            "PENSTOCK_EC2_URL": ("ec2.example.com", "locations.primary.ec2_url:"),
            "PENSTOCK_CERTIFICATE_MODE": ("replace", "locations.primary.certificate_mode:"),
            "PENSTOCK_CREDENTIALS": ("statik", "locations.primary.credentials.source:"),
            "PENSTOCK_ACCESS_KEY_ID_FILE": ("/x", "locations.primary.credentials.access_key_id_file:"),
            "PENSTOCK_SECRET_ACCESS_KEY_FILE": ("/x", "locations.primary.credentials.secret_access_key_file:"),
            "PENSTOCK_ENCRYPTION": ("kms", "locations.primary.encryption.mode:"),
            "PENSTOCK_KMS_KEY_ID": ("a-key", "locations.primary.encryption.kms_key_id:"),
            "PENSTOCK_MEMORY": ("lots", "limits.memory:"),
            "PENSTOCK_LISTEN": ("9632", "admin.listen:"),
            "PENSTOCK_VOLUMES_SCHEDULE": ("hourly", "jobs.volumes.schedule:"),
            "PENSTOCK_ETCD_SCHEDULE": ("hourly", "jobs.etcd.schedule:"),
            "PENSTOCK_CLUSTER_SCHEDULE": ("hourly", "jobs.cluster.schedule:"),
        }
        cluster = kustomize(KUBERNETES / "overlays" / "cluster")
        agents = {
            "VOLUMES": (self.rendered["pod-identity"], "DaemonSet"),
            "ETCD": (self.rendered["control-plane"], "DaemonSet"),
            "CLUSTER": (cluster, "Deployment"),
        }
        texts = "".join(configuration_of(objects, kind) for objects, kind in agents.values())
        variables = re.findall(r"^[^#\n]*\$\{(\w+)", texts, re.M)
        # What these name is read by whoever uses it, and a wrong path is named then.
        files = {"PENSTOCK_CERTIFICATE", "PENSTOCK_EXTERNAL_ID_FILE", "PENSTOCK_RECIPIENTS_FILE"}
        self.assertEqual(sorted({*wrong, *files}), sorted(set(variables)))
        for name, (value, key) in wrong.items():
            job = name.removeprefix("PENSTOCK_").removesuffix("_SCHEDULE")
            objects, kind = agents[job if name.endswith("_SCHEDULE") else "VOLUMES"]
            with self.subTest(setting=name), tempfile.TemporaryDirectory() as folder:
                done = config_check(objects, folder, kind=kind, **{name: value})
                self.assertEqual(done.returncode, 78, done.stdout)
                self.assertIn(key, done.stderr)

    def test_a_setting_that_is_missing_is_named(self):
        objects = kustomize(KUBERNETES / "base")
        one(objects, "ConfigMap", agent_of(objects)["envFrom"][0]["configMapRef"]["name"])["data"] = {}
        with tempfile.TemporaryDirectory() as folder:
            done = config_check(objects, folder)
        for name in ("PENSTOCK_CLUSTER", "PENSTOCK_BUCKET", "PENSTOCK_REGION", "PENSTOCK_ROLE_ARN"):
            self.assertIn(f"names the environment variable {name}, which is not set", done.stderr)

    def test_every_setting_is_a_variable_of_the_file(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                for name in environment_of(objects):
                    if name.startswith("PENSTOCK_"):
                        self.assertIn(f"${{{name}", configuration_of(objects))

    def test_a_change_rolls_out(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "kubernetes"
            shutil.copytree(KUBERNETES, copy)
            changed = copy / "base" / "penstock.toml"
            changed.write_text(changed.read_text().replace("concurrent_jobs = 2", "concurrent_jobs = 3"))
            after = pod_of(kustomize(copy / "overlays" / "irsa"))
        self.assertNotEqual(pod_of(self.rendered["irsa"]), after)

    def test_hardened(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                pod = pod_of(objects)
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertIs(pod["automountServiceAccountToken"], False)
                self.assertIs(one(objects, "ServiceAccount")["automountServiceAccountToken"], False)
                for shared in ("hostNetwork", "hostPID", "hostIPC"):
                    self.assertFalse(pod.get(shared))
                for container in pod["containers"] + pod.get("initContainers", []):
                    context = container["securityContext"]
                    self.assertIs(context["allowPrivilegeEscalation"], False)
                    self.assertIs(context["readOnlyRootFilesystem"], True)
                    self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                    extra = ["DAC_READ_SEARCH"] if container["name"] == "penstock" else None
                    self.assertEqual(context["capabilities"].get("add"), extra)
                    self.assertIn("memory", container["resources"]["limits"])
                self.assertEqual({each["kind"] for each in objects} & {"Role", "ClusterRole", "Secret"}, set())

    def test_one_on_every_node_that_goes_last_and_in_time(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                pod = pod_of(objects)
                self.assertEqual(pod["tolerations"], [{"operator": "Exists"}])
                self.assertEqual(one(objects, "PriorityClass", pod["priorityClassName"])["preemptionPolicy"], "Never")
                # A pod that tolerates every taint would wait for each Fargate node, which runs no DaemonSets.
                affinity = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                rules = [rule for term in affinity["nodeSelectorTerms"] for rule in term["matchExpressions"]]
                fargate = {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]}
                control_plane = {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
                self.assertEqual(rules, [control_plane if name == "control-plane" else fargate])
                # The daemon takes 25 s to cancel what runs (docs/daemon.md, Stop).
                self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], 30)
                rolling = one(objects, "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]
                self.assertEqual(rolling, {"maxUnavailable": "10%", "maxSurge": 0})
                self.assertEqual(environment_of(objects)["NODE_NAME"], "node-1")
                self.assertEqual(tomllib.loads(configuration_of(objects))["node"], "${NODE_NAME}")
                self.assertEqual(one(objects, "Service")["spec"]["clusterIP"], "None")

    def test_host_folders_are_read_only_and_are_what_is_backed_up(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                volumes = {volume["name"]: volume for volume in pod_of(objects)["volumes"]}
                host = set()
                for mount in agent_of(objects)["volumeMounts"]:
                    source = volumes[mount["name"]].get("hostPath")
                    if source is None or mount["name"] == "state":
                        continue
                    self.assertIs(mount["readOnly"], True)
                    self.assertEqual(mount["mountPath"], source["path"], "paths in backups are the node's")
                    host.add(mount["mountPath"])
                jobs = tomllib.loads(configuration_of(objects))["jobs"].values()
                sources = [source["path"] for job in jobs for source in job["sources"] if "path" in source]
                for folder in host:
                    self.assertTrue(any(path.startswith(folder) for path in sources), f"{folder} is mounted for nothing")
                mounted = [mount["mountPath"] for mount in agent_of(objects)["volumeMounts"]]
                for path in sources:
                    self.assertTrue(any(path.startswith(folder) for folder in mounted), f"{path} is not mounted")

    def test_volumes_mounted_later_are_seen(self):
        [mount] = [mount for mount in agent_of(self.rendered["irsa"])["volumeMounts"] if mount["name"] == "pods"]
        self.assertEqual(mount["mountPropagation"], "HostToContainer")

    def test_the_state_survives_the_pod(self):
        homes = set()
        for name in ("irsa", "control-plane"):
            [state] = [each for each in pod_of(self.rendered[name])["volumes"] if each["name"] == "state"]
            homes.add(state["hostPath"]["path"])
        self.assertEqual(homes, {"/var/lib/penstock", "/var/lib/penstock-etcd"}, "two agents of a node share no state")

    def test_the_limit_fits_the_budget(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                budget = tomllib.loads(configuration_of(objects))["limits"]["memory"]
                budget = mebibytes(environment_of(objects).get("PENSTOCK_MEMORY", budget.split(":-")[1].rstrip("}")))
                self.assertGreaterEqual(mebibytes(agent_of(objects)["resources"]["limits"]["memory"]), budget + 128)

    def test_ports_and_selectors_agree(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                agent, daemonset = agent_of(objects), one(objects, "DaemonSet")
                labels = daemonset["spec"]["template"]["metadata"]["labels"]
                selectors = [daemonset["spec"]["selector"]["matchLabels"], one(objects, "Service")["spec"]["selector"]]
                selectors.append(one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
                for selector in selectors:
                    self.assertLessEqual(selector.items(), labels.items())
                [port] = agent["ports"]
                listen = tomllib.loads(configuration_of(objects))["admin"]["listen"]
                self.assertIn(f":{port['containerPort']}}}", listen)
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    self.assertEqual(agent[probe]["httpGet"]["port"], port["name"])

    def test_the_configurations_are_one_down_to_the_jobs(self):
        def head(path):
            lines = (KUBERNETES / path).read_text().splitlines()
            start, end = lines.index('cluster = "${PENSTOCK_CLUSTER}"'), lines.index('mode = "${PENSTOCK_ENCRYPTION:-bucket-default}"')
            return lines[start : end + 2]

        for component in ("etcd", "cluster", "claims"):
            self.assertEqual(head("base/penstock.toml"), head(f"components/{component}/penstock.toml"))

    def test_the_binary_takes_the_arguments(self):
        for name, objects in self.rendered.items():
            with self.subTest(overlay=name):
                done = run(PENSTOCK, *agent_of(objects)["args"], "--help")
                self.assertEqual(done.returncode, 0, done.stderr)


class ClusterAgent(unittest.TestCase):
    """components/cluster: what it adds to the agents of nodes, and that it adds nothing to them."""

    KIND = "Deployment"

    @classmethod
    def setUpClass(cls):
        cls.objects = kustomize(KUBERNETES / "overlays" / "cluster")
        cls.pod, cls.agent = pod_of(cls.objects, cls.KIND), agent_of(cls.objects, cls.KIND)

    def rendered_with(self, *components):
        with tempfile.TemporaryDirectory(dir=KUBERNETES / "overlays") as folder:
            listed = ", ".join(f"../../components/{name}" for name in components)
            text = f"namespace: penstock\nresources: [../../base]\ncomponents: [{listed}]\n"
            ca = "configMapGenerator: [{name: penstock-ca, literals: [ca.pem=x]}]\n"
            (pathlib.Path(folder) / "kustomization.yaml").write_text(text + ca)
            return kustomize(folder)

    def test_the_agents_of_nodes_are_what_they_are_without_it(self):
        ours = of_node_agents(self.objects)
        self.assertNotEqual(ours, self.objects)
        theirs = kustomize(KUBERNETES / "overlays" / "pod-identity")
        # The API server's port is the one thing more.
        one(ours, "NetworkPolicy")["spec"]["egress"].remove({"ports": [{"port": 6443, "protocol": "TCP"}]})
        self.assertEqual(ours, theirs)

    def test_valid_against_the_schemas(self):
        validate(self.objects)

    def test_the_configuration_is_one_that_saves_the_cluster(self):
        with tempfile.TemporaryDirectory() as folder:
            done = config_check(self.objects, folder, kind=self.KIND)
        self.assertEqual(done.returncode, 0, done.stderr)
        [source] = tomllib.loads(configuration_of(self.objects, self.KIND))["jobs"]["cluster"]["sources"]
        self.assertEqual(source, {"type": "kubernetes", "name": "objects"})
        self.assertEqual(environment_of(self.objects, self.KIND)["NODE_NAME"], "cluster")
        self.assertEqual(run(PENSTOCK, *self.agent["args"], "--help").returncode, 0)

    def test_one_at_a_time(self):
        spec = one(self.objects, self.KIND)["spec"]
        self.assertEqual((spec["replicas"], spec["strategy"]), (1, {"type": "Recreate"}))
        self.assertGreaterEqual(self.pod["terminationGracePeriodSeconds"], 30)

    def test_hardened(self):
        context = self.pod["securityContext"]
        self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertIs(context["runAsNonRoot"], True)
        [user] = re.findall(r"^ARG RUN_AS=(\d+)$", (KUBERNETES.parents[1] / "Dockerfile").read_text().split("FROM scratch")[1], re.M)
        self.assertEqual({context["runAsUser"], context["runAsGroup"], context["fsGroup"]}, {int(user)})
        self.assertEqual([name for name in ("hostNetwork", "hostPID", "hostIPC") if self.pod.get(name)], [])
        self.assertEqual([volume for volume in self.pod["volumes"] if "hostPath" in volume], [])
        self.assertNotIn("initContainers", self.pod)
        container = self.agent["securityContext"]
        self.assertIs(container["allowPrivilegeEscalation"], False)
        self.assertIs(container["readOnlyRootFilesystem"], True)
        self.assertEqual(container["capabilities"], {"drop": ["ALL"]})

    def test_the_limit_fits_the_budget(self):
        budget = tomllib.loads(configuration_of(self.objects, self.KIND))["limits"]["memory"]
        budget = mebibytes(budget.split(":-")[1].rstrip("}"))
        self.assertGreaterEqual(mebibytes(self.agent["resources"]["limits"]["memory"]), budget + 128)

    def test_it_alone_has_a_token_and_a_role(self):
        account = one(self.objects, "ServiceAccount", self.pod["serviceAccountName"])
        self.assertIs(account["automountServiceAccountToken"], True)
        self.assertIs(self.pod["automountServiceAccountToken"], True)
        subjects = [each["subjects"] for each in self.objects if each["kind"].endswith("RoleBinding")]
        expected = {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": account["metadata"]["namespace"]}
        self.assertEqual(subjects, [[expected]])
        self.assertNotEqual(pod_of(self.objects)["serviceAccountName"], account["metadata"]["name"])

    def test_its_role_is_what_policy_prints_for_its_configuration(self):
        with tempfile.TemporaryDirectory() as folder:
            done = with_configuration(self.objects, folder, "policy", "--kubernetes", kind=self.KIND)
        self.assertEqual(done.returncode, 0, done.stderr)
        printed = list(yaml.safe_load_all(done.stdout))
        ours = [each for each in self.objects if "rbac" in each["apiVersion"]]
        self.assertEqual(printed, ours)

    def test_ports_and_selectors_agree(self):
        labels = one(self.objects, self.KIND)["spec"]["template"]["metadata"]["labels"]
        service = one(self.objects, "Service", "penstock-cluster")["spec"]
        selectors = [one(self.objects, self.KIND)["spec"]["selector"]["matchLabels"], service["selector"]]
        selectors.append(one(self.objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
        for selector in selectors:
            self.assertLessEqual(selector.items(), labels.items())
        node = one(self.objects, "DaemonSet")["spec"]["selector"]["matchLabels"]
        self.assertFalse(node.items() <= labels.items(), "the DaemonSet would adopt its pod")
        [port] = self.agent["ports"]
        self.assertEqual(service["ports"][0]["targetPort"], port["name"])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertEqual(self.agent[probe]["httpGet"]["port"], port["name"])

    def test_it_has_the_location_and_the_credentials_of_the_agents(self):
        objects = self.rendered_with("cluster", "static-credentials", "private-ca")
        ours, theirs = agent_of(objects, self.KIND), agent_of(objects)
        self.assertEqual((ours["envFrom"], ours["image"]), (theirs["envFrom"], theirs["image"]))
        for name in ("credentials", "ca"):
            for part in ("volumes", "volumeMounts"):
                pods = pod_of(objects, self.KIND), pod_of(objects)
                either = [pod if part == "volumes" else pod["containers"][0] for pod in pods]
                [one_of_ours], [one_of_theirs] = ([each for each in of[part] if each["name"] == name] for of in either)
                self.assertEqual(one_of_ours, one_of_theirs)

    def test_irsa_says_the_regional_endpoint_to_both(self):
        objects = self.rendered_with("cluster", "irsa")
        for name in ("penstock", "penstock-cluster"):
            annotations = one(objects, "ServiceAccount", name)["metadata"]["annotations"]
            self.assertEqual(annotations, {"eks.amazonaws.com/sts-regional-endpoints": "true"})


class Claims(unittest.TestCase):
    """components/claims: a configuration, a token and the smallest role; components/claims-hooks: pods/exec."""

    def rendered_with(self, *components):
        with tempfile.TemporaryDirectory(dir=KUBERNETES / "overlays") as folder:
            listed = ", ".join(f"../../components/{name}" for name in components)
            text = f"namespace: penstock\nresources: [../pod-identity]\ncomponents: [{listed}]\n"
            (pathlib.Path(folder) / "kustomization.yaml").write_text(text)
            return kustomize(folder)

    def test_its_role_is_what_policy_prints_for_its_configuration(self):
        objects = self.rendered_with("claims")
        validate(objects)
        with tempfile.TemporaryDirectory() as folder:
            done = with_configuration(objects, folder, "policy", "--kubernetes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(list(yaml.safe_load_all(done.stdout)), [each for each in objects if "rbac" in each["apiVersion"]])

    def test_pods_exec_comes_with_hooks_only(self):
        def resources(objects):
            return {name for rule in one(objects, "ClusterRole")["rules"] for name in rule["resources"]}

        self.assertEqual(resources(self.rendered_with("claims")), {"pods", "persistentvolumeclaims", "persistentvolumes"})
        objects = self.rendered_with("claims", "claims-hooks")
        validate(objects)
        hooked = [each for each in objects if "rbac" in each["apiVersion"]]
        with tempfile.TemporaryDirectory() as folder:
            configuration = one(objects, "ConfigMap", next(each["configMap"]["name"] for each in pod_of(objects)["volumes"] if "configMap" in each))
            configuration["data"]["penstock.toml"] = configuration["data"]["penstock.toml"].replace("hooks = false", "hooks = true")
            done = with_configuration(objects, folder, "policy", "--kubernetes")
        self.assertEqual(list(yaml.safe_load_all(done.stdout)), hooked)

    def test_it_changes_nothing_else_of_the_agents(self):
        ours, theirs = self.rendered_with("claims"), kustomize(KUBERNETES / "overlays" / "pod-identity")
        pod, other = copy.deepcopy(pod_of(ours)), pod_of(theirs)
        self.assertIs(pod.pop("automountServiceAccountToken"), True)
        self.assertIs(other.pop("automountServiceAccountToken"), False)
        for each in (pod, other):
            for volume in each["volumes"]:
                volume.pop("configMap", None)
        self.assertEqual(pod, other)
        [source] = tomllib.loads(configuration_of(ours))["jobs"]["volumes"]["sources"]
        self.assertEqual((source["type"], source["hooks"]), ("claims", False))
        [mount] = [mount for mount in agent_of(ours)["volumeMounts"] if mount["name"] == "pods"]
        self.assertEqual(mount["mountPropagation"], "HostToContainer")

    def test_the_configuration_is_one(self):
        with tempfile.TemporaryDirectory() as folder:
            done = config_check(self.rendered_with("claims"), folder)
        self.assertEqual(done.returncode, 0, done.stderr)


class Restore(unittest.TestCase):
    def test_its_job_sees_what_the_agents_see(self):
        with tempfile.TemporaryDirectory(dir=KUBERNETES / "overlays") as folder:
            components = ["restore", "static-credentials", "private-ca", "network-policy"]
            listed = ", ".join(f"../../components/{name}" for name in components)
            text = f"namespace: penstock\nresources: [../../base]\ncomponents: [{listed}]\n"
            ca = "configMapGenerator: [{name: penstock-ca, literals: [ca.pem=x]}]\n"
            (pathlib.Path(folder) / "kustomization.yaml").write_text(text + ca)
            objects = kustomize(folder)
        validate(objects)
        job = one(objects, "Job")
        self.assertIs(job["spec"]["suspend"], True)
        pod = job["spec"]["template"]["spec"]
        [restore], agent = pod["containers"], agent_of(objects)
        self.assertEqual(restore["envFrom"], agent["envFrom"])
        self.assertEqual(restore["image"], agent["image"])
        for name in ("config", "credentials", "ca"):
            for volumes in (pod["volumes"], pod_of(objects)["volumes"]):
                self.assertIn(name, [volume["name"] for volume in volumes])
            [ours] = [volume for volume in pod["volumes"] if volume["name"] == name]
            self.assertIn(ours, pod_of(objects)["volumes"])
        labels = job["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items(), labels.items())
        selector = one(objects, "DaemonSet")["spec"]["selector"]["matchLabels"]
        self.assertFalse(selector.items() <= labels.items(), "the DaemonSet would adopt its pod")
        self.assertEqual(run(PENSTOCK, *restore["args"], "--help").returncode, 0)


class PodMonitor(unittest.TestCase):
    def test_it_names_a_port_of_the_pod(self):
        with tempfile.TemporaryDirectory(dir=KUBERNETES / "overlays") as folder:
            (pathlib.Path(folder) / "kustomization.yaml").write_text(
                "resources: [../irsa]\ncomponents: [../../components/pod-monitor]\n"
            )
            objects = kustomize(folder)
        monitor = one(objects, "PodMonitor")
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        self.assertEqual(endpoint["port"], agent_of(objects)["ports"][0]["name"])
        labels = one(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), labels.items())


if __name__ == "__main__":
    unittest.main()
