"""Faults 2 to 9, 16 and 18 of orders and fills, on the whole stack.

Of every one: one order at the venue for an intent, the ledger is the venue's truth in the end, and
trading goes on or halts as it must. Number 1 is in ``test_process_killed.py``.
"""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.trading.events import Alert, Reconciled
from dpa.trading.types import OrderState, Style
from tests.trading.faults.rig import Floor, floor, run

S = OrderState


@pytest.mark.parametrize("times", [1, 2])
def test_02_a_place_that_never_arrives_is_sent_again_once_its_absence_is_proved(
    times: int, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="lose", what="order", times=times)
            wanted = f.intent()
            await f.submit(wanted)
            assert f.at_venue(wanted) == []
            await f.go_on(9)
            assert len(f.journal.attempts(wanted.id)) == 1, "nothing is proved yet"
            await f.go_on(45)
            attempts = f.journal.attempts(wanted.id)
            assert [o.state for o in attempts] == [S.ABSENT] * times + [S.FILLED]
            assert [o.order_id for o in attempts] == list(range(1, times + 2))
            f.check(wanted)
            f.check_running()

    run(scenario)


def test_02_a_place_that_is_worked_without_a_word_is_found_and_not_sent_again(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="hide", times=2)
            filled, resting = f.intent(), f.intent(100, f.names[1], away=True)
            await f.submit(filled, resting)
            await f.go_on(25)
            assert len(f.journal.attempts(filled.id)) == 1
            assert f.order(resting).state is S.WORKING
            f.check(filled, resting)
            await f.go_on(60)
            assert f.order(resting).state is S.CANCELLED, "its life is over"
            f.check(filled, resting)
            f.check_running()

    run(scenario)


def test_02_one_complete_list_that_leaves_orders_out_sends_nothing_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="withhold", messages=[3, 5, 11, 101], seconds=11)  # all but their ends
            filled, resting = f.intent(), f.intent(100, f.names[1], away=True)
            await f.submit(filled, resting)
            heard = len(f.told)
            await f.go_on(10.5)
            looks = [event for event in f.told[heard:] if isinstance(event, Reconciled)]
            assert [look.complete for look in looks] == [True]
            await f.go_on(15)
            assert len(f.journal.attempts(filled.id)) == len(f.journal.attempts(resting.id)) == 1
            assert f.order(filled).state is S.FILLED
            assert f.order(resting).state is S.WORKING
            f.check(filled, resting)
            f.check_running()

    run(scenario)


@pytest.mark.parametrize("code", [10349, 161, 10148, 399])
def test_03_an_error_code_on_a_live_order_ends_nothing(code: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intent(away=True)
            await f.submit(wanted)
            f.fault(do="false_cancel", code=code, message="so it says")
            await f.hear()
            await f.go_on(30)
            assert code in f.codes
            assert f.order(wanted).state is S.WORKING
            assert await f.submit(f.intent(decision="d2")) == ["symbol-busy"]
            await f.go_on(60)
            assert f.order(wanted).state is S.CANCELLED
            f.check(wanted)
            f.check_running()

    run(scenario)


def test_04_fills_between_a_cancel_and_its_answer_count(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="sizes", size=100)
            f.fault(do="slow_cancel", cancel_seconds=10)
            wanted = f.intent(3000)
            await f.submit(wanted)
            await f.go_on(6)
            before = f.held()
            await f.dealer.cancel_all()
            await f.hear()
            assert f.order(wanted).state is S.CANCELLING
            await f.go_on(30)
            assert before < f.held() < 3000
            assert f.order(wanted).state is S.CANCELLED
            f.check(wanted)
            f.check_running()

    run(scenario)


def test_04_a_fill_told_only_after_the_cancels_answer_counts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="sizes", size=100)
            wanted = f.intent(1000)
            f.venue.traits.withhold |= {11, 3, 5}  # fills, statuses, orders
            await f.submit(wanted)
            await f.go_on(6)
            f.venue.traits.withhold -= {3, 5}
            await f.dealer.cancel_all()
            await f.hear()
            assert f.at_venue(wanted)[0].status == "Cancelled"
            f.venue.traits.withhold.clear()
            await f.go_on(30)
            assert f.order(wanted).state is S.CANCELLED
            assert f.dealer.positions == {f.names[0]: f.held()}
            f.check(wanted)
            f.check_running()

    run(scenario)


def test_05_partial_fills_and_a_cancel_add_up_to_price_times_quantity(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="sizes", size=100)
            wanted = f.intent(3000)
            await f.submit(wanted)
            await f.go_on(17)
            await f.dealer.cancel_all()
            await f.go_on(10)
            (order,) = f.at_venue(wanted)
            fills = [fill.execution for fill in f.dealer.ledger.fills]
            assert len(fills) > 2
            shares = sum((e.shares for e in fills), Decimal(0))
            value = sum((e.shares * e.price for e in fills), Decimal(0))
            assert 0 < shares == order.filled < 3000
            average = f.dealer.ledger.position(f.names[0]).average_cost
            assert abs(average - value / shares) < Decimal("1e-9")
            assert abs(average - order.average_price) < Decimal("1e-9")
            f.check(wanted)
            f.check_running()

    run(scenario)


