"""Meters in Ray's metrics, as in serve/meters.py: tune/ stands alone on a cluster."""

from ray.util.metrics import Counter, Gauge, Histogram

from dpa.telemetry.meters import InstrumentMeters


def ray_meters() -> InstrumentMeters:
    """Meters whose numbers Ray exports."""
    return InstrumentMeters(Counter, Gauge, Histogram)
