"""An intent has one id, and no two intents share one."""

from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.identity import intent_id, is_ours
from dpa.trading.types import Purpose, Side

WHAT = st.tuples(
    st.text(max_size=8),
    st.text(max_size=8),
    st.text(max_size=8),
    st.sampled_from(Side),
    st.sampled_from(Purpose),
)


def test_the_id_is_the_same_on_every_machine() -> None:
    found = intent_id("DU1", "20260302T1700-ab12", "AAPL", Side.BUY, Purpose.ENTER)
    assert found == "dpa-34126d6bcd8c38c6ba0b164f"


@given(WHAT, WHAT)
def test_two_intents_share_an_id_only_when_they_are_the_same(one: tuple, other: tuple) -> None:
    assert (intent_id(*one) == intent_id(*other)) == (one == other)


def test_names_that_run_together_stay_apart() -> None:
    one = intent_id("DU1", "2", "AAPL", Side.BUY, Purpose.EXIT)
    assert one != intent_id("DU", "12", "AAPL", Side.BUY, Purpose.EXIT)


@given(WHAT)
def test_our_orders_are_told_from_others(what: tuple) -> None:
    assert is_ours(intent_id(*what))


def test_what_a_person_typed_is_not_ours() -> None:
    for ref in ("", "dpa-", "dpa-manual", "dpa-" + "g" * 24, "dpa-" + "a" * 25, "x" + "a" * 27):
        assert not is_ours(ref)