@pytest.mark.parametrize(
    "mischief", [("duplicate",), ("reorder",), ("duplicate", "reorder"), ("reorder", "early")]
)
def test_06_words_that_come_twice_or_in_another_order_count_once(
    mischief: tuple[str, ...], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            for kind in mischief:
                if kind == "early":
                    f.fault(do="commission", how="early")
                else:
                    f.fault(do=kind)
            f.fault(do="sizes", size=100)
            wanted = [f.intent(300, name) for name in f.names]
            await f.submit(*wanted)
            await f.go_on(40)
            assert [f.order(each).state for each in wanted] == [S.FILLED] * 4
            f.check(*wanted)
            f.check_running()

    run(scenario)


def test_06_a_status_before_its_order_makes_no_order_and_no_fill(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intent(away=True)
            await f.submit(wanted)
            (order,) = f.at_venue(wanted)
            early = replace(order, order_id=777, perm_id=9, filled=Decimal(50))
            f.gateway.sessions[0].order_status(early)
            await f.hear()
            await f.beat()
            assert f.dealer.positions == {}
            assert len(f.journal.orders()) == 1
            await f.go_on(90)
            f.check(wanted)
            f.check_running()

    run(scenario)


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("change", ["price", "shares", "bust"])
def test_07_a_fill_that_is_restated_is_replaced(change: str, dead: bool, tmp_path: Path) -> None:
    entries: dict[str, dict[str, Any]] = {
        "price": {"do": "correct", "price_change": "0.50"},
        "shares": {"do": "correct", "shares": 60},
        "bust": {"do": "bust"},
    }

    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intent()
            await f.submit(wanted)
            await f.go_on(20)
            cash = f.dealer.ledger.cash
            if dead:
                await f.die()
            f.fault(**entries[change])
            if dead:
                await f.begin()
            await f.go_on(60)
            assert f.dealer.ledger.cash != cash
            assert f.dealer.positions.get(f.names[0], 0) == f.held()
            assert f.held() == {"price": 100, "shares": 60, "bust": 0}[change]
            assert "correction" in f.alerts
            f.check(wanted)
            f.check_running()

    run(scenario)


@pytest.mark.parametrize("how", ["late", "never", "early"])
def test_08_positions_move_with_the_fill_whenever_its_fee_comes(how: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="commission", how=how, late_seconds=60)
            wanted = f.intent()
            await f.submit(wanted)
            await f.go_on(5)
            assert f.dealer.positions == {f.names[0]: Decimal(100)}
            assert bool(f.dealer.ledger.fees_pending) == (how != "early")
            await f.go_on(90)
            f.check(wanted, fees=how != "never")
            assert bool(f.dealer.ledger.fees_pending) == (how == "never")
            if how == "never":
                owed = f.venue.accounts[f.broker.account].fees
                assert f.dealer.ledger.cash - owed == f.venue.accounts[f.broker.account].cash
            f.check_running()

    run(scenario)


@pytest.mark.parametrize("code", [201, 203, 460, 110, 10289])
def test_09_a_refusal_ends_with_its_reason_and_some_in_a_row_halt(
    code: int, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path, trading={"rejects_to_halt": 3}) as f:
            f.fault(do="reject", code=code, message="not this one", times=3)
            wanted = [f.intent(100, name) for name in f.names[:3]]
            await f.submit(wanted[0])
            await f.go_on(25)
            first = f.order(wanted[0])
            assert (first.state, first.reason) == (S.REJECTED, f"{code}: not this one")
            f.check_running()
            await f.submit(*wanted[1:])
            await f.go_on(25)
            assert all(len(f.journal.attempts(each.id)) == 1 for each in wanted)
            assert all(f.order(each).state is S.REJECTED for each in wanted)
            if code == 201:
                f.check(*wanted)
            else:
                f.check(refused=wanted)
            await f.check_halt()

    run(scenario)


def test_16_orders_and_positions_of_others_are_seen_and_never_ours(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intent()
            await f.submit(wanted)
            await f.go_on(10)
            f.fault(do="manual", symbol=f.names[0], side="buy", shares=50)
            resting = {"client_id": 3, "order_id": 5, "limit": "1.00"}
            f.fault(do="manual", symbol=f.names[1], side="buy", shares=10, **resting)
            await f.go_on(330)
            assert f.dealer.positions == {f.names[0]: Decimal(150)}
            assert {"external-fill", "external-order"} <= set(f.alerts)
            strangers = [e for e in f.told if isinstance(e, Alert) and e.kind == "external-order"]
            assert len(strangers) == 1, "told once, however often it is seen"
            assert strangers[0].facts["perm_id"] > 0
            assert [o.ref for o in f.journal.orders()] == [wanted.id]
            f.check(wanted)
            await f.again()
            f.check(wanted)
            f.check_running()

    run(scenario)


async def _number_used(f: Floor) -> None:
    f.venue.book.used(f.broker.client.client_id, 60)


def test_18_a_number_that_was_used_is_left_behind_and_the_intent_sent_once(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            await _number_used(f)
            wanted, other = f.intent(), f.intent(100, f.names[1], style=Style.ADAPTIVE)
            await f.submit(wanted, other)
            assert 103 in f.codes
            await f.go_on(60)
            for each in (wanted, other):
                attempts = f.journal.attempts(each.id)
                assert [o.state for o in attempts] == [S.ABSENT, S.FILLED]
                assert attempts[-1].order_id > 60
            f.check(wanted, other)
            f.check_running()

    run(scenario)
