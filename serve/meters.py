"""Counts and times of the graph in Ray's metrics, on every node's metrics port as ``ray_dpa_*``."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Histogram

MILLISECONDS = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0]


class RayMeters:
    """See :class:`dpa.serving.meters.Meters`."""

    def __init__(self) -> None:
        self._stages = Histogram(
            "dpa_stage_milliseconds",
            "Time from a call of a stage to its answer, milliseconds",
            MILLISECONDS,
            ("stage",),
        )
        self._decisions = Counter("dpa_decisions", "Decisions answered")
        self._reasons = Counter(
            "dpa_decision_reasons", "Symbols of decisions by why not more is traded", ("reason",)
        )
        self._actions = Counter(
            "dpa_decision_actions", "Symbols of decisions by what is done", ("action",)
        )
        self._families = Counter(
            "dpa_family_answers",
            "Forecasts asked of a family by outcome: ok, late, failed",
            ("family", "outcome"),
        )

    def stage(self, name: str, seconds: float) -> None:
        """A stage took so long."""
        self._stages.observe(max(seconds * 1e3, 1e-3), {"stage": name})

    def decided(self, reasons: Mapping[str, int], actions: Mapping[str, int]) -> None:
        """A decision with so many symbols a reason and an action."""
        self._decisions.inc()
        for name, count in reasons.items():
            if count:
                self._reasons.inc(count, {"reason": name})
        for name, count in actions.items():
            if count:
                self._actions.inc(count, {"action": name})

    def family(self, name: str, ok: bool, why: str = "") -> None:
        """A family answered, or was left out because it was ``late`` or ``failed``."""
        self._families.inc(1, {"family": name, "outcome": "ok" if ok else why})
