"""Meters that remember what they were told."""

from dpa.telemetry.catalogue import Metric

Key = tuple[str, tuple[tuple[str, str], ...]]


class Recorded:
    """Sums of counters, newest values of gauges, all observations, by name and tags."""

    def __init__(self) -> None:
        self.counts: dict[Key, float] = {}
        self.gauges: dict[Key, float] = {}
        self.observed: dict[Key, list[float]] = {}
        self.metrics: set[Metric] = set()

    def count(self, metric: Metric, amount: float = 1.0, **tags: str) -> None:
        """See :class:`dpa.telemetry.meters.Meters`."""
        key = self._key(metric, tags)
        self.counts[key] = self.counts.get(key, 0.0) + amount

    def gauge(self, metric: Metric, value: float | None, **tags: str) -> None:
        """See :class:`dpa.telemetry.meters.Meters`."""
        key = self._key(metric, tags)
        if value is not None:
            self.gauges[key] = value

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        """See :class:`dpa.telemetry.meters.Meters`."""
        self.observed.setdefault(self._key(metric, tags), []).append(value)

    def of(self, metric: Metric, **tags: str) -> float:
        """The number of a counter or gauge."""
        key = self._key(metric, tags)
        return self.counts[key] if key in self.counts else self.gauges[key]

    def _key(self, metric: Metric, tags: dict[str, str]) -> Key:
        assert set(tags) == set(metric.tags), metric.name
        self.metrics.add(metric)
        return metric.name, tuple(sorted(tags.items()))
