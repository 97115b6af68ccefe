"""What a run found: tables, targets, rows that were not run, and the comparison with the base."""

import statistics

from .common import GIB, MIB


# What a row may cost more than with the base.
WITHIN = 1.03


class Report:
    def __init__(self, base=False):
        self.sections, self.not_run, self.targets, self.commands, self.pairs = [], [], [], [], []
        self.base, self.broken = base, False

    def skip(self, row, why):
        print(f"{row}: NOT RUN: {why}", flush=True)
        self.not_run.append(f"**{row}**: {why}")

    def table(self, title, clients, amount, stored=False):
        lines = [f"### {title}", "", "| client | wall s | CPU s | CPU s/GiB | RSS MiB |" + (" stored MiB |" if stored else ""),
                 "|---|---|---|---|---|" + ("---|" if stored else "")]
        for client in clients:
            if client.failure:
                self.broken |= not client.peer
                lines.append(f"| {client.name} | failed: {client.failure.replace('|', '/')} | | | |" + (" |" if stored else ""))
                continue
            wall, cpu, rss = (client.median(field) for field in ("wall", "cpu", "rss"))
            line = f"| {client.name} | {wall:.2f} | {cpu:.2f} | {cpu / (amount / GIB):.2f} | {rss:.0f} |"
            if stored:
                line += f" {statistics.median(client.stored) / MIB:.1f} |" if client.stored else " |"
            lines.append(line)
        self.sections.append("\n".join(lines))
        self.pairs += [(title.split(":")[0], own, base) for own in clients for base in clients
                       if not own.failure and not base.failure and own.name.replace("penstock", "base", 1) == base.name != own.name]
        self.commands += [f"{title.split(':')[0]} {client.name}: `{client.shown().replace('|', chr(92) + '|')}`" for client in clients]

    def target(self, text, value, limit):
        if value is None or limit is None:
            # Without other programs there is nothing to hold it against.
            if not self.base:
                self.targets.append(f"{text}: not measured")
        else:
            self.targets.append(f"{text}: {value:.2f}, limit {limit:.2f}: {'met' if value <= limit else '**missed**'}")

    def comparison(self):
        """Both medians and the ratio of the two; beside it the quartiles of the ratios round by round, which show the noise."""
        lines = ["### Against the base", "", f"At most {WITHIN:.2f} times the base's median.", "",
                 "| row | figure | penstock | base | ratio | quartiles by round | |", "|---|---|---|---|---|---|---|"]
        for row, own, base in self.pairs:
            for field in ("wall", "cpu", "rss"):
                rounds = [one[field] / other[field] for one, other in zip(own.runs, base.runs)]
                low, _, high = statistics.quantiles(rounds, n=4) if len(rounds) > 1 else rounds * 3
                ratio = own.median(field) / base.median(field)
                lines.append(f"| {row} {own.name} | {field} | {own.median(field):.2f} | {base.median(field):.2f} | {ratio:.3f} | "
                             f"{low:.3f} to {high:.3f} | {'met' if ratio <= WITHIN else '**missed**'} |")
        self.sections.append("\n".join(lines))


def by_name(clients, start):
    """The first client of that name which has figures."""
    return next((client for client in clients if client.name.startswith(start) and client.runs and not client.failure), None)


def figure(client, field, factor=1.0):
    return client.median(field) * factor if client else None
