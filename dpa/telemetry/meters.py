"""What counts, whoever collects it: a protocol for the rooms below Ray, and a guarded collector.

Whatever happens here hurts nobody: a number that is none is left out, a tag too many becomes
``other``, an instrument that fails is logged once. Trading and serving go on.
"""

import logging
import math
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from dpa.telemetry.catalogue import Kind, Metric

OTHER: Final = "other"
LONGEST_TAG: Final = 80  # characters
log = logging.getLogger("dpa.telemetry")


class Meters(Protocol):
    """Takes numbers of metrics of the catalogue. Never raises for what a number is."""

    def count(self, metric: Metric, amount: float = 1.0, **tags: str) -> None:
        """So many more; nothing where that is not above 0."""
        ...

    def gauge(self, metric: Metric, value: float | None, **tags: str) -> None:
        """It is so much now; nothing where that is not known."""
        ...

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        """It took so long this time."""
        ...


class NoMeters:
    """Counts nothing."""

    def count(self, metric: Metric, amount: float = 1.0, **tags: str) -> None: ...

    def gauge(self, metric: Metric, value: float | None, **tags: str) -> None: ...

    def observe(self, metric: Metric, value: float, **tags: str) -> None: ...


NO_METERS: Final = NoMeters()


class InstrumentMeters:
    """Meters over instruments of somebody else, made when they are first used.

    Parameters
    ----------
    counter, gauge : callable
        Take name, help and names of tags; make what has ``inc(amount, tags)``, ``set(value,
        tags)``. Those of ``ray.util.metrics`` do.
    histogram : callable
        Takes name, help, bounds and names of tags; makes what has ``observe(value, tags)``.

    Notes
    -----
    A value that is not finite is left out, so that the newest known one stays; when it was known
    is a metric of its own. Of each metric so many sets of tags are exported as the catalogue
    says; what comes after is counted as ``other``.
    """

    def __init__(
        self,
        counter: Callable[..., Any],
        gauge: Callable[..., Any],
        histogram: Callable[..., Any],
    ) -> None:
        self._makers = {Kind.COUNTER: counter, Kind.GAUGE: gauge, Kind.HISTOGRAM: histogram}
        self._instruments: dict[str, Any] = {}
        self._seen: dict[str, set[tuple[str, ...]]] = {}
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._makers[kind] for kind in Kind)

    def count(self, metric: Metric, amount: float = 1.0, **tags: str) -> None:
        """See :meth:`Meters.count`."""
        self._give(metric, Kind.COUNTER, "inc", amount, tags)

    def gauge(self, metric: Metric, value: float | None, **tags: str) -> None:
        """See :meth:`Meters.gauge`."""
        if value is not None:
            self._give(metric, Kind.GAUGE, "set", value, tags)

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        """See :meth:`Meters.observe`."""
        self._give(metric, Kind.HISTOGRAM, "observe", max(value, 0.0), tags)

    def _give(
        self, metric: Metric, kind: Kind, do: str, value: float, tags: dict[str, str]
    ) -> None:
        if metric.kind is not kind or set(tags) != set(metric.tags):
            raise TypeError(f"{metric.name} is a {metric.kind} with tags {metric.tags}, not {tags}")
        number = float(value)
        if not math.isfinite(number) or (kind is Kind.COUNTER and number <= 0):
            return
        try:
            with self._lock:
                instrument = self._instrument(metric)
                bounded = self._bounded(metric, tags)
            getattr(instrument, do)(number, bounded)
        except Exception:  # a foreign collector: what is measured goes on without it
            if metric.name not in self._failed:
                self._failed.add(metric.name)
                log.warning("metric %s cannot be exported", metric.name, exc_info=True)

    def _instrument(self, metric: Metric) -> Any:
        if metric.name not in self._instruments:
            make = self._makers[metric.kind]
            bounds = (list(metric.buckets),) if metric.kind is Kind.HISTOGRAM else ()
            self._instruments[metric.name] = make(metric.name, metric.help, *bounds, metric.tags)
        return self._instruments[metric.name]

    def _bounded(self, metric: Metric, tags: dict[str, str]) -> dict[str, str]:
        clean = {name: str(tags[name])[:LONGEST_TAG] for name in metric.tags}
        seen = self._seen.setdefault(metric.name, set())
        key = tuple(clean.values())
        if key in seen:
            return clean
        if len(seen) >= metric.most:
            return dict.fromkeys(metric.tags, OTHER)
        seen.add(key)
        return clean
