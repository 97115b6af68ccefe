"""P1 and P2: one file of random bytes to the sink, over HTTP and over TLS."""

from .common import GIB, MIB
from .data import random_file, warm
from .measuring import take_turns
from .others import uploaders
from .report import best, by_name, figure
from .servers import nginx
from .tools import certificates


def row_uploads(options, report, builds):
    """P1 and P2 in one series, so that their difference is of the same hour."""
    file = random_file(options.mib * MIB)
    ca, certificate, key = certificates()
    source = f'type = "file"\nname = "random"\npath = "{file}"'
    with nginx("start", 80) as (port, _), nginx("start", 443, certificate, key) as (tls_port, _):
        # The CRT client drops the port of an endpoint: it needs the standard ones.
        url = "http://127.0.0.1" + ("" if port == 80 else f":{port}")
        tls_url = "https://127.0.0.1" + ("" if tls_port == 443 else f":{tls_port}")
        plain, missing = uploaders(url, file, crt_reaches=port == 80) if not options.base_only else ([], [])
        tls, tls_missing = uploaders(tls_url, file, ca, crt_reaches=tls_port == 443) if not options.base_only else ([], [])
        unsigned = [one.backup(", payload unsigned", one.config("p1", url, source, "none")) for one in builds]
        signed = [one.backup(", payload signed", one.config("p1-signed", url, source, "none", sign="always")) for one in builds]
        # The base is held against what it has, too; an older binary does not encrypt.
        encrypted = [] if options.base_only else [
            one.backup(", payload unsigned, encrypted", one.config("p1-encrypted", url, source, "none", encrypted=True)) for one in builds[:1]]
        plain = unsigned + signed + encrypted + plain
        tls = [one.backup("", one.config("p2", tls_url, source, "none", ca, sign="auto")) for one in builds] + tls
        for why in missing:
            report.skip("P1", why)
        for why in tls_missing:
            report.skip("P2", why)
        rows = [("P1", plain)] if "P1" in options.only else []
        rows += [("P2", tls)] if "P2" in options.only else []
        for client in plain + tls:
            # "Page-cached": Penstock drops a file's pages behind itself, so each client has them read in before its turn.
            client.before = lambda: warm(file)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for row, clients in rows:
                take_turns(row, clients, 1, number)
    amount = options.mib * MIB
    if "P1" in options.only:
        report.table(f"P1: {options.mib} MiB of random bytes, compression none, HTTP sink", plain, amount)
        own, crt, s5 = by_name(plain, "penstock, payload unsigned"), by_name(plain, "AWS CLI 2"), by_name(plain, "s5cmd")
        fastest = best(client for client in plain if client.peer)
        report.target("P1 wall s, against the fastest multipart peer", figure(own, "wall"), figure(fastest, "wall"))
        report.target("P1 wall s, against 0.95 x CRT's", figure(own, "wall"), figure(crt, "wall", 0.95))
        report.target("P1 CPU s, against 1.1 x CRT's", figure(own, "cpu"), figure(crt, "cpu", 1.1))
        report.target("P1 CPU s, against 1.15 x CRT's", figure(own, "cpu"), figure(crt, "cpu", 1.15))
        report.target("P1 CPU s, against 0.6 x s5cmd's", figure(own, "cpu"), figure(s5, "cpu", 0.6))
        report.target("P1 RSS MiB, with a budget of 64 MiB", figure(own, "rss"), 128.0)
        sealed = by_name(plain, "penstock, payload unsigned, encrypted")
        extra = more(sealed, own, amount)
        report.target("P1 with encryption, CPU s a GiB more than without", extra, 0.55)
    if "P2" in options.only:
        report.table("P2: the same over TLS 1.3 (payload unsigned: `sign_payload = auto`)", tls, amount)
        one, two = by_name(plain, "penstock, payload unsigned"), by_name(tls, "penstock")
        extra = more(two, one, amount)
        report.target("P2 CPU s a GiB more than P1", extra, 0.6)


def more(one, other, amount):
    """What `one` takes more than `other`, CPU seconds a GiB, round by round."""
    if not one or not other:
        return None
    return [(mine - theirs) / (amount / GIB) for mine, theirs in zip(figure(one, "cpu"), figure(other, "cpu"))]
