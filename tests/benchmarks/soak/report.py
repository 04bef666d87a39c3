"""What changed between the first and the last tenth of a soak, and whether it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.benchmarks.soak.processes import MIB

MOST = 0.05
"""Growth, as a part of what there was, beyond which a soak has failed."""

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Something that is the same after two hours.

    Attributes
    ----------
    values : of a sample
    must : what a sample cannot do without, in the same unit, because the runs have grown
    percentile : of the values of a tenth that is compared
    judged : whether growth is a failure
    """

    name: str
    values: Callable[[Sample], Sequence[float]]
    must: Callable[[Sample], float] = lambda sample: 0.0
    percentile: float = 50.0
    judged: bool = True


def of_server(name, scale=1.0):
    """Return what takes a value of the server from a sample."""
    return lambda sample: [sample["server"][name] / scale] if sample["server"] else []


def of_each(kind, name, scale=1.0):
    """Return what takes the mean of the processes of one kind from a sample."""

    def mean(sample):
        values = [process[name] for process in sample[f"{kind}s"] if process]
        return [float(np.mean(values)) / scale] if values else []

    return mean


def tables(sample):
    """Return MiB of the committed rows of all runs without their descriptors: the server holds them once, for all."""
    return sum(run["rows"] - run["features"] for run in sample["runs"].values()) / MIB


def tables_each(sample):
    """Return MiB of the committed rows of a run: its learner holds them."""
    return sum(run["rows"] for run in sample["runs"].values()) / MIB / len(sample["runs"])


def milliseconds(name):
    """Return what takes delays that clients saw from a sample."""
    return lambda sample: [1e3 * delay for delay in sample["clients"][name]]


def disk_per_shot(sample):
    """Return kB of all runs for each shot."""
    shots = sum(run["shots"] for run in sample["runs"].values())
    return [sample["disk"][0] / 1e3 / shots] if sample["disk"] else []


METRICS = (
    Metric(name="server: memory of its own, MiB", values=of_server("uss", MIB), must=tables),
    Metric(name="server: resident memory, MiB", values=of_server("rss", MIB), must=tables),
    Metric(name="server: open files", values=of_server("files")),
    Metric(name="server: sockets", values=of_server("sockets")),
    Metric(name="server: threads", values=of_server("threads")),
    Metric(name="processes of the server", values=lambda sample: [sample["children"]]),
    *(
        Metric(name=f"{kind}: {what}", values=of_each(kind, name, scale), must=must)
        for kind in ("shooter", "learner", "analyst")
        for what, name, scale, must in (
            ("memory of its own, MiB", "uss", MIB, tables_each if kind != "shooter" else lambda sample: 0.0),
            ("open files", "files", 1.0, lambda sample: 0.0),
            ("threads", "threads", 1.0, lambda sample: 0.0),
        )
    ),
    Metric(name="disk, kB per shot", values=disk_per_shot),
    Metric(name="from a commit to a client, ms", values=milliseconds("update")),
    Metric(name="the same at 95 %", values=milliseconds("update"), percentile=95.0),
    Metric(name="a click on a tab, ms", values=milliseconds("click")),
    Metric(name="a page opens, ms", values=milliseconds("opening")),
    Metric(name="server: processor, % of a core", values=lambda s: [100 * s["server"]["seconds"] / s["took"]]),
    Metric(name="shots per second", values=lambda s: [s["new_shots"] / s["took"]], judged=False),
    Metric(name="data of the runs in memory, MiB", values=lambda sample: [tables(sample)], judged=False),
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A metric in the first and the last tenth.

    Attributes
    ----------
    first, last : medians
    must : by how much it must have grown
    scatter : by how much neighbouring tenths differ, in the median
    """

    metric: Metric
    first: float
    last: float
    must: float
    scatter: float

    @property
    def grown(self):
        """Growth beyond what must be, as a part of what there was."""
        grown = self.last - self.first - self.must
        return grown / self.first if self.first else float(grown > 0)

    @property
    def failed(self):
        """Whether it has grown by more than it may, and by more than it goes up and down."""
        grown = self.last - self.first - self.must
        return self.metric.judged and self.grown > MOST and grown > 2 * self.scatter


def changes(samples):
    """Return how every metric changed between the tenths of a soak."""
    tenths = [[samples[i] for i in part] for part in np.array_split(np.arange(len(samples)), min(10, len(samples)))]
    result = []
    for metric in METRICS:
        pooled = [[value for sample in part for value in metric.values(sample)] for part in tenths]
        middle = [np.percentile(values, metric.percentile) for values in pooled if values]
        if not middle:
            continue
        musts = [np.mean([metric.must(sample) for sample in part]) for part in (tenths[0], tenths[-1])]
        scatter = float(np.median(np.abs(np.diff(middle)))) if len(middle) > 1 else 0.0
        result.append(
            Change(metric=metric, first=middle[0], last=middle[-1], must=musts[1] - musts[0], scatter=scatter)
        )
    return result


def table(found):
    """Return changes as a Markdown table."""
    rows = ["| | first tenth | last tenth | must grow by | change after that |", "| --- | --- | --- | --- | --- |"]
    for change in found:
        verdict = " **failed**" if change.failed else "" if change.metric.judged else " (not judged)"
        must = f"{change.must:.3g}" if change.must else ""
        tenths = f"{change.first:,.4g} | {change.last:,.4g}"
        rows.append(f"| {change.metric.name} | {tenths} | {must} | {change.grown:+.1%}{verdict} |")
    return "\n".join(rows)
