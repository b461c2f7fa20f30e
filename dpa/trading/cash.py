"""The cash of the ledger beside the broker's: what was booked there that is no trade of ours.

Dividends, interest, borrow fees, deposits and fees of data reach no ledger of fills. They are never
taken over silently: a difference is kept, told once, and stays until a person adopts what the
broker has; a large one pauses trading, since its size rests on that cash.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

from dpa.trading.broker import Account
from dpa.trading.events import Alert, Event, Severity
from dpa.trading.journal import Journal
from dpa.trading.journal_reader import JournalReader
from dpa.trading.ledger import Ledger
from dpa.trading.types import Money

NAME = "cash-difference"
CENT = Decimal("0.01")  # cash is told to the cent, and fees exactly
LEAST_FEE, FEE_SHARE = (
    Decimal(1),
    Decimal("0.01"),
)  # of a fill; no broker takes more than the larger
FEE_DELAY = timedelta(days=1)  # TWS tells fees of the day's fills only: an older one never comes
DELAY = timedelta(minutes=4)  # TWS tells cash as it was up to three minutes ago
_ZERO = Decimal(0)


def cash_difference(journal: JournalReader, account: str) -> Money:
    """The difference that was found last: the broker's cash less the ledger's, USD."""
    return Decimal((journal.value(f"{NAME}:{account}") or {}).get("usd", "0"))


def may_differ(ledger: Ledger, now: datetime) -> Money:
    """By how much the two may differ though nothing is wrong, USD: a cent, and fees to come."""
    pending = [fill.execution for fill in ledger.fills if fill.fee is None]
    awaited = [e for e in pending if now - e.time < FEE_DELAY]
    return CENT + sum((max(LEAST_FEE, FEE_SHARE * e.shares * e.price) for e in awaited), _ZERO)


class CashWatch:
    """Compares at every clean snapshot.

    Parameters
    ----------
    journal : Journal
        Keeps the difference.
    publish : callable
    pause : callable
        Called with the reason where a difference is too large to add risk on.
    share : float
        Of NAV; from there on it is too large.
    """

    def __init__(
        self,
        journal: Journal,
        publish: Callable[[Event], None],
        pause: Callable[[str], None],
        share: float,
    ) -> None:
        self._journal, self._publish, self._pause = journal, publish, pause
        self._share = Decimal(str(share))

    def look(self, told: Account, now: datetime, works: bool, adds: bool = True) -> None:
        """Compare, where both sides speak of the same moment.

        Parameters
        ----------
        told : Account
            As the broker has it.
        now : datetime
        works : bool
            Whether an order of ours may fill.
        adds : bool
            Whether risk may be added. While not, nothing pauses, and nobody has seen what would:
            a large difference pauses once it may again.
        """
        ledger = self._journal.ledger(told.name)
        if told.cash is None or works or (ledger.newest and now - ledger.newest < DELAY):
            return
        difference, slack = told.cash - ledger.cash, may_differ(ledger, now)
        if abs(difference) <= slack:
            difference = _ZERO
        kept = self._journal.value(f"{NAME}:{told.name}") or {}
        before, paused = Decimal(kept.get("usd", "0")), Decimal(kept.get("paused", "0"))
        limit = _ZERO if told.nav is None else self._share * abs(told.nav)
        large = adds and difference and abs(difference - paused) > max(limit, slack)
        if abs(difference - before) <= (slack if difference else _ZERO) and not large:
            return
        if large:
            self._pause(f"cash: {difference_words(difference)}: too much to add risk on")
        facts = {"usd": str(difference), "paused": str(difference if large else paused)}
        facts |= {"ledger": str(ledger.cash), "broker": str(told.cash), "at": now.isoformat()}
        with self._journal.transaction():
            self._journal.set_value(f"{NAME}:{told.name}", facts if difference else {})
            self._journal.note(NAME, facts)
        self._say(now, difference, told.cash, ledger.cash)

    def _say(self, now: datetime, difference: Money, theirs: Money, ours: Money) -> None:
        if not difference:
            self._publish(
                Alert(now, Severity.INFO, NAME, "the broker's cash is the ledger's again")
            )
            return
        what = (
            f"cash: {difference_words(difference)} ({theirs:,.2f} and {ours:,.2f} USD); it may be "
        )
        what += "a dividend, interest, a fee or a deposit: 'dpa trade adopt' takes it over"
        self._publish(Alert(now, Severity.WARNING, NAME, what))


def difference_words(difference: Money | float) -> str:
    """A difference in words."""
    more = "more" if difference > 0 else "less"
    return (
        f"the broker has {abs(difference):,.2f} USD {more} than the ledger, and no trade says why"
    )
