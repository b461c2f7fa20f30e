"""Words come late, twice and in any order; the order ends in the same state, never earlier."""

from dataclasses import replace
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.trading import lifecycle
from dpa.trading.broker import OrderSaid
from dpa.trading.types import Order, OrderState
from tests.trading.bookkeeping import a_word, an_order

S = OrderState
WORDS = st.builds(
    a_word,
    st.sampled_from([S.WORKING, S.CANCELLING, S.FILLED, S.CANCELLED, S.REJECTED, S.UNKNOWN]),
    st.integers(0, 100),
    code=st.sampled_from([0, 161, 201, 202, 10147, 10148, 10349]),
    message=st.sampled_from(["", "because"]),
)
CALLS = st.lists(st.one_of(WORDS, st.integers(1, 120).map(Decimal)), max_size=6)


def after(order: Order, call: OrderSaid | Decimal) -> Order:
    if isinstance(call, OrderSaid):
        return lifecycle.told(order, call)
    return lifecycle.filled(order, call)


@given(CALLS.flatmap(lambda calls: st.tuples(st.just(calls), st.permutations(calls))))
def test_the_order_of_words_and_fills_makes_no_difference(calls: tuple) -> None:
    ends = []
    for arrangement in calls:
        order, most = an_order(state=S.SENT), Decimal(0)
        for call in arrangement:
            most = most if isinstance(call, OrderSaid) else max(most, call)
            order = after(order, call if isinstance(call, OrderSaid) else most)
        ends.append(order)
    assert ends[0] == ends[1]


@given(CALLS)
def test_nothing_the_broker_says_moves_an_order_back(calls: list) -> None:
    order = an_order(state=S.SENT)
    for call in calls:
        following = after(order, call)
        assert lifecycle.can_become(order.state, following.state)
        assert not (order.state.is_final and not following.state.is_final)
        assert following.reported >= order.reported
        assert after(following, call) == following
        order = following


@pytest.mark.parametrize("code", sorted(lifecycle.HINT_CODES))
@pytest.mark.parametrize("state", [S.CANCELLED, S.REJECTED])
def test_a_guess_of_the_client_never_ends_an_order(code: int, state: OrderState) -> None:
    word = a_word(state, code=code, message="TIF was set to DAY")
    assert lifecycle.is_hint(word)
    for before in (S.SENT, S.WORKING, S.CANCELLING, S.UNKNOWN):
        assert lifecycle.told(an_order(state=before), word).state is before


@pytest.mark.parametrize("code", [0, 201, 202, 203, 110, 460, 10289])
def test_a_rejection_of_the_broker_ends_it_with_the_reason(code: int) -> None:
    word = a_word(S.REJECTED, code=code, message="no")
    end = lifecycle.told(an_order(state=S.SENT), word)
    assert end.state is S.REJECTED
    assert end.reason == (f"{code}: no" if code else "no")
    assert end.perm_id == 7001


def test_a_fill_after_the_cancel_counts() -> None:
    order = lifecycle.told(an_order(state=S.CANCELLING), a_word(S.CANCELLED))
    assert lifecycle.filled(order, Decimal(40)).state is S.CANCELLED
    assert lifecycle.filled(order, Decimal(100)).state is S.FILLED


def test_an_order_is_live_until_the_fills_the_broker_spoke_of_have_come() -> None:
    order = lifecycle.told(an_order(state=S.WORKING), a_word(S.CANCELLED, 40))
    assert lifecycle.owed(order, Decimal(10)) == 30
    assert lifecycle.is_live(order, Decimal(10))
    assert not lifecycle.is_live(order, Decimal(40))
    said_filled = lifecycle.told(an_order(state=S.WORKING), a_word(S.FILLED))
    assert lifecycle.owed(said_filled, Decimal(0)) == 100
    assert not lifecycle.is_live(said_filled, Decimal(100))


def test_any_word_ends_our_belief_that_an_order_never_arrived() -> None:
    order = lifecycle.absent(an_order(state=S.UNKNOWN), "not in any list")
    assert order.state is S.ABSENT
    assert lifecycle.told(order, a_word(S.WORKING)).state is S.WORKING
    assert lifecycle.filled(order, Decimal(1)).state is S.WORKING


@pytest.mark.parametrize("state", list(S))
def test_our_own_acts_start_only_where_they_may(state: OrderState) -> None:
    order = an_order(state=state)
    assert (lifecycle.absent(order, "w").state is S.ABSENT) == (
        state in (S.SENT, S.UNKNOWN, S.ABSENT)
    )
    assert (lifecycle.given_up(order, "w") != order) == (state is S.PLANNED)
    doubted = lifecycle.doubted(order, "w")
    assert (doubted.state is S.UNKNOWN) == state.may_fill
    assert (doubted == order) == (not state.may_fill)
    for moved in (lifecycle.sent(order), lifecycle.cancelling(order), doubted):
        assert lifecycle.can_become(state, moved.state)


def test_only_a_list_of_open_orders_brings_a_final_order_back() -> None:
    for state in (S.CANCELLED, S.REJECTED, S.ABSENT):
        order = an_order(state=state, reason="said so")
        alive = lifecycle.revived(order, a_word(S.WORKING, 20))
        assert (alive.state, alive.reported, alive.reason) == (S.WORKING, 20, "")
    filled = an_order(state=S.FILLED)
    assert lifecycle.revived(filled, a_word(S.WORKING)).state is S.FILLED


def test_every_pair_of_states_is_either_forward_or_refused() -> None:
    for one, other in permutations(S, 2):
        both = lifecycle.can_become(one, other), lifecycle.can_become(other, one)
        allowed_back = S.UNKNOWN in (one, other) and {one, other} & {S.WORKING, S.CANCELLING}
        assert both in ((True, False), (False, True)) or allowed_back


def test_a_word_that_changes_nothing_gives_the_same_object() -> None:
    order = replace(an_order(state=S.WORKING), perm_id=7001)
    assert lifecycle.told(order, a_word(S.WORKING)) is order
