"""Cash that no trade explains is told, kept, and never taken over silently."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpa.trading.broker import Account
from dpa.trading.cash import DELAY, CashWatch, cash_difference, may_differ
from dpa.trading.clocks import VirtualClock
from dpa.trading.events import Alert, Severity
from dpa.trading.journal import Journal
from dpa.trading.places import Start
from dpa.trading.service import TradingService
from dpa.trading.status import Seen, status_of
from dpa.trading.status_words import status_words
from dpa.trading.switch import Level
from dpa.trading.types import Commission
from tests.trading.bookkeeping import an_execution
from tests.trading.dealing import ACCOUNT, NOON, desk, intent, run, scripted

QUIET = DELAY.total_seconds() + 60


def begun(folder: Path, **changes: object):
    """A dealer that bought 100 shares a while ago, of a broker that books what a test says."""
    made, broker = scripted(folder, **changes)
    run(made.dealer.start())
    return made, broker


def look(made) -> Level:
    made.wait(QUIET)
    found = run(made.dealer.reconcile())
    assert found.clean
    return made.switch.level


def told(made) -> list[tuple[str, str]]:
    return [(e.kind, e.severity.name) for e in made.told if isinstance(e, Alert)]


def test_cash_that_agrees_says_nothing(tmp_path: Path) -> None:
    made, _ = begun(tmp_path)
    assert look(made) is Level.RUNNING
    assert told(made) == []
    assert cash_difference(made.journal, ACCOUNT) == 0
    made.close()


@pytest.mark.parametrize("booked", ["0.02", "-35.17", "4999"])
def test_a_small_difference_is_told_once_and_traded_on(tmp_path: Path, booked: str) -> None:
    made, broker = begun(tmp_path)
    broker.booked = Decimal(booked)
    assert look(made) is Level.RUNNING
    assert look(made) is Level.RUNNING
    assert told(made) == [("cash-difference", "WARNING")]
    assert cash_difference(made.journal, ACCOUNT) == Decimal(booked)
    assert made.dealer.ledger.cash == 1_000_000, "the ledger was moved silently"
    made.close()


@pytest.mark.parametrize("booked", ["5001", "-20000"])
def test_a_large_one_adds_no_more_risk_until_a_person_says_so(tmp_path: Path, booked: str) -> None:
    made, broker = begun(tmp_path)  # 0.5 % of a million
    broker.booked = Decimal(booked)
    assert look(made) is Level.PAUSED
    assert run(made.send(intent(at=made.clock.now()))) == ["level"]
    assert ("paused", "CRITICAL") in told(made)
    made.switch.resume("Ada", "a deposit, to be adopted tonight", made.switch.read())
    assert look(made) is Level.RUNNING, "what a person has seen pauses no second time"
    broker.booked *= 3
    assert look(made) is Level.PAUSED
    made.close()


def test_a_pause_by_a_person_hides_no_large_difference(tmp_path: Path) -> None:
    """Who resumes from a pause of his own may not have seen it: it pauses then, once."""
    made, broker = begun(tmp_path)
    made.switch.pause("Bob", "lunch")
    broker.booked = Decimal(-300_000)
    look(made)
    assert told(made) == [("cash-difference", "WARNING")]
    made.switch.resume("Bob", "lunch is over", made.switch.read())
    assert look(made) is Level.PAUSED
    assert ("paused", "CRITICAL") in told(made)
    made.switch.resume("Ada", "seen: a withdrawal", made.switch.read())
    assert look(made) is Level.RUNNING
    made.close()


def test_adopting_takes_the_cash_over(tmp_path: Path) -> None:
    made, broker = begun(tmp_path)
    broker.booked = Decimal(250)
    look(made)
    service = TradingService(Start(settings=made.settings, storage=tmp_path.parent))
    status = partial(status_of, made.dealer, made.journal, broker, None)
    feed = SimpleNamespace(quotes=dict)
    service._trader = SimpleNamespace(  # type: ignore[assignment]
        dealer=made.dealer,
        status=lambda: status(feed, made.clock, made.settings, Seen(), None),
    )
    shown = service.status()
    assert shown["cash_difference"] == 250
    assert "the broker has 250.00 USD more than the ledger" in status_words(shown)
    assert len(shown["differences"]) == 1, "nothing for 'dpa trade adopt' to show"
    assert run(made.dealer.adopt("Ada", "a dividend")).clean
    assert service.status()["differences"] == []
    assert made.dealer.ledger.cash == 1_000_250
    assert cash_difference(made.journal, ACCOUNT) == 0
    assert told(made)[-1] == ("cash-difference", "INFO")
    made.close()


def test_it_is_known_after_a_restart_and_told_no_second_time(tmp_path: Path) -> None:
    made, broker = begun(tmp_path)
    broker.booked = Decimal(-77)
    look(made)
    made.close()
    again = desk(tmp_path, broker, made.clock)
    run(again.dealer.start())
    look(again)
    assert cash_difference(again.journal, ACCOUNT) == -77
    assert told(again) == []
    again.close()


class Books:
    """A journal with a fill of 1000 shares at 100, and what a watch says over it."""

    def __init__(self, folder: Path, fee: str | None = None) -> None:
        self.clock = VirtualClock(NOON)
        self.journal = Journal(folder / "journal.sqlite", self.clock)
        self.journal.set_baseline(ACCOUNT, (), Decimal(1_000_000), "flat")
        self.fill = an_execution("e1", 1000, 100, account=ACCOUNT, time=NOON, ref="")
        self.journal.executed(self.fill)
        if fee is not None:
            self.journal.charged(Commission(self.fill.exec_id, Decimal(fee)))
        self.told: list[Alert] = []
        self.paused: list[str] = []
        self.watch = CashWatch(self.journal, self.told.append, self.paused.append, 0.005)

    def look(self, cash: str, later: timedelta = DELAY, works: bool = False) -> Decimal:
        account = Account(ACCOUNT, Decimal(1_000_000), Decimal(cash))
        self.watch.look(account, NOON + later, works)
        return cash_difference(self.journal, ACCOUNT)


def test_a_fee_that_was_not_told_is_no_difference_up_to_what_a_fee_can_be(tmp_path: Path) -> None:
    books = Books(tmp_path)
    bought = books.fill.side.sign * 100_000
    assert may_differ(books.journal.ledger(ACCOUNT), NOON + DELAY) == Decimal("1000.01")
    assert books.look(str(1_000_000 - bought - 999)) == 0
    assert books.look(str(1_000_000 - bought - 1100)) == -1100
    assert [alert.severity for alert in books.told] == [Severity.WARNING]
    books.journal.charged(Commission(books.fill.exec_id, Decimal("1100")))
    assert books.look(str(1_000_000 - bought - 1100)) == 0
    assert books.told[-1].severity is Severity.INFO
    books.journal.close()


def test_a_fee_that_never_came_excuses_nothing_after_a_day(tmp_path: Path) -> None:
    books = Books(tmp_path)
    cash = str(1_000_000 - books.fill.side.sign * 100_000 - 900)
    assert books.look(cash) == 0
    assert books.look(cash, later=timedelta(days=1)) == -900
    books.journal.close()


def test_what_is_told_while_trades_are_young_or_orders_work_proves_nothing(tmp_path: Path) -> None:
    books = Books(tmp_path, fee="1")
    assert books.look("500000", later=DELAY / 2) == 0
    assert books.look("500000", works=True) == 0
    assert books.look("500000") != 0
    assert len(books.paused) == 1
    books.journal.close()


def test_cash_that_is_not_told_is_not_compared(tmp_path: Path) -> None:
    books = Books(tmp_path, fee="1")
    books.watch.look(Account(ACCOUNT, None, None), NOON + DELAY, works=False)
    assert books.told == []
    books.journal.close()
