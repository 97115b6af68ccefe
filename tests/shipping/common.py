"""What the checks share: where things are, running a program, reading YAML.

Nothing here is skipped: a program that is missing fails the check that needs it.
"""

import os
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "shipping"
KUBECTL = TOOLS / "bin" / "kubectl"
HELM = TOOLS / "bin" / "helm"
KUBERNETES = ROOT / "config" / "kubernetes"
CHART = ROOT / "config" / "helm" / "penstock"
# Which penstock: the Makefile says.
PENSTOCK = pathlib.Path(os.environ["PENSTOCK"]).resolve()
# The oldest that managed services still run, and the newest that the validator knows.
KUBERNETES_VERSIONS = ("1.30", "1.37")


def run(*argv, env=None, stdin=None, cwd=None):
    """The finished process, output as text, whatever its exit code."""
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, env=env, input=stdin, cwd=cwd)


def output(*argv, **options):
    done = run(*argv, **options)
    if done.returncode != 0:
        raise AssertionError(f"{argv}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document is not None]


def one(objects, kind, name=None):
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def kustomize(folder):
    return documents(output(KUBECTL, "kustomize", folder))


def overlays():
    return sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))


def validate(objects):
    """Strictly, against the schemas of each version. The operator's own kinds are not among them."""
    from kubernetes_validate import utils

    for each in objects:
        if each["apiVersion"].startswith("monitoring.coreos.com/"):
            continue
        for version in KUBERNETES_VERSIONS:
            utils.validate(each, version, strict=True)


def mebibytes(quantity):
    """512Mi, 256MiB, 1Gi."""
    for unit, factor in (("Mi", 1), ("Gi", 1024)):
        if unit in quantity:
            return int(quantity.split(unit)[0]) * factor
    raise AssertionError(f"{quantity}: neither Mi nor Gi")


def pod_of(objects, kind="DaemonSet"):
    return one(objects, kind)["spec"]["template"]["spec"]


def agent_of(objects, kind="DaemonSet"):
    [container] = pod_of(objects, kind)["containers"]
    return container


def environment_of(objects, kind="DaemonSet"):
    """The container's environment, as kubelet would make it, with an example of what a node fills in."""
    agent = agent_of(objects, kind)
    [source] = agent["envFrom"]
    environment = dict(one(objects, "ConfigMap", source["configMapRef"]["name"])["data"])
    fields = {"spec.nodeName": "node-1", "status.hostIP": "192.0.2.1"}
    for variable in agent["env"]:
        value = variable.get("value")
        environment[variable["name"]] = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]] if value is None else value
    return environment


def configuration_of(objects, kind="DaemonSet"):
    [volume] = [volume for volume in pod_of(objects, kind)["volumes"] if volume["name"] == "config"]
    return one(objects, "ConfigMap", volume["configMap"]["name"])["data"]["penstock.toml"]


def with_configuration(objects, folder, *argv, kind="DaemonSet", **changes):
    """`penstock ARGV` on what the pod would see: its ConfigMaps as files, its environment (with `changes`)."""
    environment = environment_of(objects, kind) | changes
    text = configuration_of(objects, kind)
    for volume in pod_of(objects, kind)["volumes"]:
        if "configMap" not in volume or volume["name"] == "config":
            continue
        [mount] = [mount for mount in agent_of(objects, kind)["volumeMounts"] if mount["name"] == volume["name"]]
        there = pathlib.Path(folder) / volume["name"]
        there.mkdir(exist_ok=True)
        for name, content in one(objects, "ConfigMap", volume["configMap"]["name"])["data"].items():
            (there / name).write_text(content)
        environment = {name: value.replace(mount["mountPath"], str(there)) for name, value in environment.items()}
    path = pathlib.Path(folder) / "penstock.toml"
    path.write_text(text)
    return run(PENSTOCK, "--config", path, *argv, env=environment)


def config_check(objects, folder, **options):
    return with_configuration(objects, folder, "config", "check", **options)


def of_node_agents(objects):
    """Without what components/cluster adds."""
    return [each for each in objects if not each["metadata"]["name"].startswith("penstock-cluster")]
