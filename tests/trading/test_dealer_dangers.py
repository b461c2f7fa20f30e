"""Dangers to an account that were found by trying to lose money, each shown to be averted."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.errors import HaltError, OutcomeUnknown, TransientError, UserError
from dpa.trading.broker import BrokerSnapshot, LinkChanged, Margin, Notice
from dpa.trading.clocks import VirtualClock
from dpa.trading.events import Alert, Refused
from dpa.trading.journal import Journal
from dpa.trading.switch import Level
from dpa.trading.types import Order, OrderState, Position, Purpose, Style
from tests.trading.dealing import (
    ACCOUNT,
    CLOSES,
    NOON,
    OPENS,
    SYMBOLS,
    Desk,
    ScriptedBroker,
    Truth,
    desk,
    instrument,
    intent,
    run,
    scripted,
)


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


# what a journal that cannot be written, a halted broker or a pause must not keep from leaving


class Disk:
    """A disk that fails when it is told to."""

    def __init__(self) -> None:
        self.full = False

    def __call__(self, step: str) -> None:
        if self.full and step.startswith("writing"):
            raise HaltError("the disk is full")


def full_disk(folder: Path) -> tuple[Desk, Any, Disk]:
    """A dealer that has started, whose disk can be filled."""
    disk, clock = Disk(), VirtualClock(NOON)
    broker = ScriptedBroker(clock, Truth())
    made = desk(folder, broker, clock, steps=disk)
    run(made.dealer.start())
    return made, broker, disk


@pytest.mark.parametrize("way", ["beat", "cancel_all", "let_go", "kill"])
def test_cancels_leave_though_the_journal_cannot_be_written(tmp_path: Path, way: str) -> None:
    made, broker, disk = full_disk(tmp_path)
    resting = replace(intent(shares=100), style=Style.LIMIT, limit=Decimal(99))
    assert run(made.send(resting, replace(resting, id="dpa-msft", symbol="MSFT"))) == []
    broker.tell(Notice(399, "words", 1))  # something to book, which fails first
    disk.full = True
    if way != "cancel_all":
        made.switch.halt("Ada", "stop")
    acts: dict[str, Callable[[], Awaitable[Any]]] = {
        "beat": made.beat,
        "cancel_all": made.dealer.cancel_all,
        "let_go": made.dealer.let_go,
        "kill": made.dealer.kill,
    }
    with nullcontext() if way == "kill" else pytest.raises(HaltError, match="full"):
        run(acts[way]())
    assert broker.truth.working() == []
    assert made.switch.level is Level.HALTED
    disk.full = False
    run(made.beat(20))
    assert not made.dealer.live_orders
    assert made.journal.verify() == ()
    made.close()


def test_cancels_leave_though_the_broker_takes_no_orders(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(replace(intent(shares=100), style=Style.LIMIT, limit=Decimal(99))))
        broker.connected = False  # as one does that could not read a message; the socket lives
        broker.tell(LinkChanged(False, "a message could not be read"))
        made.switch.halt("dealer", "a message could not be read")
        run(made.beat(1))
        assert broker.truth.working() == []


def test_a_cancel_that_cannot_leave_is_tried_at_each_beat(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(replace(intent(shares=100), style=Style.LIMIT, limit=Decimal(99))))
        cancel, tried = broker.cancel, []

        async def away(order: Order) -> None:
            tried.append(made.clock.now())
            raise TransientError("not connected; nothing was sent")

        broker.cancel = away
        made.switch.halt("Ada", "stop")
        for _ in range(3):
            run(made.beat(1))
        assert len(set(tried)) == 3
        broker.cancel = cancel
        run(made.beat(1))
        assert broker.truth.working() == []


def test_paused_ends_what_would_add_risk_and_leaves_what_reduces(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(intent("MSFT", 100)))
        broker.fill(broker.truth.held[0], 100)
        away = Style.LIMIT
        entry = replace(intent(shares=100, decision="d2"), style=away, limit=Decimal(99))
        way_out = intent("MSFT", -100, Purpose.EXIT, "d2", style=away, limit=Decimal("100.4"))
        assert run(made.send(entry, way_out)) == []
        made.switch.pause("Ada", "news")
        run(made.beat(1))
        assert [held.order.ref for held in broker.truth.working()] == [way_out.id]


# the last look, after all waiting


def follow(made: Desk) -> None:
    """Another trader takes the place of this one."""
    with Journal(made.folder / "journal.sqlite", made.clock) as other:
        other.take_over("another trader")


def test_a_trader_that_was_followed_while_it_slept_sends_nothing(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.meanwhile = lambda: follow(made)
        with pytest.raises(HaltError, match="another process"):
            run(made.send(intent(shares=100)))
        assert broker.truth.held == []


def test_a_trader_that_was_followed_sends_no_limits(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(replace(intent(shares=100), style=Style.ADAPTIVE)))
        broker.meanwhile = lambda: follow(made)
        with pytest.raises(HaltError, match="another process"):
            run(made.beat(5))
        assert "modify" not in [word for _, word, _ in broker.sent]


def test_a_suspended_trader_and_its_follower_make_one_order(tmp_path: Path) -> None:
    first = desk(tmp_path)
    run(first.dealer.start())
    first.journal.take_over("first")
    first.broker.on_quotes(first.quotes(), first.clock.now())
    resting = intent(style=Style.LIMIT, limit=Decimal(99), expires_at=NOON + timedelta(minutes=10))

    async def both() -> None:
        gate, place = asyncio.Event(), first.broker.place

        async def suspended(order: Order, still: Callable[[], bool]) -> None:
            await gate.wait()
            await place(order, still)

        first.broker.place = suspended
        sending = asyncio.ensure_future(first.dealer.submit([resting], first.quotes()))
        while not any(o.state is OrderState.SENT for o in first.dealer.live_orders):
            await asyncio.sleep(0)
        second = desk(tmp_path, clock=first.clock)
        second.journal.take_over("second")
        await second.dealer.start()
        second.broker.on_quotes(second.quotes(), second.clock.now())
        for _ in range(4):
            await second.beat(6)
        assert second.order(resting).attempt == 2
        gate.set()
        with pytest.raises(HaltError, match="another process"):
            await sending
        second.broker.book.refresh()
        assert [order.ref for order in second.broker.book.working] == [resting.id]
        second.close()

    run(both())
    first.close()


def test_exits_do_not_wait_for_the_margins_of_entries(tmp_path: Path) -> None:
    with trading(tmp_path, what_if=True) as (made, broker):
        run(made.send(intent("XOM", 100, decision="d0")))
        broker.fill(broker.truth.held[0], 100)
        log: list[str] = []
        place = broker.place

        async def what_if(order: Order) -> Margin:
            log.append(f"margin of {order.intent.symbol}")
            made.wait(6)  # longer than a quote is good for
            return Margin(Decimal(1), Decimal(1), Decimal(2))

        async def placing(order: Order, still: Callable[[], bool]) -> None:
            log.append(f"place {order.intent.symbol}")
            await place(order, still)

        broker.what_if, broker.place = what_if, placing
        entry, way_out = intent("AAPL", 10), intent("XOM", -100, Purpose.EXIT, "d1")
        assert run(made.send(entry, way_out)) == ["quote"]  # looked at again, and too old by now
        assert log == ["place XOM", "margin of AAPL"]
        broker.what_if = lambda order: _margin()
        assert run(made.send(intent("AAPL", 10, decision="d3", at=made.clock.now()))) == []
        assert log[-1] == "place AAPL"


async def _margin() -> Margin:
    return Margin(Decimal(1), Decimal(1), Decimal(2))


def test_a_symbol_that_became_busy_meanwhile_is_looked_at_when_it_is_sent(tmp_path: Path) -> None:
    """An order of before, held ended, is alive again while a new one of its symbol waits."""
    with trading(tmp_path, messages_per_second=1) as (made, broker):
        first, second = intent(), intent(decision="d2")
        run(made.send(first))
        held = broker.truth.held[0]
        broker.end(held)
        run(made.send(second))  # waits: one message a second, and the second is used up
        assert made.order(second).state is OrderState.PLANNED
        held.state = OrderState.WORKING
        with made.journal.transaction():
            alive = replace(made.order(first), state=OrderState.WORKING)
            made.journal.order_revived(alive, "the broker works it still")
        made.dealer._live.took(alive)
        run(made.beat(1))
        assert broker.truth.of(second.id) == []
        refused = [e.code for e in made.told if isinstance(e, Refused)]
        assert refused == ["symbol-busy"]


# what was not kept


def test_a_fill_whose_booking_failed_once_is_booked_with_the_next_snapshot(tmp_path: Path) -> None:
    made, broker, disk = full_disk(tmp_path)
    run(made.send(intent(shares=100)))
    listeners, broker.handlers = broker.handlers, []  # the fill is told in no event
    broker.fill(broker.truth.held[0], 100)
    broker.handlers = listeners
    made.wait(20)
    disk.full = True
    with pytest.raises(HaltError, match="full"):
        run(made.dealer.reconcile())
    disk.full = False
    made.switch.resume("Ada", "there is space again", made.switch.read())
    made.wait(20)
    assert run(made.dealer.reconcile()).clean
    assert made.dealer.positions == {"AAPL": 100}
    assert made.dealer.ledger.fees == Decimal("0.35")
    made.close()


@pytest.mark.parametrize("error", [TransientError, OutcomeUnknown])
def test_a_limit_that_was_not_sent_is_sent_later(tmp_path: Path, error: type[Exception]) -> None:
    with trading(tmp_path) as (made, broker):
        asked = replace(intent(shares=100), style=Style.ADAPTIVE)
        run(made.send(asked))
        modify, limits = broker.modify, []

        async def failing(order: Order, limit: Decimal, still: Callable[[], bool]) -> None:
            limits.append(limit)
            if len(limits) == 1:
                raise error("TWS is busy")
            await modify(order, limit, still)

        broker.modify = failing
        run(made.beat(5))
        assert made.order(asked).limit == Decimal("100.00")
        run(made.beat(1))
        assert limits == [Decimal("100.02")] * 2
        assert made.order(asked).limit == limits[-1]
        broker.modify = modify


def test_fills_of_another_account_of_the_login_are_not_ours(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(intent(shares=100)))
        fill = broker.fill(broker.truth.held[0], 40)
        broker.tell(replace(fill, exec_id="00.999999.01", account="DU9", ref=""))
        run(made.beat())
        assert made.dealer.positions == {"AAPL": 40}
        assert "external-fill" not in made.alerts


# closing everything


def test_flattening_says_what_to_do_where_the_books_differ(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(intent(shares=100)))
        broker.fill(broker.truth.held[0], 100)
        broker.extra["MSFT"] = Decimal(7)
        run(made.beat(300))
        run(made.beat(2))
        assert made.switch.level is Level.HALTED
        made.switch.resume("Ada", "close it", made.switch.read())
        for _ in range(3):
            run(made.dealer.flatten(made.quotes(), "Ada", "close it"))
        (alert,) = [e for e in made.told if isinstance(e, Alert) and e.kind == "not-flat"]
        assert "MSFT: the ledger has 0, the broker 7" in alert.what
        assert "adopt" in alert.what
        made.switch.halt("Ada", "adopting")
        made.wait(20)
        run(made.dealer.adopt("Ada", "looked at both"))
        made.switch.resume("Ada", "adopted", made.switch.read())
        run(made.dealer.flatten(made.quotes(), "Ada", "close it"))
        sold = {h.order.intent.symbol: h.order.intent.signed_shares for h in broker.truth.working()}
        assert sold == {"AAPL": -100, "MSFT": -7}


def test_a_night_of_flattening_writes_nothing_and_ends_at_the_open(tmp_path: Path) -> None:
    hours = ((OPENS, CLOSES), (OPENS + timedelta(days=1), CLOSES + timedelta(days=1)))
    listed = {s: instrument(s, liquid_hours=hours) for s in SYMBOLS}
    clock = VirtualClock(NOON)
    broker = ScriptedBroker(clock, Truth())
    made = desk(tmp_path, broker, clock, listed)
    run(made.dealer.start())
    run(made.send(intent(shares=100)))
    broker.fill(broker.truth.held[0], 100)
    run(made.beat())
    made.wait((CLOSES - NOON).total_seconds())
    made.switch.flatten("Ada", "the night")
    run(made.beat())
    before = made.journal.last_event
    for _ in range(60):
        run(made.beat(5))
    assert made.journal.last_event == before
    assert Refused not in {type(event) for event in made.told}
    made.wait((OPENS + timedelta(days=1) - clock.now()).total_seconds())
    run(made.beat())
    assert [h.order.intent.signed_shares for h in broker.truth.working()] == [-100]
    made.close()


def test_what_cannot_be_closed_is_tried_ever_less_often(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(intent(shares=100)))
        broker.fill(broker.truth.held[0], 100)
        made.switch.flatten("Ada", "close it")
        for _ in range(60):
            run(made.beat(5, halted=True))
        refused = [e.at for e in made.told if isinstance(e, Refused)]
        assert 6 <= len(refused) <= 9  # in five minutes
        for _ in range(12):
            run(made.beat(5))
        assert [h.order.intent.signed_shares for h in broker.truth.working()] == [-100]


def test_a_guess_of_the_client_is_asked_about_at_once(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(replace(intent(shares=100), style=Style.LIMIT, limit=Decimal(99))))
        made.wait(5)
        asked = broker.snapshots
        guess = broker.said(broker.truth.held[0], state=OrderState.CANCELLED, code=161)
        broker.tell(guess)
        run(made.beat(1))
        assert broker.snapshots == asked + 1
        assert [order.state for order in made.dealer.live_orders] == [OrderState.WORKING]
