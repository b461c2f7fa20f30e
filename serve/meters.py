"""Meters in Ray's metrics: on every node's metrics port, each name with ``ray_`` before it."""

from ray.util.metrics import Counter, Gauge, Histogram

from dpa.telemetry.meters import InstrumentMeters


def ray_meters() -> InstrumentMeters:
    """Meters whose numbers Ray exports."""
    return InstrumentMeters(Counter, Gauge, Histogram)
