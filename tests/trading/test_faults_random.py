"""Whatever is lost, repeated or cut off: no order twice, no fill lost, no position made up.

A machine of random faults plays against the dealer with the real journal and switch; the broker is
a double, because what it does here no real one does on demand. Then the real paper broker, with
the process killed at every step that the journal writes.
"""

import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as rules
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dpa.trading.broker import Notice
from dpa.trading.clocks import VirtualClock
from dpa.trading.dealer import Dealer
from dpa.trading.journal import Journal
from dpa.trading.lifecycle import HINT_CODES
from dpa.trading.switch import Level
from dpa.trading.types import OrderState, Purpose, Style
from tests.trading.dealing import (
    ACCOUNT,
    NOON,
    SYMBOLS,
    Desk,
    Held,
    ScriptedBroker,
    desk,
    instrument,
    intent,
    paper,
    run,
    scripted,
)

S = OrderState
ALWAYS_OPEN = {symbol: instrument(symbol, liquid_hours=()) for symbol in SYMBOLS}
HINTS = sorted(HINT_CODES)
WAYS = ("arrive", "lost", "silent", "reject", "notice", "transient")
WAYS += ("unknown-arrived", "unknown-lost")


class Chaos:
    """A dealer, a broker full of faults, and what must hold all the time."""

    def __init__(self, folder: Path) -> None:
        self.desk, self.broker = scripted(
            folder, prompt=False, instruments=ALWAYS_OPEN, rejects_to_halt=100_000
        )
        self.broker.prompt = True
        run(self.desk.dealer.start())
        self.broker.prompt = False
        self.decisions = 0
        self.may_halt = False
        self.faults: Counter[str] = Counter()

    # what a trader does

    def submit(self, symbol: str, shares: int, style: Style = Style.MARKET) -> None:
        self.decisions += 1
        held = self.desk.dealer.positions.get(symbol, Decimal(0))
        reducing = held * shares < 0 and abs(shares) <= abs(held)
        asked = intent(
            symbol,
            shares,
            Purpose.REDUCE if reducing else Purpose.ENTER,
            str(self.decisions),
            self.desk.clock.now(),
            style=style,
        )
        run(self.desk.send(asked))

    def beat(self, seconds: float) -> None:
        run(self.desk.beat(seconds))

    def restart(self) -> None:
        """The trader dies where it stands; what it had heard and not booked is lost."""
        self.faults["restart"] += 1
        made = self.desk
        made.journal.close()
        self.broker.handlers.clear()
        self.broker.pending.clear()
        made.journal = Journal(made.folder / "journal.sqlite", made.clock)
        made.dealer = Dealer(
            self.broker,
            made.journal,
            made.switch,
            made.clock,
            made.settings,
            made.told.append,
            ALWAYS_OPEN,
        )
        self.broker.connected = False
        run(made.dealer.start())

    def resume(self) -> None:
        """A person has looked and found nothing wrong."""
        state = self.desk.switch.read()
        assert state.level is Level.RUNNING or self.may_halt, state
        if state.level is not Level.RUNNING:
            self.desk.switch.resume("Ada", "looked", state)
            self.may_halt = False

    # what a broker does

    def fill(self, held: Held, shares: int) -> None:
        left = int(held.order.intent.shares - self.broker.truth.filled(held))
        if left > 0:
            self.broker.fill(held, min(shares, left))

    def lie(self, seconds: float) -> None:
        """A list that ends and leaves out orders and fills, and then one that tells the truth.

        Where the positions beside it say something else it halts, and does nothing worse.
        """
        ran = self.desk.switch.level is Level.RUNNING
        self.broker.lies = 1
        self.beat(seconds)
        self.may_halt |= ran and self.desk.switch.level is Level.HALTED
        self.broker.lies = 0
        run(self.desk.dealer.reconcile())

    def late(self) -> list[Held]:
        """Orders whose cancel crossed a fill: a fill may still be told."""
        return self.broker.truth.ended_early()

    # what must hold

    def check(self) -> None:
        truth = self.broker.truth
        for ref, count in Counter(held.order.ref for held in truth.held).items():
            assert count == 1, f"{count} orders at the broker for {ref}"
        for symbol, count in Counter(h.order.intent.symbol for h in truth.working()).items():
            assert count == 1, f"{count} orders work in {symbol}"
        numbers = [held.order.order_id for held in truth.held]
        assert numbers == sorted(set(numbers))
        for held in truth.held:
            assert truth.filled(held) <= held.order.intent.shares
            assert self.desk.journal.intent(held.order.ref) is not None
        state = self.desk.switch.read()
        assert state.level is Level.RUNNING or self.may_halt, state

    def settle(self) -> None:
        """All faults end; the books must come to the truth by themselves."""
        broker, made = self.broker, self.desk
        broker.missing, broker.next_place, broker.next_cancel = (), "arrive", "arrive"
        self.resume()
        broker.prompt = True
        if not broker.connected:
            broker.restore_link()
        for event in tuple(broker.pending):
            broker.deliver(event)
        broker.pending.clear()
        for seconds in (301, *[11] * 12, 301, 3):  # what nobody speaks of is found by the clock
            self.beat(seconds)
            self.check()
        assert not made.dealer.live_orders, made.dealer.live_orders
        assert not broker.truth.working()
        assert made.dealer.positions == broker.truth.positions()
        self.same_fills()
        assert run(made.dealer.reconcile()).clean
        assert made.journal.verify() == ()

    def same_fills(self) -> None:
        """Every fill and every fee of the broker is in the ledger, and no other."""
        truth, ledger = self.broker.truth, self.desk.dealer.ledger
        counted = {f.execution.stem: f.execution for f in ledger.fills}
        expected = {stem: e for stem, e in truth.fills.items() if e.shares}
        assert {s: (e.shares, e.price) for s, e in counted.items()} == {
            s: (e.shares, e.price) for s, e in expected.items()
        }
        spent = sum((e.side.sign * e.shares * e.price for e in expected.values()), Decimal(0))
        fees = sum((fee.amount for fee in truth.fees.values()), Decimal(0))
        known = {c.exec_id for c in self.desk.journal.commissions()}
        assert known == set(truth.fees)
        begin = self.desk.journal.baseline(ACCOUNT)
        assert begin is not None
        if all(e.revision == 1 for e in truth.fills.values()):
            assert ledger.cash == begin.cash - spent - fees


