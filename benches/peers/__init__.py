"""make bench-peers: Penstock beside other programs, or beside another Penstock, as whole processes on one machine.

Clients take turns (A B, B A, A B …), every figure is a median, of wall and CPU also the
least and the most. CPU is user + system of the client's whole process tree, waited
for with wait4; RSS is that of its largest process (nothing under 20 MiB can be told apart: a child starts with its
parent's mark). Uploads go to a sink that costs little (s3-sink.sh); what is read back goes to radosgw. The table names every
row that cannot be run, with the reason. With --base, the rows P1 to P5 and P10 are run by two Penstock binaries in turn and by no other
program, and docs/benchmarks.md is not written; with --with-peers besides, the base is one more client beside the others.
Exit code 1: Penstock itself failed in a row that could be run. Standard library only.
"""
