"""The rows: beside kubectl, unchanged, in little memory."""

import json
import shlex

from peers.common import MIB
from peers.measuring import Client, take_turns
from peers.report import by_name, figure
from peers.servers import nginx

from .moto import moto, stored
from .objects import config_maps

PAGE = 500
SMALL = 2048
# Below the 1 MiB that a ConfigMap may have.
LARGE = 900 << 10


def source(server, namespaces):
    """Of these namespaces' ConfigMaps; behind it, the cluster."""
    return (f'type = "kubernetes"\nname = "objects"\nnamespaces = {json.dumps(namespaces)}\nresources = ["configmaps"]\n'
            f'cluster_resources = "never"\n[kubernetes]\nkubeconfig = "{server.kubeconfig}"')


def row_against_kubectl(options, report, penstock, server, kubectl):
    """K1: the same objects, listed and saved."""
    config_maps(server, "five", options.objects, SMALL)
    listing = f"exec {shlex.quote(kubectl)} --kubeconfig {shlex.quote(server.kubeconfig)} get configmaps -A -o json >/dev/null"
    with nginx("start", 18080) as (port, _):
        config = penstock.config("k1", f"http://127.0.0.1:{port}", source(server, ["*"]))
        clients = [penstock.backup("", config), Client("kubectl get configmaps -A -o json", listing)]
        take_turns("K1", clients, options.rounds)
    report.table(f"K1: {options.objects} ConfigMaps of 2 KiB, `limits.memory` 64 MiB, to the sink", clients, options.objects * SMALL)
    own, peer = by_name(clients, "penstock"), by_name(clients, "kubectl")
    for field, share in (("cpu", 5), ("wall", 4), ("rss", 2)):
        report.target(f"K1 {field}, against 1/{share} of kubectl's", figure(own, field), figure(peer, field, 1 / share))


def row_unchanged(options, report, penstock, server, _):
    """K2: what a second backup of the same objects stores and asks."""
    if "K1" not in options.only:
        config_maps(server, "five", options.objects, SMALL)
    sizes, lists = [], []
    with moto() as url:
        config = penstock.config("k2", url, source(server, ["five"]), incremental=True)

        def look():
            sizes.append(stored(url))
            lists.append(server.lists())

        clients = [penstock.backup(", full", config, before=look), penstock.backup(", unchanged", config, before=look)]
        take_turns("K2", clients, 1)
        look()
    report.table(f"K2: {options.objects} ConfigMaps of 2 KiB, saved twice, to moto; one round", clients, options.objects * SMALL)
    if not any(client.failure for client in clients):
        new, asked = ([b - a for a, b in zip(counts, counts[1:])] for counts in (sizes, lists))
        pages = -(-options.objects // PAGE)
        report.sections.append(f"Stored {new[0]} and then {new[1]} bytes, manifest and index included; {asked[0]} and {asked[1]} "
                               "requests for a page.")
        report.target("K2 stored anew, % of the first", 100 * new[1] / new[0], 1.0)
        report.target("K2 list requests, against pages", asked[1], pages)


def row_memory(options, report, penstock, server, _):
    """K3: many objects, and a list that is longer than the budget by far."""
    large = -(-options.large_mib * MIB // LARGE)
    for title, space, count, size in ((f"{options.many_objects} ConfigMaps of 2 KiB", "many", options.many_objects, SMALL),
                                      (f"one list of {options.large_mib} MiB, {large} ConfigMaps of 900 KiB", "large", large, LARGE)):
        config_maps(server, space, count, size)
        with nginx("start", 18080) as (port, _):
            config = penstock.config(f"k3-{space}", f"http://127.0.0.1:{port}", source(server, [space]))
            clients = [penstock.backup("", config)]
            take_turns("K3", clients, min(options.rounds, 3))
        report.table(f"K3: {title}, `limits.memory` 64 MiB, to the sink", clients, count * size)
        # A bound holds in every run.
        most = max((run["rss"] for run in clients[0].runs), default=None)
        report.target(f"K3 RSS MiB, the largest, {title}", most, 160.0)