def held_of(chaos: Chaos, orders: list[Held], number: int) -> Held | None:
    """One of some orders, by any number."""
    return orders[number % len(orders)] if orders else None


class Faults(RuleBasedStateMachine):
    """Random faults in a random order."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.chaos = Chaos(Path(self.folder.name))

    @rule(
        symbol=st.sampled_from(SYMBOLS),
        shares=st.integers(-5, 5).filter(bool),
        way=st.sampled_from(WAYS),
        style=st.sampled_from([Style.MARKET, Style.ADAPTIVE]),
    )
    def submit(self, symbol: str, shares: int, way: str, style: Style) -> None:
        self.chaos.broker.next_place = way
        self.chaos.submit(symbol, shares, style)

    @rule(seconds=st.sampled_from([0, 1, 3, 11, 30]))
    def beat(self, seconds: float) -> None:
        self.chaos.beat(seconds)

    @rule(way=st.sampled_from(["arrive", "lost"]))
    def cancel(self, way: str) -> None:
        self.chaos.broker.next_cancel = way
        run(self.chaos.desk.dealer.cancel_all())

    @rule(number=st.integers(0, 9), shares=st.integers(1, 5))
    def fill(self, number: int, shares: int) -> None:
        held = held_of(self.chaos, self.chaos.broker.truth.working(), number)
        if held is not None:
            self.chaos.fill(held, shares)

    @rule(number=st.integers(0, 9), shares=st.integers(1, 5))
    def fill_after_the_cancel(self, number: int, shares: int) -> None:
        held = held_of(self.chaos, self.chaos.late(), number)
        if held is not None:
            self.chaos.fill(held, shares)

    @rule(number=st.integers(0, 9), shares=st.integers(0, 5))
    def correct(self, number: int, shares: int) -> None:
        fills = list(self.chaos.broker.truth.fills.values())
        if fills:
            fill = fills[number % len(fills)]
            self.chaos.broker.correct(fill.stem, min(shares, int(fill.shares)), "101")

    @rule(number=st.integers(0, 9))
    def end(self, number: int) -> None:
        held = held_of(self.chaos, self.chaos.broker.truth.working(), number)
        if held is not None:
            self.chaos.broker.end(held)

    @rule(number=st.integers(0, 9), code=st.sampled_from(HINTS))
    def guess(self, number: int, code: int) -> None:
        broker = self.chaos.broker
        held = held_of(self.chaos, broker.truth.working(), number)
        if held is not None:
            broker.tell(Notice(code, "words", held.order.order_id))
            broker.tell(broker.said(held, state=S.CANCELLED, code=code))

    @rule(number=st.integers(0, 20), again=st.booleans())
    def deliver(self, number: int, again: bool) -> None:
        pending = self.chaos.broker.pending
        if pending:
            event = pending[number % len(pending)]
            if not again:
                pending.remove(event)
            self.chaos.broker.deliver(event)

    @rule()
    def deliver_all(self) -> None:
        pending, self.chaos.broker.pending = self.chaos.broker.pending, []
        for event in pending:
            self.chaos.broker.deliver(event)

    @rule(number=st.integers(0, 20))
    def lose(self, number: int) -> None:
        pending = self.chaos.broker.pending
        if pending:
            pending.pop(number % len(pending))

    @precondition(lambda self: self.chaos.broker.connected)
    @rule()
    def drop_link(self) -> None:
        self.chaos.broker.drop_link()

    @precondition(lambda self: not self.chaos.broker.connected)
    @rule()
    def restore_link(self) -> None:
        self.chaos.broker.restore_link()

    @rule()
    def restart(self) -> None:
        self.chaos.restart()

    @rule(part=st.sampled_from(["positions", "open orders", "executions"]))
    def lose_part_of_a_snapshot(self, part: str) -> None:
        self.chaos.broker.missing = (part,)
        self.chaos.beat(301)
        self.chaos.broker.missing = ()
        if self.chaos.broker.connected:
            assert self.chaos.desk.switch.level is Level.HALTED
            self.chaos.may_halt = True

    @precondition(lambda self: self.chaos.broker.connected)
    @rule(seconds=st.sampled_from([0, 3, 11, 301]))
    def leave_orders_out_of_one_snapshot(self, seconds: float) -> None:
        self.chaos.lie(seconds)

    @rule()
    def resume(self) -> None:
        self.chaos.resume()

    @invariant()
    def nothing_is_wrong(self) -> None:
        if hasattr(self, "chaos"):
            self.chaos.check()

    def teardown(self) -> None:
        if hasattr(self, "chaos"):
            try:
                self.chaos.settle()
            finally:
                self.chaos.desk.close()
                self.folder.cleanup()


Faults.TestCase.settings = rules(
    max_examples=int(os.environ.get("DPA_FAULT_EXAMPLES", "25")),
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
)
TestFaults = Faults.TestCase


def storm(chaos: Chaos, orders: int, seed: int) -> None:
    """Random faults until so many orders were asked for."""
    chance = random.Random(seed)
    broker = chaos.broker

    def deliver() -> None:
        chance.shuffle(broker.pending)
        while broker.pending and chance.random() < 0.9:
            event = broker.pending.pop()
            if chance.random() < 0.9:
                broker.deliver(event)
            if chance.random() < 0.1:
                broker.deliver(event)

    while chaos.decisions < orders:
        for symbol in SYMBOLS:
            if chance.random() < 0.7:
                broker.next_place = chance.choice(WAYS) if chance.random() < 0.3 else "arrive"
                chaos.submit(symbol, chance.choice((-3, -2, -1, 1, 2, 3)))
        for held in broker.truth.working():
            if chance.random() < 0.8:
                chaos.fill(held, chance.randint(1, 3))
        for held in chaos.late()[-3:]:
            if chance.random() < 0.1:
                chaos.faults["late fill"] += 1
                chaos.fill(held, 1)
        if chance.random() < 0.05 and broker.truth.fills:
            stem = next(reversed(broker.truth.fills))
            chaos.faults["correction"] += 1
            broker.correct(stem, chance.randint(0, int(broker.truth.fills[stem].shares)), "99")
        deliver()
        if chance.random() < 0.04 and broker.connected:
            chaos.faults["link"] += 1
            broker.drop_link()
        elif not broker.connected and chance.random() < 0.5:
            broker.restore_link()
        if chance.random() < 0.01:
            chaos.restart()
        if chance.random() < 0.1:
            broker.next_cancel = "lost"
            run(chaos.desk.dealer.cancel_all())
        if chance.random() < 0.05 and broker.connected:
            chaos.faults["orders left out of a list"] += 1
            chaos.lie(chance.choice((0, 2, 11)))
            chaos.resume()
        chaos.beat(chance.choice((0, 1, 2, 5, 11)))
        if chance.random() < 0.05:
            chaos.check()


def test_a_storm_of_faults_leaves_the_books_as_the_broker_has_them(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path)
    storm(chaos, int(os.environ.get("DPA_FAULT_ORDERS", "250")), seed=7)
    chaos.settle()
    assert chaos.faults["link"]
    assert chaos.faults["orders left out of a list"]
    chaos.desk.close()


# the process is killed


def day(folder: Path, steps: Any = None) -> Desk:
    """A little trading with the paper broker; what was done before is not done again."""
    clock = VirtualClock(NOON)
    made = desk(folder, paper(folder, clock), clock, steps=steps, order_seconds=600)
    for moment in range(0, 61, 3):
        clock.move_to(NOON + timedelta(seconds=moment))
        made.broker.on_quotes(made.quotes(ask_size=60), clock.now())
        if moment == 0:
            run(made.dealer.start())
            run(made.dealer.beat(clock.now(), made.quotes()))
        if moment in (3, 6):
            asked = [
                intent("AAPL", 100, decision=str(moment)),
                intent("MSFT", -50, decision=str(moment)),
                intent("XOM", 10, decision=str(moment), style=Style.ADAPTIVE),
            ]
            made.told.append(run(made.send(*asked, ask_size=60)))
        if moment == 9:
            with suppress(StopIteration):
                order = next(o for o in made.dealer.live_orders if o.intent.symbol == "XOM")
                run(made.dealer.cancel([order]))
        run(made.dealer.beat(clock.now(), made.quotes(ask_size=60)))
    return made


def killed_at(folder: Path, step: int) -> bool:
    """Run a day in a process that kills itself at the step-th write; whether it got that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def counting(name: str) -> None:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            day(folder, counting)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def right(made: Desk) -> None:
    """One order an intent, and the books are the broker's."""
    book = made.broker.book
    refs = Counter(order.ref for order in book.orders)
    assert set(refs.values()) == {1}
    assert made.dealer.positions == {s: h.shares for s, h in book.holdings.items()}
    assert made.dealer.ledger.cash == book.cash
    assert not [o for o in made.dealer.live_orders if o.state.is_final]
    assert {o.order_id for o in book.working} == {
        o.order_id for o in made.dealer.live_orders if o.state.may_fill
    }
    assert made.switch.level is Level.RUNNING, made.switch.read()
    assert made.journal.verify() == ()


