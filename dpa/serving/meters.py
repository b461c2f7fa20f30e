"""What is counted while serving, whoever collects it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from dpa.telemetry import catalogue
from dpa.telemetry.meters import Meters as Collector


class Meters(Protocol):
    """Counts and times of the stages."""

    def stage(self, name: str, seconds: float) -> None:
        """A stage took so long."""
        ...

    def decided(self, reasons: Mapping[str, int], actions: Mapping[str, int], level: str) -> None:
        """A decision with so many symbols a reason and an action, at a level of risk."""
        ...

    def family(self, name: str, ok: bool, why: str = "") -> None:
        """A family answered, or was left out because it was ``late`` or ``failed``."""
        ...

    def bundle(self, version: str, trained_until: datetime, refused: bool) -> None:
        """A bundle is in use, and the one that was promoted may have been refused."""
        ...


class NoMeters:
    """Counts nothing."""

    def stage(self, name: str, seconds: float) -> None: ...

    def decided(
        self, reasons: Mapping[str, int], actions: Mapping[str, int], level: str
    ) -> None: ...

    def family(self, name: str, ok: bool, why: str = "") -> None: ...

    def bundle(self, version: str, trained_until: datetime, refused: bool) -> None: ...


class ServingMeters:
    """:class:`Meters` as metrics of the catalogue.

    Parameters
    ----------
    meters : dpa.telemetry.meters.Meters
    """

    def __init__(self, meters: Collector) -> None:
        self._meters = meters
        self._served = ""

    def stage(self, name: str, seconds: float) -> None:
        """See :meth:`Meters.stage`."""
        self._meters.observe(catalogue.STAGE_SECONDS, seconds, stage=name)

    def decided(self, reasons: Mapping[str, int], actions: Mapping[str, int], level: str) -> None:
        """See :meth:`Meters.decided`."""
        self._meters.count(catalogue.DECISIONS, level=level)
        for name, count in reasons.items():
            self._meters.count(catalogue.DECISION_REASONS, count, reason=name)
        for name, count in actions.items():
            self._meters.count(catalogue.DECISION_ACTIONS, count, action=name)

    def family(self, name: str, ok: bool, why: str = "") -> None:
        """See :meth:`Meters.family`."""
        outcome = "ok" if ok else why
        self._meters.count(catalogue.FAMILY_ANSWERS, family=name, outcome=outcome)

    def bundle(self, version: str, trained_until: datetime, refused: bool) -> None:
        """See :meth:`Meters.bundle`."""
        if self._served not in ("", version):
            self._meters.gauge(catalogue.BUNDLE_SERVED, 0.0, bundle=self._served)
        self._served = version
        self._meters.gauge(catalogue.BUNDLE_SERVED, 1.0, bundle=version)
        self._meters.gauge(catalogue.BUNDLE_TRAINED_UNTIL, trained_until.timestamp())
        self._meters.gauge(catalogue.BUNDLE_REFUSED, float(refused))
