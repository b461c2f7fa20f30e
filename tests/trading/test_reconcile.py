"""What a snapshot proves, and what it does not."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from dpa.trading.broker import Account, BrokerSnapshot, OrderSaid
from dpa.trading.reconcile import Books, BreakKind, compare
from dpa.trading.types import Order, OrderState, Position
from tests.trading.dealing import ACCOUNT, NOON, intent

ORDER = Order(intent(), 1, 7, OrderState.SENT)
S = OrderState


def word(order: Order = ORDER, state: OrderState = S.WORKING, **changes: Any) -> OrderSaid:
    made = OrderSaid(order.ref, order.order_id, 17, 900, ACCOUNT, "AAPL", state)
    return replace(made, **changes)


def snapshot(**changes: Any) -> BrokerSnapshot:
    made = BrokerSnapshot(NOON, True, (), (), (), (), (), (), Account(ACCOUNT, None, None))
    return replace(made, **changes)


def books(*orders: Order, **changes: Any) -> Books:
    made = Books(
        account=ACCOUNT,
        orders={order.ref: order for order in orders},
        filled={},
        positions={},
        ended=(),
        provable=lambda order: True,
        quiet=lambda symbol: True,
    )
    return replace(made, **changes)


def held(shares: int, account: str = ACCOUNT) -> Position:
    return Position(account, "AAPL", Decimal(shares), Decimal(100))


def test_nothing_anywhere_is_clean() -> None:
    assert compare(snapshot(), books()).clean


def test_an_order_in_no_list_never_arrived() -> None:
    assert compare(snapshot(), books(ORDER)).absent == (ORDER,)


def test_an_incomplete_snapshot_proves_nothing() -> None:
    lost = snapshot(complete=False, missing=("open orders",))
    found = compare(lost, books(ORDER, positions={"AAPL": Decimal(5)}))
    assert not found.absent
    assert not found.breaks
    assert not found.clean


def test_an_order_sent_only_now_may_still_arrive() -> None:
    found = compare(snapshot(), books(ORDER, provable=lambda order: False))
    assert found.absent == ()
    assert found.waiting == (ORDER,)


@pytest.mark.parametrize("state", [S.WORKING, S.CANCELLING])
def test_an_order_that_was_acknowledged_is_gone_and_not_absent(state: OrderState) -> None:
    order = replace(ORDER, state=state)
    found = compare(snapshot(), books(order))
    assert (found.gone, found.absent) == ((order,), ())
    known = replace(ORDER, state=S.UNKNOWN, perm_id=900)
    assert compare(snapshot(), books(known)).gone == (known,)
    traded = compare(snapshot(), books(ORDER, filled={ORDER.ref: Decimal(1)}))
    assert traded.gone == (ORDER,)


@pytest.mark.parametrize("part", ["open_orders", "completed_orders"])
def test_an_order_that_is_found_is_told_of(part: str) -> None:
    state = S.WORKING if part == "open_orders" else S.CANCELLED
    said = word(state=state, order_id=7 if part == "open_orders" else 0)
    found = compare(snapshot(**{part: (said,)}), books(ORDER))
    assert found.words == ((ORDER, said),)
    assert not found.absent


def test_two_orders_of_one_intent_are_a_break_and_the_second_is_a_stray() -> None:
    second = word(order_id=8, perm_id=901)
    found = compare(snapshot(open_orders=(word(), second)), books(ORDER))
    assert [b.kind for b in found.breaks] == [BreakKind.DUPLICATE]
    assert found.strays == (second,)


def test_an_earlier_attempt_that_lives_is_a_break() -> None:
    again = replace(ORDER, attempt=2, order_id=9)
    found = compare(snapshot(open_orders=(word(),)), books(again))
    assert [b.kind for b in found.breaks] == [BreakKind.DUPLICATE]
    assert not found.absent


SECOND = Order(intent(), 2, 12, OrderState.SENT)
FIRST_ENDED = word(SECOND, S.CANCELLED, order_id=0, perm_id=111)  # lists of ended ones: no number


@pytest.mark.parametrize("state", [S.SENT, S.UNKNOWN, S.WORKING])
def test_an_earlier_attempt_that_ended_does_not_end_a_later_one(state: OrderState) -> None:
    known = replace(SECOND, state=state, perm_id=222)
    for ended in ((FIRST_ENDED,), (word(known, S.CANCELLED, order_id=0, perm_id=222), FIRST_ENDED)):
        found = compare(snapshot(completed_orders=ended), books(known))
        assert [said.perm_id for _, said in found.words] == [222] * (len(ended) - 1)
    found = compare(snapshot(completed_orders=(FIRST_ENDED,)), books(known))
    assert found.gone == (known,)


def test_an_ended_order_that_may_be_an_earlier_attempt_is_believed_late() -> None:
    early = compare(
        snapshot(completed_orders=(FIRST_ENDED,)), books(SECOND, provable=lambda order: False)
    )
    assert (early.words, early.waiting, early.absent) == ((), (SECOND,), ())
    late = compare(snapshot(completed_orders=(FIRST_ENDED,)), books(SECOND))
    assert late.words == ((SECOND, FIRST_ENDED),)
    assert late.absent == ()


def test_orders_of_others_are_marked_and_do_no_harm() -> None:
    manual = word(ref="", order_id=0)
    found = compare(snapshot(open_orders=(manual,)), books())
    assert found.external == (manual,)
    assert found.clean


def test_an_order_of_our_kind_that_the_journal_does_not_know_is_a_break() -> None:
    found = compare(snapshot(open_orders=(word(),)), books())
    assert [b.kind for b in found.breaks] == [BreakKind.UNKNOWN_REF]


def test_an_ended_order_that_is_open_is_alive_again_but_not_one_that_ended_meanwhile() -> None:
    ended = replace(ORDER, state=S.CANCELLED)
    seen = snapshot(open_orders=(word(),))
    assert compare(seen, books(ended, ended={ended.ref})).revived == ((ended, word()),)
    assert compare(seen, books(ended)).revived == ()


@pytest.mark.parametrize(("ours", "theirs"), [(0, 5), (5, 0), (5, -5), (5, 4)])
def test_positions_that_differ_are_a_break(ours: int, theirs: int) -> None:
    mine = books(positions={"AAPL": Decimal(ours)} if ours else {})
    seen = snapshot(positions=(held(theirs),) if theirs else ())
    (found,) = compare(seen, mine).breaks
    assert (found.kind, found.ours, found.theirs) == (BreakKind.POSITION, ours, theirs)
    busy = compare(seen, replace(mine, quiet=lambda symbol: False))
    assert busy.breaks == ()
    assert busy.suspected == (found,)
    assert not busy.clean


def test_other_accounts_are_not_ours() -> None:
    seen = snapshot(positions=(held(5, "DU2"),))
    assert compare(seen, books()).clean


def test_more_filled_than_intended_is_a_break() -> None:
    order = replace(ORDER, state=S.FILLED)
    found = compare(snapshot(), books(order, filled={order.ref: Decimal(101)}))
    assert [b.kind for b in found.breaks] == [BreakKind.OVERFILLED]
    assert "101 filled of 100" in str(found.breaks[0])
