"""Positions, cash, profit and fees, folded from fills that this program was told of itself.

The sum does not depend on the order in which executions, corrections and commissions came: a
fill counts once, with its highest revision, at its own moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from dpa.trading.types import Commission, Execution, Money, Position


@dataclass(frozen=True)
class Fill:
    """A fill that counts, in the ledger.

    Parameters
    ----------
    execution : Execution
        Its highest revision.
    realised : Decimal
        Profit against the average cost, USD, without fees.
    fee : Decimal, optional
        USD; None: not told yet.
    position : Decimal
        Shares afterwards.
    """

    execution: Execution
    realised: Money
    fee: Money | None
    position: Decimal


@dataclass(frozen=True)
class Baseline:
    """What an account held when counting began.

    Parameters
    ----------
    positions : tuple of Position
    cash : Decimal
        USD.
    covered : mapping of str to Execution
        By stem: the fills these positions hold already. Only a later correction of one counts,
        by its difference.
    time : datetime, optional
    """

    positions: tuple[Position, ...] = ()
    cash: Money = Decimal(0)
    covered: Mapping[str, Execution] = field(default_factory=dict)
    time: datetime | None = None


class Ledger:
    """Books of one account.

    Parameters
    ----------
    account : str
    baseline : Baseline
    executions : sequence of Execution
        In any order, with repeats and corrections; those of other accounts are refused.
    commissions : sequence of Commission
    """

    def __init__(
        self,
        account: str,
        baseline: Baseline | None = None,
        executions: Sequence[Execution] = (),
        commissions: Sequence[Commission] = (),
    ) -> None:
        raise NotImplementedError

    def execute(self, execution: Execution) -> bool:
        """Book a fill or its correction; False when it was known or an older revision."""
        raise NotImplementedError

    def charge(self, commission: Commission) -> bool:
        """Book a fee; False when it was known. It may come before its execution."""
        raise NotImplementedError

    @property
    def positions(self) -> dict[str, Position]:
        """By symbol; flat ones are left out."""
        raise NotImplementedError

    def position(self, symbol: str) -> Position:
        """Of a symbol, flat where there is none."""
        raise NotImplementedError

    @property
    def cash(self) -> Money:
        """USD, after fees."""
        raise NotImplementedError

    @property
    def realised(self) -> Money:
        """Profit of what was closed, USD, before fees."""
        raise NotImplementedError

    @property
    def fees(self) -> Money:
        """Fees told so far, USD."""
        raise NotImplementedError

    @property
    def fees_pending(self) -> tuple[str, ...]:
        """Ids of executions whose fee was not told."""
        raise NotImplementedError

    @property
    def foreign_fees(self) -> tuple[Commission, ...]:
        """Fees in other currencies; they are in no sum."""
        raise NotImplementedError

    @property
    def fills(self) -> tuple[Fill, ...]:
        """What counts, by moment; taken back ones and those before the baseline left out."""
        raise NotImplementedError

    def unrealised(self, marks: Mapping[str, Money]) -> Money | None:
        """Profit of open positions at prices, USD; None where the price of one is missing."""
        raise NotImplementedError

    def nav(self, marks: Mapping[str, Money]) -> Money | None:
        """Cash and positions at prices, USD; None where the price of one is missing."""
        raise NotImplementedError
