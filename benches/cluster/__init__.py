"""make bench-kubernetes: Penstock beside kubectl on a real API server (tests/kube-apiserver.sh), as whole processes on one machine.

K1: 5,000 ConfigMaps of 2 KiB, listed by `kubectl get`, saved by Penstock. K2: the same saved again, unchanged. K3: 60,000 objects
of 2 KiB, and one list of 1 GiB, in a budget of 64 MiB. How is measured: peers. The API server's CPU is nobody's, and its caches
are as warm for one client as for the other, since they take turns. The server runs without the controller manager, so that nothing
changes but what the harness changes. K1 and K3 upload to the sink, K2 to moto, because the second backup reads the first.
Exit code 1: Penstock itself failed in a row. Standard library only; moto has an environment of its own in .bench/.
"""
