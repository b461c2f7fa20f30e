"""The twelve rules of the dealer, each shown with the real journal; numbers as in its module."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.errors import HaltError, TransientError, UserError
from dpa.trading.broker import Margin, Notice, OrderSaid
from dpa.trading.dealer import Dealer
from dpa.trading.events import Alert, Filled, OrderChanged, Reconciled
from dpa.trading.events import Refused as RefusedEvent
from dpa.trading.hearing import UNREADABLE
from dpa.trading.journal import Journal
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Intent, Order, OrderState, Purpose, Side, Style
from tests.trading.dealing import (
    ACCOUNT,
    INSTRUMENTS,
    NOON,
    Desk,
    ScriptedBroker,
    desk,
    instrument,
    intent,
    run,
    scripted,
)

S = OrderState
Still = Callable[[], bool]
BUY = intent(shares=100)
EXIT = intent(shares=-100, purpose=Purpose.EXIT, decision="d2")


@contextmanager
def trading(folder: Path, prompt: bool = True, **changes: Any) -> Iterator[tuple[Desk, Any]]:
    """A dealer that has started, over a scripted broker."""
    made, broker = scripted(folder, prompt, **changes)
    run(made.dealer.start())
    try:
        yield made, broker
    finally:
        assert made.journal.verify() == ()
        made.close()


def again(made: Desk) -> Desk:
    """The trader dies; another one starts on what it left."""
    made.journal.close()
    journal = Journal(made.folder / "journal.sqlite", made.clock)
    made.broker.handlers.clear()
    dealer = Dealer(
        made.broker,
        journal,
        made.switch,
        made.clock,
        made.settings,
        made.told.append,
        INSTRUMENTS,
    )
    made.journal, made.dealer = journal, dealer
    return made


def states(made: Desk, asked: Intent) -> list[str]:
    """States an order went through."""
    changed = [e.order for e in made.told if isinstance(e, OrderChanged)]
    found = [order.state for order in changed if order.ref == asked.id]
    return [s for n, s in enumerate(found) if n == 0 or found[n - 1] is not s]


# 1. committed first


def test_1_the_intent_is_on_the_disk_before_anything_is_sent(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        seen: list[Order | None] = []
        place = broker.place

        async def spying(order: Order, still: Still) -> None:
            with Journal.reader(tmp_path / "journal.sqlite") as reader:
                seen.append(reader.order(order.ref))
            await place(order, still)

        broker.place = spying
        assert run(made.send(BUY)) == []
    assert seen[0] is not None
    assert seen[0].state is S.SENT


def test_1_nothing_is_sent_where_the_journal_cannot_write(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        another = Journal(tmp_path / "journal.sqlite", made.clock)
        another.note("taken-over", {})
        with pytest.raises(HaltError, match="another process"):
            run(made.send(BUY))
        assert broker.sent == []
        assert made.switch.level is Level.HALTED
        another.close()


# 2. one order


def test_2_an_intent_is_carried_out_once_however_often_it_comes(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        assert run(made.send(BUY)) == []
        assert run(made.send(BUY, BUY)) == ["duplicate", "duplicate"]
        other = intent(shares=50, decision="d9")
        assert run(made.send(other)) == ["symbol-busy"]
        assert len(broker.truth.held) == 1


def test_2_an_order_without_an_answer_is_sent_again_only_once_its_absence_is_proved(
    tmp_path: Path,
) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "lost"
        run(made.send(BUY))
        for seconds in (5, 6, 9):  # looked for at the second, and not yet again at the third
            run(made.beat(seconds))
            assert made.order(BUY).attempt == 1
        run(made.beat(1))
        found = made.order(BUY)
        assert (found.attempt, found.state) == (2, S.WORKING)
        assert found.order_id > 1
        assert len(broker.truth.of(BUY.id)) == 1
        assert made.journal.attempts(BUY.id)[0].state is S.ABSENT


def test_2_an_order_sent_only_now_is_not_called_absent(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "lost"
        run(made.send(BUY))
        assert run(made.dealer.reconcile()).waiting == (made.order(BUY),)
        run(made.beat(5))
        run(made.dealer.reconcile())
        assert (made.order(BUY).attempt, made.order(BUY).state) == (1, S.SENT)


@pytest.mark.parametrize("how", ["silent", "unknown-arrived"])
def test_2_an_order_whose_answer_was_lost_is_found_and_not_repeated(
    tmp_path: Path, how: str
) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = how
        run(made.send(BUY))
        run(made.beat(11))
        assert made.order(BUY).state is S.WORKING
        assert [what for _, what, _ in broker.sent] == ["place"]


def test_2_an_incomplete_snapshot_proves_no_absence(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "lost"
        run(made.send(BUY))
        broker.missing = ("executions",)
        for _ in range(5):
            run(made.beat(11))
        assert made.order(BUY).attempt == 1
        assert len(broker.truth.held) == 0


@pytest.mark.parametrize("filled", [0, 40, 100])
def test_2_one_complete_list_that_leaves_an_order_out_sends_nothing_again(
    tmp_path: Path, filled: int
) -> None:
    with trading(tmp_path, prompt=False) as (made, broker):
        run(made.send(BUY))
        if filled:
            broker.fill(broker.truth.held[0], filled)
        broker.pending.clear()
        broker.lies = 1
        run(made.beat(11))
        assert broker.lies == 0
        assert run(made.send(intent(shares=5, decision="d9"))) != []
        for _ in range(3):
            run(made.beat(11))
        assert [what for _, what, _ in broker.sent] == ["place"]
        assert made.order(BUY).attempt == 1
        assert made.order(BUY).state is (S.FILLED if filled == 100 else S.WORKING)
        assert made.dealer.positions.get("AAPL", 0) == filled
        assert made.switch.level is Level.RUNNING


@pytest.mark.parametrize("between", ["link", "part", "answer"])
def test_2_the_looks_that_prove_an_absence_have_nothing_between_them(
    tmp_path: Path, between: str
) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "silent"
        run(made.send(BUY))
        broker.lies = 2
        run(made.beat(11))
        if between == "link":
            broker.drop_link()
            broker.restore_link()
        else:
            broker.missing, broker.mute = ("executions",), between == "answer"
            broker.lies += 1
            run(made.beat(5))
            run(made.dealer.reconcile())
            broker.missing, broker.mute = (), False
            made.switch.resume("Ada", "looked", made.switch.read())
        run(made.beat(11))
        assert broker.lies == 0
        run(made.beat(11))
        assert [what for _, what, _ in broker.sent] == ["place"]
        assert made.order(BUY).state is S.WORKING


def test_2_an_order_that_never_arrives_is_not_tried_for_ever(tmp_path: Path) -> None:
    with trading(tmp_path, order_seconds=600) as (made, broker):
        asked = replace(BUY, expires_at=NOON + timedelta(seconds=600))
        broker.next_place = "lost"
        run(made.send(asked))
        for _ in range(12):
            broker.next_place = "lost"
            run(made.beat(11))
        places = [what for _, what, _ in broker.sent if what == "place"]
        assert len(places) == 3
        assert made.order(asked).state is S.ABSENT


def test_2_a_second_order_of_an_intent_at_the_broker_halts_and_is_cancelled(
    tmp_path: Path,
) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        (held,) = broker.truth.held
        twin = replace(held.order, order_id=99)
        run(broker.place(twin))
        run(made.dealer.reconcile())
        assert made.switch.level is Level.HALTED
        assert broker.truth.held[1].state is S.CANCELLED


def test_2_more_filled_than_intended_is_asked_about_and_a_correction_explains_it(
    tmp_path: Path,
) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        (held,) = broker.truth.held
        first = broker.fill(held, 60)
        broker.fill(held, 100)
        after = replace(first, exec_id=f"{first.stem}.02", shares=Decimal(0))
        broker.truth.fills[first.stem] = after
        run(made.beat(3))
        assert made.switch.level is Level.RUNNING
        assert made.dealer.positions == {"AAPL": Decimal(100)}


def test_2_more_filled_than_intended_halts(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    run(made.dealer.start())
    run(made.send(BUY))
    broker.fill(broker.truth.held[0], 101)
    run(made.beat(3))
    assert made.switch.level is Level.HALTED
    assert "101 filled of 100" in made.switch.read().why
    made.close()


# 3. a guess ends nothing


@pytest.mark.parametrize("code", [161, 103, 104, 10147, 10148, 10311, 10349, 105, 329, 399])
def test_3_a_guessed_cancel_ends_nothing(tmp_path: Path, code: int) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        (held,) = broker.truth.held
        broker.tell(Notice(code, "words", held.order.order_id))
        broker.tell(broker.said(held, state=S.CANCELLED, code=code))
        run(made.beat(3))
        assert made.order(BUY).state is S.WORKING
        assert run(made.send(intent(shares=5, decision="d9"))) == ["symbol-busy"]
        broker.fill(held, 100)
        run(made.beat())
        assert made.order(BUY).state is S.FILLED
        assert made.dealer.positions == {"AAPL": Decimal(100)}


def test_3_a_refusal_told_only_in_a_notice_is_confirmed_and_not_repeated(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "notice"
        run(made.send(BUY))
        assert made.order(BUY).state is S.SENT
        run(made.beat(3))
        found = made.order(BUY)
        assert found.state is S.REJECTED
        assert "110" in found.reason
        assert found.attempt == 1


def test_3_an_order_that_was_held_ended_and_lives_is_alive_again(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        (held,) = broker.truth.held
        broker.tell(broker.said(held, state=S.CANCELLED))
        run(made.beat(1))
        assert made.order(BUY).state is S.CANCELLED
        run(made.dealer.reconcile())
        assert "revived" in made.alerts
        run(made.beat(1))
        assert held.state is S.CANCELLED
        assert made.order(BUY).state is S.CANCELLED


def test_3_a_working_order_that_lists_leave_out_for_a_moment_is_not_ended(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        broker.lies = 2
        run(made.dealer.reconcile())
        run(made.beat(3))
        run(made.dealer.reconcile())
        assert broker.lies == 0
        assert made.order(BUY).state is S.WORKING
        assert run(made.send(intent(shares=5, decision="d9"))) == ["symbol-busy"]
        run(made.beat(11))
        run(made.beat(11))
        assert made.order(BUY).state is S.WORKING
        assert "revived" not in made.alerts


def test_3_a_working_order_that_no_list_has_ends_and_is_not_sent_again(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        asked = replace(BUY, expires_at=NOON + timedelta(seconds=600))
        run(made.send(asked))
        broker.lies = 1000
        run(made.beat(301))
        run(made.beat(9))
        assert made.order(asked).state is S.WORKING
        run(made.beat(1))
        assert made.order(asked).state is S.CANCELLED
        run(made.beat(60))
        assert [what for _, what, _ in broker.sent] == ["place"]


# 4. whose positions


def test_4_a_fill_after_the_cancel_counts(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        (held,) = broker.truth.held
        run(made.dealer.cancel_all())
        assert made.order(BUY).state is S.CANCELLED
        broker.fill(held, 40)
        run(made.beat())
        assert made.dealer.positions == {"AAPL": Decimal(40)}


def test_4_a_fill_nobody_told_is_found(tmp_path: Path) -> None:
    with trading(tmp_path, prompt=False) as (made, broker):
        run(made.send(BUY))
        broker.fill(broker.truth.held[0], 100)
        broker.pending.clear()
        run(made.beat(11))
        assert made.dealer.positions == {"AAPL": Decimal(100)}
        assert made.order(BUY).state is S.FILLED
        assert made.dealer.ledger.fees == Decimal("0.35")
        assert made.switch.level is Level.RUNNING


def test_4_a_position_nobody_explains_halts_until_a_person_adopts_it(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.extra["MSFT"] = Decimal(7)
        found = run(made.dealer.reconcile())
        assert [str(b) for b in found.breaks] == ["MSFT: the ledger has 0, the broker 7"]
        assert made.switch.level is Level.HALTED
        assert run(made.send(BUY)) == ["level"]
        with pytest.raises(UserError, match="name"):
            run(made.dealer.adopt("", "x"))
        assert run(made.dealer.adopt("Ada", "bought by hand")).clean
        assert made.dealer.positions == {"MSFT": Decimal(7)}
        assert made.switch.level is Level.HALTED
        made.switch.resume("Ada", "looked")
        assert run(made.send(BUY)) == []


def test_4_a_difference_while_orders_fill_is_looked_at_twice(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        broker.extra["AAPL"] = Decimal(10)  # the position came before its execution
        run(made.dealer.reconcile())
        assert made.switch.level is Level.RUNNING
        assert [b.symbol for b in made.dealer.suspected] == ["AAPL"]
        assert run(made.send(intent("MSFT", 1))) == ["not-ready"]
        broker.extra.clear()
        broker.fill(broker.truth.held[0], 10)
        run(made.beat(2))
        assert made.dealer.ready
        broker.extra["AAPL"] = Decimal(10)
        run(made.dealer.reconcile())
        run(made.beat(2))
        assert made.switch.level is Level.HALTED


@pytest.mark.parametrize("part", ["positions", "open orders", "executions"])
def test_4_a_snapshot_with_a_part_missing_halts_at_the_start(tmp_path: Path, part: str) -> None:
    made, broker = scripted(tmp_path)
    broker.missing = (part,)
    found = run(made.dealer.start())
    assert not found.complete
    assert made.switch.read().level is Level.HALTED
    assert part in made.switch.read().why
    assert not made.dealer.ready
    made.close()


def test_4_an_account_that_is_not_flat_needs_a_persons_word_at_the_first_start(
    tmp_path: Path,
) -> None:
    made, broker = scripted(tmp_path)
    broker.extra["XOM"] = Decimal(-3)
    assert not run(made.dealer.start()).clean
    assert made.switch.level is Level.HALTED
    assert made.journal.baseline(ACCOUNT) is None
    made.close()


def test_4_an_order_filled_on_a_day_the_broker_forgot_shows_in_the_position(
    tmp_path: Path,
) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        broker.truth.held.clear()
        broker.extra["AAPL"] = Decimal(100)
        made.wait(86400)
        again(made)
        found = run(made.dealer.start())
        assert not found.clean
        for _ in range(4):
            run(made.beat(11))
        assert made.switch.level is Level.HALTED
        assert made.order(BUY).state is S.CANCELLED
        assert made.order(BUY).attempt == 1


def test_4_corrections_and_fees_that_come_late_are_booked(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        fill = broker.fill(broker.truth.held[0], 100)
        broker.correct(fill.stem, 90, "99.5")
        run(made.beat())
        assert made.dealer.positions == {"AAPL": Decimal(90)}
        assert "correction" in made.alerts
        assert run(made.dealer.reconcile()).clean
        broker.correct(fill.stem, 0, "0")
        run(made.beat())
        assert made.dealer.positions == {}


def test_4_an_order_ends_only_when_the_fills_it_spoke_of_have_come(tmp_path: Path) -> None:
    with trading(tmp_path, prompt=False) as (made, broker):
        run(made.send(BUY))
        fill = broker.fill(broker.truth.held[0], 100)
        word = next(e for e in broker.pending if isinstance(e, OrderSaid) and e.state is S.FILLED)
        broker.deliver(word)
        run(made.beat())
        assert run(made.send(intent(shares=1, decision="d9"))) == ["symbol-busy"]
        broker.deliver(fill)
        run(made.beat())
        assert made.order(BUY).state is S.FILLED


def test_4_a_fill_corrected_before_it_was_told_does_not_block_its_symbol(tmp_path: Path) -> None:
    with trading(tmp_path, prompt=False) as (made, broker):
        run(made.send(BUY))
        fill = broker.fill(broker.truth.held[0], 100)
        broker.deliver(broker.said(broker.truth.held[0]))
        broker.correct(fill.stem, 30, "100")
        broker.pending.clear()
        for _ in range(3):
            run(made.beat(11))
        assert made.dealer.positions == {"AAPL": Decimal(30)}
        assert made.order(BUY).state is S.CANCELLED
        assert made.dealer.live_orders == ()
        assert made.switch.level is Level.RUNNING


def test_4_a_liquidation_is_booked_and_halts(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        fill = broker.fill(broker.truth.held[0], 100)
        sale = replace(fill, exec_id="00.9.01", side=Side.SELL, ref="", perm_id=5, liquidation=True)
        broker.truth.fills[sale.stem] = sale
        broker.tell(sale)
        run(made.beat())
        assert made.dealer.positions == {}
        assert made.switch.level is Level.HALTED
        assert run(made.dealer.reconcile()).clean


def test_4_orders_and_fills_of_a_person_are_marked_and_booked(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        manual = OrderSaid("", 0, 0, 77, ACCOUNT, "XOM", S.WORKING)
        broker.external.append(manual)
        run(made.dealer.reconcile())
        run(made.dealer.reconcile())
        assert made.alerts == ["external-order"]
        run(made.send(BUY))
        fill = broker.fill(broker.truth.held[0], 100)
        other = replace(fill, exec_id="00.8.01", symbol="XOM", ref="", perm_id=77, order_id=0)
        broker.truth.fills[other.stem] = other
        broker.tell(other)
        run(made.beat())
        assert made.alerts[-1] == "external-fill"
        assert made.dealer.positions == {"AAPL": Decimal(100), "XOM": Decimal(100)}
        assert run(made.dealer.reconcile()).clean


# 5. reductions


def test_5_reductions_pass_limits_that_stop_an_entry(tmp_path: Path) -> None:
    limits = {"max_orders_per_minute": 1, "most_orders_per_session": 1}
    with trading(tmp_path, **limits) as (made, broker):
        run(made.send(BUY))
        broker.fill(broker.truth.held[0], 100)
        run(made.beat())
        assert run(made.send(intent("MSFT", 5, decision="d2"))) == ["rate"]
        made.switch.pause("Ada", "lunch")
        assert run(made.send(EXIT)) == []
        assert broker.truth.of(EXIT.id)


def test_5_counts_of_a_session_outlive_a_restart(tmp_path: Path) -> None:
    with trading(tmp_path, most_orders_per_session=2) as (made, _):
        assert run(made.send(BUY, intent("MSFT", 1))) == []
        again(made)
        run(made.dealer.start())
        assert run(made.send(intent("XOM", 1))) == ["rate"]


# 6. the link


def test_6_without_a_link_nothing_is_sent_and_fills_count(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        broker.tell(Notice(1100, "connectivity lost"))
        assert not made.dealer.ready
        assert run(made.send(intent("MSFT", 1))) == ["not-ready"]
        broker.fill(broker.truth.held[0], 100)
        run(made.beat())
        assert made.dealer.positions == {"AAPL": Decimal(100)}
        before = broker.snapshots
        broker.tell(Notice(1102, "restored"))
        assert run(made.send(intent("MSFT", 1))) == ["not-ready"]
        run(made.beat())
        assert broker.snapshots == before + 1
        assert run(made.send(intent("MSFT", 1))) == []


def test_6_a_lost_link_halts_nothing_and_everything_is_reconciled_when_it_is_back(
    tmp_path: Path,
) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        broker.drop_link()
        for _ in range(3):
            run(made.beat(11))
        broker.fill(broker.truth.held[0], 100)
        broker.restore_link()
        run(made.beat())
        assert made.dealer.ready
        assert made.order(BUY).state is S.FILLED
        assert made.switch.level is Level.RUNNING


def test_6_a_broker_that_says_nothing_at_all_is_away_and_needs_no_person(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.mute, broker.missing = True, ("positions", "open orders", "executions")
        run(made.beat(301))
        assert not made.dealer.ready
        assert run(made.send(intent("MSFT", 1, at=made.clock.now()))) == ["not-ready"]
        assert made.switch.level is Level.RUNNING
        before = broker.snapshots
        run(made.beat(1))
        assert broker.snapshots == before
        broker.mute, broker.missing = False, ()
        run(made.beat(10))
        assert made.dealer.ready


def test_6_an_order_that_waits_when_the_link_goes_is_not_sent(tmp_path: Path) -> None:
    with trading(tmp_path, messages_per_second=1) as (made, broker):
        first, second = BUY, intent("MSFT", 5)
        assert run(made.send(first, second)) == []
        broker.tell(Notice(1100, "lost"))
        run(made.beat(2))
        assert broker.truth.of(second.id) == []
        assert made.order(second).state is S.CANCELLED
        assert made.told[-1].at >= NOON


def test_6_another_account_is_refused(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.account = "DU2"
        again(made)
        with pytest.raises(HaltError, match="DU2"):
            run(made.dealer.start())
        assert made.switch.level is Level.HALTED


# 7. levels


def test_7_halted_sends_nothing_but_cancels(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        made.switch.halt("Ada", "enough")
        assert run(made.send(intent("MSFT", 1))) == ["level"]
        run(made.beat())
        assert [what for _, what, _ in broker.sent] == ["place", "cancel"]
        assert made.order(BUY).state is S.CANCELLED


def test_7_the_switch_is_read_last_before_the_socket(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        place = broker.place

        async def halting(order: Order, still: Still) -> None:
            await place(order, still)
            made.switch.halt("Ada", "now")

        broker.place = halting
        second = intent("MSFT", 5)
        assert run(made.send(BUY, second)) == ["level"]
        assert broker.truth.of(second.id) == []
        assert made.order(second).state is S.ABSENT


def test_7_the_switch_is_read_once_more_when_the_turn_at_the_socket_has_come(
    tmp_path: Path,
) -> None:
    with trading(tmp_path) as (made, broker):
        elsewhere = Switch(tmp_path / "switch.json", made.clock)  # another process kills
        broker.meanwhile = lambda: elsewhere.halt("Ada", "now")
        assert run(made.send(BUY)) == ["level"]
        run(made.beat(1))
        assert broker.sent == []
        assert made.order(BUY).state is S.ABSENT


def test_7_a_cancel_while_the_order_waits_for_its_turn_keeps_it_here(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.meanwhile = lambda: made.dealer._sender.cancel(made.order(BUY))
        run(made.send(BUY))
        broker.meanwhile = None
        run(made.beat(1))
        assert broker.truth.of(BUY.id) == []
        assert made.order(BUY).state.is_final


def test_7_no_limit_leaves_after_a_halt_that_came_while_it_waited(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(replace(BUY, style=Style.ADAPTIVE)))
        broker.meanwhile = lambda: made.switch.halt("Ada", "now")
        run(made.beat(5))
        run(made.beat(1))
        assert [what for _, what, _ in broker.sent] == ["place", "cancel"]


def test_7_paused_takes_no_new_risk_not_even_what_waits(tmp_path: Path) -> None:
    with trading(tmp_path, messages_per_second=1) as (made, broker):
        second = intent("MSFT", 5)
        run(made.send(BUY, second))
        made.switch.pause("Ada", "lunch")
        run(made.beat(1))
        assert [h.state for h in broker.truth.of(BUY.id)] == [S.CANCELLED]
        run(made.beat(1))
        assert broker.truth.of(second.id) == []
        refused = [e for e in made.told if isinstance(e, RefusedEvent)]
        assert [(e.intent.id, e.code) for e in refused] == [(second.id, "level")]


def test_7_a_switch_that_cannot_be_read_halts(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        made.switch.pause("Ada", "x")
        made.switch.resume("Ada", "y")
        (tmp_path / "switch.json").write_text("{")
        assert run(made.send(BUY)) == ["level"]
        assert broker.sent == []


def test_7_flattening_cancels_then_closes_until_all_is_flat(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY, intent("MSFT", -50)))
        for held in tuple(broker.truth.held):
            broker.fill(held, held.order.intent.shares)
        waiting = intent("XOM", 10)
        run(made.send(waiting))
        broker.next_cancel = "lost"
        run(made.dealer.flatten(made.quotes(), "Ada", "the end"))
        assert made.switch.level is Level.FLATTENING
        closing = [h.order.intent for h in broker.truth.working() if h.order.ref != waiting.id]
        assert {(i.symbol, i.signed_shares, i.purpose) for i in closing} == {
            ("AAPL", -100, Purpose.FLATTEN),
            ("MSFT", 50, Purpose.FLATTEN),
        }
        assert not made.dealer.flat
        for held in broker.truth.working():
            if held.order.ref != waiting.id:
                broker.fill(held, held.order.intent.shares - 1)
                broker.end(held)
        for _ in range(6):
            run(made.beat(11))
            for held in broker.truth.working():
                broker.fill(held, held.order.intent.shares)
        run(made.beat(1))
        assert made.dealer.flat
        assert made.alerts.count("flat") == 1
        late = intent("XOM", 1, decision="d7", at=made.clock.now())
        assert run(made.send(late)) == ["level"]


# 8. rejects


def test_8_refusals_in_a_row_halt_and_a_fill_between_does_not_count_on(tmp_path: Path) -> None:
    with trading(tmp_path, rejects_to_halt=3) as (made, broker):
        for n in range(5):
            broker.next_place = "arrive" if n == 2 else "reject"
            run(made.send(intent(shares=1, decision=str(n))))
            if n == 2:
                broker.fill(broker.truth.held[-1], 1)
            run(made.beat(1))
            assert made.switch.level is Level.RUNNING
        broker.next_place = "reject"
        run(made.send(intent(shares=1, decision="last")))
        run(made.beat(1))
        assert made.switch.level is Level.HALTED
        assert "3 orders in a row" in made.switch.read().why


# 9. numbers


def test_9_order_numbers_only_rise_whatever_the_broker_forgets(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.floor = 500
        run(made.send(BUY))
        broker.floor = 1
        run(made.send(intent("MSFT", 1)))
        again(made)
        run(made.dealer.start())
        run(made.send(intent("XOM", 1)))
        numbers = [held.order.order_id for held in broker.truth.held]
        assert numbers == [500, 501, 502]
        assert made.journal.order_id_mark == 502


def test_9_an_order_that_was_overtaken_in_the_queue_gets_another_number(tmp_path: Path) -> None:
    with trading(tmp_path, messages_per_second=1) as (made, broker):
        run(made.send(BUY))
        broker.fill(broker.truth.held[0], 100)
        run(made.beat(1))
        waiting = [intent("MSFT", 1), intent("XOM", 1), intent("BRK.B", 1)]
        run(made.send(*waiting))
        run(made.send(EXIT))
        for _ in range(4):
            run(made.beat(1))
        sent = [(held.order.intent.symbol, held.order.order_id) for held in broker.truth.held]
        assert [symbol for symbol, _ in sent] == ["AAPL", "MSFT", "AAPL", "XOM", "BRK.B"]
        numbers = [number for _, number in sent]
        assert numbers == sorted(set(numbers))
        overtaken = made.journal.attempts(waiting[1].id)
        assert [order.state for order in overtaken] == [S.ABSENT, S.WORKING]


def test_9_a_number_the_broker_calls_used_is_left_far_behind(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "lost"
        run(made.send(BUY))
        broker.tell(Notice(103, "duplicate order id", made.order(BUY).order_id))
        run(made.beat(3))
        run(made.beat(10))
        found = made.order(BUY)
        assert (found.attempt, found.state) == (2, S.WORKING)
        assert found.order_id > 100


# 10. the throttle


def test_10_a_burst_keeps_to_the_rate_and_a_cancel_goes_first(tmp_path: Path) -> None:
    many = {f"S{n:03d}": instrument(f"S{n:03d}") for n in range(60)}
    clock_desk, broker = scripted(tmp_path, messages_per_second=20)
    made = desk(tmp_path / "x", broker, clock_desk.clock, many, messages_per_second=20)
    clock_desk.close()
    run(made.dealer.start())
    intents = [intent(symbol, 1) for symbol in many]
    sound = {s: replace(made.quotes()["AAPL"], symbol=s) for s in many}
    run(made.dealer.submit(intents, sound))
    assert len(broker.sent) == 20
    run(made.dealer.cancel([made.order(intents[0])]))
    assert len(broker.sent) == 20
    due = made.dealer.next_at(made.clock.now())
    assert due == NOON + timedelta(seconds=1)
    made.wait(1.2)  # there has been room for a while: who sends was busy
    assert made.dealer.next_at(made.clock.now()) - made.clock.now() <= timedelta(seconds=0.1)
    for _ in range(8):
        made.wait(0.5)
        fresh = {s: replace(q, time=made.clock.now()) for s, q in sound.items()}
        run(made.dealer.beat(made.clock.now(), fresh))
    kinds = [what for _, what, _ in broker.sent]
    assert kinds.index("cancel") == 20
    assert kinds.count("place") == 60
    for at, _, _ in broker.sent:
        assert sum(timedelta(0) <= t - at < timedelta(seconds=1) for t, _, _ in broker.sent) <= 20
    made.close()


def test_10_all_cancels_go_before_more_orders_however_long_sending_takes(tmp_path: Path) -> None:
    many = {f"S{n:03d}": instrument(f"S{n:03d}") for n in range(60)}
    clock_desk, broker = scripted(tmp_path, messages_per_second=20)
    made = desk(tmp_path / "x", broker, clock_desk.clock, many, messages_per_second=20)
    clock_desk.close()
    run(made.dealer.start())
    intents = [intent(symbol, 1) for symbol in many]

    def beat() -> None:
        sound = made.quotes()["AAPL"]
        now = made.clock.now()
        fresh = {s: replace(sound, symbol=s, time=now) for s in many}
        run(made.dealer.beat(now, fresh))

    sound = {s: replace(made.quotes()["AAPL"], symbol=s) for s in many}
    run(made.dealer.submit(intents, sound))
    made.wait(1.0)
    beat()
    sent = len(broker.sent)
    assert sent == 40
    at_once = broker.cancel

    async def slowly(order: Order) -> None:
        made.wait(0.06)  # 20 of them take longer than a second
        await at_once(order)

    broker.cancel = slowly  # type: ignore[method-assign]
    made.wait(1.0)
    run(made.dealer.cancel([made.order(i) for i in intents[:40]]))
    for _ in range(6):
        beat()
        made.wait(0.5)
    kinds = [what for _, what, _ in broker.sent[sent:]]
    assert kinds == ["cancel"] * 40 + ["place"] * 20
    made.close()


def test_10_an_order_that_waits_too_long_is_given_up(tmp_path: Path) -> None:
    with trading(tmp_path, messages_per_second=0.1, queue_seconds=5) as (made, broker):
        run(made.send(BUY, intent("MSFT", 1)))
        run(made.beat(6))
        found = made.order(intent("MSFT", 1))
        assert found.state is S.CANCELLED
        assert "waited more than 5 s" in found.reason
        assert len(broker.truth.held) == 1


def test_10_the_queue_is_bounded(tmp_path: Path) -> None:
    with trading(tmp_path, most_working=1) as (made, _):
        codes = run(made.send(BUY, intent("MSFT", 1)))
        assert codes == ["working"]


# 11. surprises


def test_11_what_cannot_be_booked_halts_and_the_rest_still_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with trading(tmp_path, prompt=False) as (made, broker):
        run(made.send(BUY))
        fill = broker.fill(broker.truth.held[0], 100)
        broken = replace(fill, exec_id="00.77.01", shares="many")  # type: ignore[arg-type]
        for event in (broken, *broker.pending):
            broker.deliver(event)
        broker.pending.clear()
        run(made.beat())
        assert made.switch.level is Level.HALTED
        assert "could not be booked" in made.switch.read().why
        assert made.dealer.positions == {"AAPL": Decimal(100)}
        assert "event of the broker" in caplog.text


def test_11_an_order_that_could_not_be_sent_for_no_known_reason_is_unknown_and_halts(
    tmp_path: Path,
) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "bug"
        run(made.send(BUY))
        assert made.order(BUY).state is S.UNKNOWN
        assert made.switch.level is Level.HALTED


def test_11_an_order_that_was_surely_not_sent_is_tried_again(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.next_place = "transient"
        run(made.send(BUY))
        assert broker.truth.held == []
        run(made.beat(1))
        assert made.order(BUY).state is S.WORKING
        assert made.order(BUY).attempt == 1


def test_11_a_broker_without_orders_pauses_trading_by_its_own_word(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.tell(Notice(321, "the API interface is read-only", -1))
        run(made.beat())
        assert made.switch.level is Level.PAUSED


def test_11_a_message_that_the_broker_cannot_read_halts(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        broker.tell(Notice(UNREADABLE, "a message of 7 fields could not be read"))
        run(made.beat())
        assert made.switch.level is Level.HALTED
        assert "7 fields" in made.switch.read().why


# 12. the kill


def test_12_kill_halts_first_cancels_everything_and_looks(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY, intent("MSFT", 5)))
        levels: list[Level] = []
        cancel_all = broker.cancel_all

        async def spying() -> None:
            levels.append(made.switch.level)
            await cancel_all()

        broker.cancel_all = spying
        found = run(made.dealer.kill("Ada", "stop"))
        assert levels == [Level.HALTED]
        assert found.verified
        assert found.working == ()
        assert broker.truth.working() == []
        assert made.switch.read().by == "Ada"


def test_12_what_a_kill_could_not_cancel_is_cancelled_later_and_told(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))

        async def lost() -> None:
            raise TransientError("not connected")

        broker.cancel_all = lost
        broker.next_cancel = "lost"
        found = run(made.dealer.kill("Ada", "stop"))
        assert not found.verified
        assert found.working == (BUY.id,)
        for _ in range(3):
            run(made.beat(11))
        assert broker.truth.working() == []
        again(made)
        run(made.dealer.start())
        assert run(made.send(intent("MSFT", 1))) == ["level"]


# orders at work


def test_adaptive_limits_step_from_the_mid_to_the_far_side(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        asked = replace(BUY, style=Style.ADAPTIVE)
        run(made.send(asked))
        limits = [made.order(asked).limit]
        for _ in range(5):
            run(made.beat(5))
            limits.append(made.order(asked).limit)
        expected = ["100.00", "100.02", "100.05", "100.07", "100.10", "100.10"]
        assert limits == [Decimal(limit) for limit in expected]
        assert [what for _, what, _ in broker.sent] == ["place"] + 4 * ["modify"]


def test_an_order_ends_with_its_life(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        run(made.beat(59))
        assert made.order(BUY).state is S.WORKING
        run(made.beat(1))
        assert made.order(BUY).state is S.CANCELLED
        assert [what for _, what, _ in broker.sent] == ["place", "cancel"]


def test_what_was_committed_and_not_sent_is_sent_after_a_restart(tmp_path: Path) -> None:
    with trading(tmp_path, messages_per_second=1) as (made, broker):
        second = intent("MSFT", 5)
        run(made.send(BUY, second))
        again(made)
        run(made.dealer.start())
        run(made.beat(2))
        assert len(broker.truth.of(second.id)) == 1
        assert len(broker.truth.of(BUY.id)) == 1
        late = intent("XOM", 5)
        run(made.send(late))
        again(made)
        made.wait(120)
        run(made.dealer.start())
        run(made.beat(1))
        assert broker.truth.of(late.id) == []
        assert made.order(late).state.is_final


def test_the_dealer_says_when_it_is_to_be_called_next(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):

        def due() -> float:
            return (made.dealer.next_at(made.clock.now()) - made.clock.now()).total_seconds()

        assert due() == 300
        run(made.send(replace(BUY, style=Style.ADAPTIVE)))
        assert due() == 5
        run(made.beat(20))
        assert due() == 40
        broker.tell(Notice(1102, "restored"))
        assert due() == 1
        run(made.beat(1))
        broker.tell(Notice(161, "words", made.order(BUY).order_id))
        run(made.beat())
        assert due() == 2
        broker.missing = ("positions",)
        run(made.beat(2))
        broker.missing = ()
        assert made.switch.level is Level.HALTED
        assert due() == 10


def test_margins_are_asked_for_where_the_settings_say_so(tmp_path: Path) -> None:
    with trading(tmp_path, what_if=True) as (made, broker):
        run(made.send(BUY))
        assert made.order(BUY).state is S.WORKING

        async def poor(order: Order) -> Margin:
            return Margin(Decimal(10), Decimal(5), Decimal(9))

        async def mute(order: Order) -> Margin:
            raise TransientError("no answer")

        for n, answer in enumerate((poor, mute)):
            broker.what_if = answer
            assert run(made.send(intent("MSFT", 1, decision=str(n)))) == ["margin"]
        assert len(broker.truth.held) == 1


def test_everything_that_happens_is_published_with_its_ids(tmp_path: Path) -> None:
    with trading(tmp_path) as (made, broker):
        run(made.send(BUY))
        broker.fill(broker.truth.held[0], 100)
        run(made.beat())
        assert states(made, BUY) == [S.PLANNED, S.SENT, S.WORKING, S.FILLED]
        (filled,) = [e for e in made.told if isinstance(e, Filled)]
        assert (filled.decision, filled.execution.ref) == ("d1", BUY.id)
        assert [e.complete for e in made.told if isinstance(e, Reconciled)] == [True]
        assert not [e for e in made.told if isinstance(e, Alert)]


def test_a_day_with_the_paper_broker_ends_flat(tmp_path: Path) -> None:
    made = desk(tmp_path)
    run(made.dealer.start())
    run(made.beat())
    asked = [
        replace(intent("AAPL", 300), style=Style.ADAPTIVE),
        intent("MSFT", -200),
        replace(intent("XOM", 100), style=Style.LIMIT, limit=Decimal("100.2")),
    ]
    assert run(made.send(*asked)) == []
    for _ in range(6):
        run(made.beat(5, ask_size=100))
    expected = {"AAPL": Decimal(300), "MSFT": Decimal(-200), "XOM": Decimal(100)}
    assert made.dealer.positions == expected
    assert run(made.dealer.reconcile()).clean
    run(made.dealer.flatten(made.quotes(), "Ada", "the end"))
    run(made.beat(5))
    assert made.dealer.flat
    assert made.dealer.ledger.cash == made.broker.book.cash
    assert made.journal.verify() == ()
    made.close()


def test_the_broker_double_is_a_broker(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    assert isinstance(broker, ScriptedBroker)
    made.close()
