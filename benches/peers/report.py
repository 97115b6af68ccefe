"""What a run found: tables, targets, rows that were not run, and the comparison with the base."""

import statistics

from .common import GIB, MIB


# What a row may cost more than with the base.
WITHIN = 1.03


def quartiles(values):
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return low, high


def verdict(shares):
    """`shares` are value / limit, round by round: met where three quarters of the rounds are within it, missed where three quarters are
    beyond it; what lies between is noise."""
    low, high = quartiles(shares)
    return "met" if high <= 1 else "**missed**" if low > 1 else "**undecided**"


def spread(client, field):
    """The median, and the least and the most of all rounds."""
    values = [run[field] for run in client.runs]
    text = f"{statistics.median(values):.2f}"
    return text if len(values) == 1 else f"{text} ({min(values):.2f}–{max(values):.2f})"


class Report:
    def __init__(self, base_only=False):
        self.sections, self.not_run, self.targets, self.commands, self.pairs = [], [], [], [], []
        self.base_only, self.broken, self.idle_rss = base_only, False, None

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
            line = (f"| {client.name} | {spread(client, 'wall')} | {spread(client, 'cpu')} | {client.median('cpu') / (amount / GIB):.2f} | "
                    f"{client.median('rss'):.0f} |")
            if stored:
                line += f" {statistics.median(client.stored) / MIB:.1f} |" if client.stored else " |"
            lines.append(line)
        self.sections.append("\n".join(lines))
        self.pairs += [(title.split(":")[0], own, base) for own in clients for base in clients
                       if not own.failure and not base.failure and own.name.replace("penstock", "base", 1) == base.name != own.name]
        self.commands += [f"{title.split(':')[0]} {client.name}: `{client.shown().replace('|', chr(92) + '|')}`" for client in clients]

    def target(self, text, value, limit):
        """Each is a number, or a list with one for each round (`figure`)."""
        if value is None or limit is None:
            # Without other programs there is nothing to hold it against.
            if not self.base_only:
                self.targets.append(f"{text}: not measured")
            return
        values = value if isinstance(value, list) else [value]
        limits = limit if isinstance(limit, list) else [limit] * len(values)
        shares = [one / most for one, most in zip(values, limits)]
        line = f"{text}: {statistics.median(values):.2f}, limit {statistics.median(limits):.2f}: {verdict(shares)}"
        if len(shares) > 1:
            low, high = quartiles(shares)
            line += f" ({low:.2f} to {high:.2f} of the limit)"
        self.targets.append(line)

    def comparison(self):
        """Both medians and the ratio of the two; beside it the quartiles of the ratios round by round, which show the noise."""
        lines = ["### Against the base", "", f"At most {WITHIN:.2f} times the base's, by the rule of the targets.", "",
                 "| row | figure | penstock | base | ratio | quartiles by round | |", "|---|---|---|---|---|---|---|"]
        for row, own, base in self.pairs:
            for field in ("wall", "cpu", "rss"):
                rounds = [one[field] / other[field] for one, other in zip(own.runs, base.runs)]
                low, high = quartiles(rounds)
                ratio = own.median(field) / base.median(field)
                lines.append(f"| {row} {own.name} | {field} | {own.median(field):.2f} | {base.median(field):.2f} | {ratio:.3f} | "
                             f"{low:.3f} to {high:.3f} | {verdict([one / WITHIN for one in rounds])} |")
        self.sections.append("\n".join(lines))


def by_name(clients, start):
    """The first client of that name which has figures."""
    return next((client for client in clients if client.name.startswith(start) and client.runs and not client.failure), None)


def figure(client, field, factor=1.0):
    """One for each round."""
    return [run[field] * factor for run in client.runs] if client else None


def best(clients, field="wall"):
    """The one with the least median of those which have figures."""
    return min((client for client in clients if client.runs and not client.failure), key=lambda client: client.median(field), default=None)
