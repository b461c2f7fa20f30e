"""What is asked of Prometheus and shown: queries over metrics of the catalogue, panels, rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dpa.telemetry.catalogue import Kind, Metric

WINDOW: Final = "$__rate_interval"  # Grafana puts in a window that fits the scrape interval
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"


@dataclass(frozen=True)
class Query:
    """One question in PromQL.

    Parameters
    ----------
    expr : str
    legend : str
        Name of each series; ``{{tag}}`` stands for the value of a tag.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture.

    Parameters
    ----------
    title : str
    words : str
        What it tells, and what to do when it looks wrong.
    queries : tuple of Query
    unit : str
        Grafana's name of it, such as ``s`` or ``percentunit``.
    kind : {"timeseries", "stat"}
    width : int
        Of 24 columns.
    steps : tuple of (float, str)
        From which value on which colour; below the first one it is green.
    values : tuple of (float, str, str)
        Words and colour in the place of a number.
    decimals : int, optional
    low, high : float, optional
        Ends of the axis.
    stacked : bool
    """

    title: str
    words: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    values: tuple[tuple[float, str, str], ...] = ()
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard.

    Parameters
    ----------
    name : str
        Of its file, and the end of its identity.
    title, words : str
    rows : tuple of Row
    since : str
        Beginning of what is shown at first, such as ``now-1h``.
    run : bool
        Whether a run can be chosen.
    """

    name: str
    title: str
    words: str
    rows: tuple[Row, ...]
    since: str = "now-1h"
    run: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)


def by(tags: Sequence[str]) -> str:
    """``by (a, b) ``, or nothing."""
    return f"by ({', '.join(tags)}) " if tags else ""


def per_second(metric: Metric, *tags: str, where: str = "") -> str:
    """Growth a second of a counter, over processes, by `tags`."""
    return f"sum {by(tags)}(rate({metric.exported}{where}[{WINDOW}]))"


def total(metric: Metric, *tags: str, where: str = "", zero: bool = False) -> str:
    """Sum of a counter over processes; 0 where it never counted, when `zero`."""
    counted = f"sum {by(tags)}({metric.exported}{where})"
    return f"{counted} or on () {nothing(*tags)}" if zero else counted


def nothing(*tags: str) -> str:
    """0, as a series whose tags say that there is none."""
    found = "vector(0)"
    for tag in tags:
        found = f'label_replace({found}, "{tag}", "none", "", "")'
    return found


def newest(metric: Metric, *tags: str, where: str = "") -> str:
    """A gauge, whichever process tells it."""
    return f"max {by(tags)}({metric.exported}{where})"


def quantile(share: float, metric: Metric, *tags: str, where: str = "") -> str:
    """A quantile of a histogram, over what was observed lately."""
    return (
        f"histogram_quantile({share:g}, sum {by(('le', *tags))}"
        f"(rate({_of(metric)}_bucket{where}[{WINDOW}])))"
    )


def mean(metric: Metric, *tags: str, where: str = "") -> str:
    """Mean of a histogram, over all that was observed."""
    name = _of(metric)
    return f"sum {by(tags)}({name}_sum{where}) / sum {by(tags)}({name}_count{where})"


def _of(metric: Metric) -> str:
    if metric.kind is not Kind.HISTOGRAM:
        raise TypeError(f"{metric.name} is no histogram")
    return metric.exported