def test_killed_at_any_step_of_the_journal_a_restart_does_all_of_it_once(tmp_path: Path) -> None:
    whole = day(tmp_path / "whole")
    right(whole)
    assert whole.dealer.positions == {"AAPL": Decimal(200), "MSFT": Decimal(-100)}
    run(whole.broker.close())
    whole.close()
    step, kills = 1, 0
    stride = int(os.environ.get("DPA_KILL_STRIDE", "5"))
    while killed_at(tmp_path / f"kill{step}", step):
        kills += 1
        made = day(tmp_path / f"kill{step}")
        right(made)
        assert made.dealer.positions["AAPL"] in (100, 200)  # busy with the first of two, or not
        assert made.dealer.positions["MSFT"] in (-50, -100)
        run(made.broker.close())
        made.close()
        step += stride
    assert kills > 20 // stride


@pytest.mark.parametrize("seed", range(3))
def test_two_storms_of_the_same_seed_are_the_same(seed: int, tmp_path: Path) -> None:
    found = []
    for n in range(2):
        chaos = Chaos(tmp_path / str(n))
        storm(chaos, 40, seed)
        orders = [replace(h.order, limit=None) for h in chaos.broker.truth.held]
        found.append((orders, dict(chaos.broker.truth.fills)))
        chaos.desk.close()
    assert found[0] == found[1]


def test_the_double_speaks_of_every_order(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path)
    assert isinstance(chaos.broker, ScriptedBroker)
    assert replace(intent(), shares=1).shares == 1
    chaos.desk.close()
