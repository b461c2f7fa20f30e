"""What is counted while serving, whoever collects it."""

from collections.abc import Mapping
from typing import Protocol


class Meters(Protocol):
    """Counts and times of the stages; the Ray implementation lives in serve/."""

    def stage(self, name: str, seconds: float) -> None:
        """A stage took so long."""
        ...

    def decided(self, reasons: Mapping[str, int], actions: Mapping[str, int]) -> None:
        """A decision with so many symbols a reason and an action."""
        ...

    def family(self, name: str, ok: bool, why: str = "") -> None:
        """A family answered, or was left out because it was ``late`` or ``failed``."""
        ...


class NoMeters:
    """Counts nothing."""

    def stage(self, name: str, seconds: float) -> None: ...

    def decided(self, reasons: Mapping[str, int], actions: Mapping[str, int]) -> None: ...

    def family(self, name: str, ok: bool, why: str = "") -> None: ...
