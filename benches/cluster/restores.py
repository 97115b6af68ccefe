"""The rows of restores: how many objects a second, beside kubectl, and in how much memory."""

import json
import os
import shlex

from peers.common import BENCH
from peers.measuring import Client, take_turns
from peers.report import by_name, figure

from .moto import moto
from .objects import empty, objects
from .rows import SMALL

SPACE = "restored"


def saved(server, kind, penstock, url, name):
    """A configuration whose bucket has one backup of the namespace's objects of this kind."""
    source = (f'type = "kubernetes"\nname = "objects"\nnamespaces = ["{SPACE}"]\nresources = ["{kind}"]\ncluster_resources = "never"\n'
              f'[kubernetes]\nkubeconfig = "{server.kubeconfig}"')
    config = penstock.config(name, url, source)
    take_turns(name, [penstock.backup(", the backup", config)], 1)
    return config


def row_rates(options, report, penstock, server, kubectl):
    """K4: the same objects created, and planned, each time in a namespace that has none."""
    objects(server, SPACE, "configmaps", options.objects, SMALL)
    path = os.path.join(BENCH, "objects.json")
    one = server.connection()
    one.request("GET", f"/api/v1/namespaces/{SPACE}/configmaps")
    items = json.loads(one.getresponse().read())["items"]
    for item in items:
        item.update(apiVersion="v1", kind="ConfigMap",
                    metadata={key: item["metadata"][key] for key in ("name", "namespace")})
    with open(path, "w") as out:
        json.dump({"apiVersion": "v1", "kind": "List", "items": items}, out)

    def peer(name, words):
        # `diff` ends with 1 where something differs.
        command = f"{shlex.quote(kubectl)} --kubeconfig {shlex.quote(server.kubeconfig)} {words} -f {path} >/dev/null"
        return Client(name, f"{command} || test $? = {1 if 'diff' in words else 0}", before=clear)

    def clear():
        empty(server, SPACE, "configmaps")

    with moto() as url:
        config = saved(server, "configmaps", penstock, url, "k4")
        own = [Client(f"penstock {what}", penstock.command(config, "--output", "json", "kubernetes", what, "bench@latest"), before=clear, peer=False)
               for what in ("restore", "plan")]
        created = [own[0], peer("kubectl create", "create"), peer("kubectl apply", "apply")]
        judged = [own[1], peer("kubectl diff", "diff")]
        take_turns("K4", created, min(options.rounds, 3))
        # kubectl takes minutes: it judges one object after the other.
        take_turns("K4", judged, 1)
        clients = [*created, *judged]
    report.table(f"K4: {options.objects} ConfigMaps of 2 KiB into an empty namespace, `limits.memory` 64 MiB, from moto", clients,
                 options.objects * SMALL)
    for own, other, factor in (("penstock restore", "kubectl apply", 5), ("penstock restore", "kubectl create", 3), ("penstock plan", "kubectl diff", 3)):
        report.target(f"K4 {own}, wall against 1/{factor} of {other}", figure(by_name(clients, own), "wall"),
                      figure(by_name(clients, other), "wall", 1 / factor))


def row_secrets(options, report, penstock, server, _):
    """K5: the memory of a restore of many Secrets."""
    objects(server, SPACE, "secrets", options.secrets, SMALL)
    with moto() as url:
        config = saved(server, "secrets", penstock, url, "k5")
        empty(server, SPACE, "secrets")
        command = penstock.command(config, "kubernetes", "restore", "bench@latest")
        clients = [Client("penstock restore", command, peer=False), Client("penstock restore, again", command, peer=False)]
        take_turns("K5", clients, 1)
    report.table(f"K5: {options.secrets} Secrets of 2 KiB into an empty namespace, and once more, `limits.memory` 64 MiB; one round", clients,
                 options.secrets * SMALL)
    most = max((run["rss"] for client in clients for run in client.runs), default=None)
    report.target("K5 RSS MiB, the larger", most, 160.0)
