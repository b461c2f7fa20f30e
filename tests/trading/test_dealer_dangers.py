"""Dangers to an account that were found by trying to lose money, each shown to be averted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.errors import UserError
from dpa.trading.broker import BrokerSnapshot
from dpa.trading.switch import Level
from dpa.trading.types import Order, Position, Purpose
from tests.trading.dealing import ACCOUNT, Desk, desk, intent, run, scripted


@contextmanager
def trading(folder: Path, **changes: Any) -> Iterator[tuple[Desk, Any]]:
    """A dealer that has started, over a scripted broker."""
    made, broker = scripted(folder, **changes)
    run(made.dealer.start())
    try:
        yield made, broker
    finally:
        assert made.journal.verify() == ()
        made.close()


def telling(made: Desk, **changes: Any) -> None:
    """The broker's snapshots say something else of the account from now on."""
    ask = made.broker.snapshot

    async def snapshot() -> BrokerSnapshot:
        found: BrokerSnapshot = await ask()
        return replace(found, account=replace(found.account, **changes))

    made.broker.snapshot = snapshot


# the first start


def test_fills_of_today_by_hand_stay_in_the_books_at_the_first_start(tmp_path: Path) -> None:
    made = desk(tmp_path)
    run(made.broker.connect())
    made.broker.on_quotes(made.quotes(), made.clock.now())
    run(made.broker.place(Order(intent(shares=100, decision="by hand", id="manual-1"), 1, 5)))
    made.wait(30)
    assert run(made.dealer.start()).clean
    assert made.dealer.positions == {"AAPL": 100}
    assert made.dealer.ledger.cash == made.broker.book.cash
    made.broker.on_quotes(made.quotes(), made.clock.now())
    assert run(made.send(intent(shares=50, decision="d1", at=made.clock.now()))) == []
    assert made.dealer.positions["AAPL"] == made.broker.book.shares("AAPL") == 150
    made.wait(30)
    assert run(made.dealer.reconcile()).clean
    made.close()


def test_an_account_whose_cash_is_not_told_is_not_taken_for_empty(tmp_path: Path) -> None:
    made, _ = scripted(tmp_path)
    telling(made, cash=None)
    run(made.dealer.start())
    assert made.switch.level is Level.HALTED
    assert made.journal.baseline(ACCOUNT) is None
    with pytest.raises(UserError, match="cash"):
        run(made.dealer.adopt("Ada", "looked at both"))
    made.close()


# limits on weights


def test_no_risk_is_added_while_the_nav_is_not_known(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, _):
        telling(made, nav=None)
        made.wait(20)
        run(made.dealer.reconcile())
        now = made.clock.now()
        assert run(made.send(intent(shares=90_000, at=now))) == ["not-a-number"]
        assert made.switch.level is Level.RUNNING


# closing without a price


def test_a_position_of_unknown_cost_is_closed_without_a_quote(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.extra["AAPL"] = Decimal(100)
        held = [Position(ACCOUNT, "AAPL", Decimal(100), Decimal(0))]
        made.journal.set_baseline(ACCOUNT, held, Decimal(0), "shares that were transferred")
        run(made.dealer.flatten({}, "Ada", "close"))
        (order,) = broker.truth.held
        assert order.order.intent.purpose is Purpose.FLATTEN
        assert order.order.intent.signed_shares == -100
