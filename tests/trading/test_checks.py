"""The last look: nothing wrong leaves, and closing a position is never held up by a limit."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.checks import (
    Exposure,
    RefusalCode,
    Situation,
    check,
    reduces,
    reductions_first,
)
from dpa.trading.switch import Level
from dpa.trading.types import Intent, Purpose, Style
from tests.trading.dealing import (
    ACCOUNT,
    CLOSES,
    INSTRUMENTS,
    NOON,
    OPENS,
    instrument,
    intent,
    quote,
    quotes,
    settings,
)

C = RefusalCode


def situation(**changes: Any) -> Situation:
    """All is well."""
    made = Situation(
        now=NOON,
        level=Level.RUNNING,
        ready=True,
        account=ACCOUNT,
        positions={},
        busy=(),
        working=0,
        known=(),
        instruments=INSTRUMENTS,
        quotes=quotes(NOON),
        nav=Decimal(1_000_000),
    )
    return replace(made, **changes)


def code(asked: Intent, exposure: Exposure | None = None, /, **changes: Any) -> str | None:
    """The code of the refusal, where there is one."""
    limits = {k: changes.pop(k) for k in tuple(changes) if k not in Situation.__annotations__}
    found = check(asked, situation(**changes), settings(**limits), exposure)
    return None if found is None else found.code


ENTRY = intent(shares=100)
EXIT = intent(shares=-100, purpose=Purpose.EXIT)
LIMITED = intent(shares=100, style=Style.LIMIT, limit=Decimal("100.3"))
HELD = {"AAPL": Decimal(100)}


def test_what_is_in_order_passes() -> None:
    assert code(ENTRY) is None
    assert code(EXIT, positions=HELD) is None
    assert code(LIMITED) is None


@pytest.mark.parametrize("price", ["NaN", "Infinity", "0", "-1"])
@pytest.mark.parametrize("asked", [ENTRY, EXIT, LIMITED])
def test_a_price_that_is_none_never_passes(price: str, asked: Intent) -> None:
    wrong = Decimal(price)
    closing = asked is EXIT and wrong == 0
    found = code(replace(asked, reference=wrong), positions=HELD)
    assert found == (None if closing else C.NOT_A_NUMBER)
    assert code(replace(asked, limit=wrong), positions=HELD) == C.NOT_A_NUMBER


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"level": Level.HALTED}, C.LEVEL),
        ({"ready": False}, C.NOT_READY),
        ({"account": "DU9"}, C.ACCOUNT),
        ({"known": {ENTRY.id, EXIT.id}}, C.DUPLICATE),
        ({"busy": {"AAPL"}}, C.SYMBOL_BUSY),
        ({"instruments": {}}, C.INSTRUMENT),
        ({"now": NOON + timedelta(seconds=60)}, C.EXPIRED),
        ({"instruments": {"AAPL": instrument("AAPL", lot=30)}, "positions": {}}, C.LOT),
        ({"quotes": {"AAPL": quote("AAPL", NOON, halted=True)}}, C.QUOTE),
    ],
)
@pytest.mark.parametrize("asked", [ENTRY, EXIT])
def test_what_neither_an_entry_nor_an_exit_passes(
    asked: Intent, changes: dict[str, Any], expected: str
) -> None:
    held = {"positions": {"AAPL": Decimal(110)}}
    assert code(asked, **(held | changes)) == expected


@pytest.mark.parametrize(
    ("now", "open_"),
    [
        (OPENS - timedelta(seconds=1), False),
        (OPENS, True),
        (CLOSES - timedelta(seconds=1), True),
        (CLOSES, False),
        (OPENS - timedelta(hours=23), False),
        (CLOSES + timedelta(days=1), False),
        (CLOSES + timedelta(days=1, seconds=1), True),  # hours told of old days tell nothing
        (NOON + timedelta(days=8), True),
    ],
)
def test_orders_are_for_the_session_only(now: Any, open_: bool) -> None:
    asked = replace(ENTRY, decided_at=now, expires_at=now + timedelta(seconds=60))
    found = code(asked, now=now, quotes=quotes(now))
    assert found == (None if open_ else C.SESSION)


RISKS: list[tuple[dict[str, Any], str]] = [
    ({"level": Level.PAUSED}, C.LEVEL),
    ({"level": Level.FLATTENING}, C.LEVEL),
    ({"max_order_usd": 100}, C.ORDER_VALUE),
    ({"added_lately": 100000}, C.RATE),
    ({"added_in_session": 20000}, C.RATE),
    ({"working": 1000}, C.WORKING),
    ({"quotes": {}}, C.QUOTE),
    ({"quotes": {"AAPL": quote("AAPL", NOON - timedelta(seconds=6))}}, C.QUOTE),
    ({"quotes": {"AAPL": quote("AAPL", NOON, delayed=True)}}, C.QUOTE),
    ({"quotes": {"AAPL": quote("AAPL", NOON, "100.2", "100.1")}}, C.QUOTE),
    ({"quotes": {"AAPL": quote("AAPL", NOON, "100.5", "100.6")}}, C.COLLAR),
]


@pytest.mark.parametrize(("changes", "expected"), RISKS)
def test_limits_on_risk_stop_an_entry_and_never_a_reduction(
    changes: dict[str, Any], expected: str
) -> None:
    assert code(ENTRY, **changes) == expected
    assert code(EXIT, **({"positions": HELD} | changes)) is None


def test_a_short_needs_shares_to_borrow_and_a_sale_of_what_is_held_does_not() -> None:
    hard = {"quotes": {"AAPL": quote("AAPL", NOON, shortable=False)}}
    assert code(intent(shares=-100), **hard) == C.SHORT
    assert code(EXIT, positions=HELD, **hard) is None


@pytest.mark.parametrize("purpose", [p for p in Purpose if not p.adds and p is not Purpose.MANUAL])
@pytest.mark.parametrize("held", [99, 0, -5])
def test_an_exit_that_would_open_a_position_is_refused(purpose: Purpose, held: int) -> None:
    asked = intent(shares=-100, purpose=purpose)
    assert code(asked, positions={"AAPL": Decimal(held)}) == C.NOT_REDUCING


def test_a_reduction_with_a_limit_needs_a_quote_to_make_it_from() -> None:
    asked = intent(shares=-100, purpose=Purpose.EXIT, style=Style.ADAPTIVE)
    assert code(asked, positions=HELD, quotes={}) == C.QUOTE
    assert code(asked, positions=HELD) is None


def test_a_limit_beyond_the_collar_is_refused_and_for_reductions_too() -> None:
    assert code(replace(LIMITED, limit=Decimal("100.51"))) == C.COLLAR
    sale = intent(shares=-100, purpose=Purpose.EXIT, style=Style.LIMIT, limit=Decimal("99"))
    assert code(sale, positions=HELD) == C.COLLAR


def test_odd_lots_can_be_closed_whole() -> None:
    lots = {"instruments": {"AAPL": instrument("AAPL", lot=30)}}
    assert code(EXIT, positions=HELD, **lots) is None
    assert code(intent(shares=-40, purpose=Purpose.REDUCE), positions=HELD, **lots) == C.LOT


def test_no_auction_no_order_for_it() -> None:
    none = {"instruments": {"AAPL": instrument("AAPL", has_close=False)}}
    assert code(replace(ENTRY, style=Style.CLOSE), **none) == C.INSTRUMENT


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({"max_name_weight": 0.25}, False),
        ({"max_name_weight": 0.10}, True),
        ({"max_gross": 0.55}, False),
        ({"max_gross": 0.40}, True),
        ({"max_net": 0.05}, True),
    ],
)
def test_weights_count_all_that_works(limits: dict[str, float], refused: bool) -> None:
    shares = {"MSFT": Decimal(2000), "XOM": Decimal(-1500)}
    exposure = Exposure(shares, dict.fromkeys(("MSFT", "XOM"), Decimal(100)))
    asked = intent(shares=1500)
    assert code(asked, exposure, **limits) == (C.WEIGHT if refused else None)
    exposure.add(asked)
    assert exposure.gross == 500_000
    assert exposure.net == 200_000


def test_a_nav_that_is_no_number_stops_new_risk_only() -> None:
    empty = Exposure({})
    for nav in (None, Decimal("NaN"), Decimal(0), Decimal(-1)):
        assert code(ENTRY, empty, nav=nav) == C.NOT_A_NUMBER
        assert code(EXIT, empty, nav=nav, positions=HELD) is None


@given(held=st.integers(-500, 500), shares=st.integers(-500, 500).filter(bool))
def test_a_reduction_ends_nearer_to_flat_and_on_the_same_side(held: int, shares: int) -> None:
    after = held + shares
    nearer = abs(after) < abs(held) and after * held >= 0
    assert reduces(intent(shares=shares), Decimal(held)) == nearer


def test_reductions_come_first() -> None:
    entry, exit_ = intent("MSFT", 10), EXIT
    assert reductions_first([entry, exit_], HELD) == [exit_, entry]
