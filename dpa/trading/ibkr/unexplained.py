"""Positions that move without a fill of ours: made by hand, by another program, by the broker.

TWS tells every client of every position, but tells fills only to whoever placed the order. So
what we were told of fills is held against what we were told of positions.
"""

from decimal import Decimal

from dpa.trading.ibkr.contracts import decimal
from dpa.trading.types import Execution

_MOST_FILLS = 20_000
Key = tuple[str, str]  # account and symbol


class Unexplained:
    """Which positions the fills that were told do not explain."""

    def __init__(self) -> None:
        self._told: dict[Key, Decimal] = {}
        self._explained: dict[Key, Decimal] = {}
        self._fills: dict[str, tuple[int, Decimal]] = {}  # by stem: revision, signed shares

    def filled(self, fill: Execution) -> bool:
        """A fill was told; whether it is news."""
        revision, before = self._fills.get(fill.stem, (-1, Decimal(0)))
        if fill.revision <= revision:
            return False
        shares = fill.side.sign * fill.shares
        self._fills[fill.stem] = (fill.revision, shares)
        if len(self._fills) > _MOST_FILLS:
            del self._fills[next(iter(self._fills))]
        key = (fill.account, fill.symbol)
        if key in self._explained:
            self._explained[key] += shares - before
        return True

    def position(self, account: str, symbol: str, shares: float) -> None:
        """A position was told; the first word of one needs no explanation."""
        self._told[account, symbol] = decimal(shares)
        self._explained.setdefault((account, symbol), decimal(shares))

    def settled(self, complete: bool) -> None:
        """Everything was asked for: what is told now is how it is.

        Parameters
        ----------
        complete : bool
            Whether all positions were told, so that others are none.
        """
        self._explained = dict(self._told)
        if complete:
            self._explained = {k: shares for k, shares in self._explained.items() if shares}
            self._told = dict(self._explained)

    @property
    def any(self) -> bool:
        """Whether a position is not what the fills make of it."""
        return any(self._explained.get(k) != shares for k, shares in self._told.items())
