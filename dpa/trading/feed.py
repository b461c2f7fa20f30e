"""What the engine asks of a source of bars and quotes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from dpa.market.panel import Panel
from dpa.trading.types import Quote


@dataclass(frozen=True)
class FeedBar:
    """A bar of all symbols, closed.

    Parameters
    ----------
    panel : Panel of one bar
        ``panel.times[0]`` is its close, UTC; NaN and mask False where a symbol has none.
    known_at : datetime
        When it was whole, or was given up waiting for.
    missing : tuple of str
        Symbols that should have had a bar and had none in time.
    late : bool
        It came after its deadline.
    """

    panel: Panel
    known_at: datetime
    missing: tuple[str, ...] = ()
    late: bool = False


@runtime_checkable
class SharesLines(Protocol):
    """A feed that may have fewer lines than symbols."""

    def hold(self, held: Collection[str]) -> None:
        """From now on these are held: they get lines before all others. Never waits."""
        ...


class Feed(Protocol):
    """Bars and quotes of a list of symbols.

    Nothing here waits: the engine asks at moments of its own choosing, so that the same engine
    runs by the wall clock and, in a replay, from one simulated moment to the next.
    """

    @property
    def symbols(self) -> tuple[str, ...]:
        """All that are followed, sorted."""
        ...

    async def start(self, symbols: Sequence[str], held: Collection[str] = ()) -> None:
        """Follow symbols; those that are held come first where lines are few."""
        ...

    async def stop(self) -> None:
        """Follow nothing."""
        ...

    def due(self, now: datetime) -> tuple[FeedBar, ...]:
        """Bars not given before that are whole, or overdue, at `now`; each once, in order."""
        ...

    def quotes(self) -> Mapping[str, Quote]:
        """The newest quote of each symbol that has one."""
        ...

    @property
    def newest_tick_at(self) -> datetime | None:
        """When anything last came."""
        ...

    @property
    def ended(self) -> bool:
        """Whether no bar will ever come any more."""
        ...
