"""What a trader counts, with numbers worked by hand."""

from dataclasses import replace
from decimal import Decimal

import pytest

from dpa.clock import FixedClock
from dpa.telemetry import catalogue as c
from dpa.telemetry.meters import InstrumentMeters
from dpa.trading.events import Filled, OrderChanged
from dpa.trading.meters import TradingMeters
from dpa.trading.traffic import Traffic
from dpa.trading.types import OrderState, Side
from tests.telemetry.fed import EVENTS, FILL, INTENT, NOW, ORDER, STATUS, feed_trading, valued
from tests.telemetry.recorded import Recorded


@pytest.fixture
def told() -> Recorded:
    recorded = Recorded()
    feed_trading(recorded)
    return recorded


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def meters(recorded: Recorded) -> TradingMeters:
    return TradingMeters(recorded, FixedClock(NOW))


def test_a_fill_is_counted_with_what_it_cost_against_the_model(told):
    """100 shares at 200.06, decided at a mid of 200.00: 6 USD on 20,000, the model said 2 bps."""
    assert told.of(c.FILLS, side="buy") == 1
    assert told.of(c.FILL_SHARES, side="buy") == 100
    assert told.of(c.FILL_NOTIONAL, side="buy") == pytest.approx(20_006.0)
    assert told.of(c.FILL_MEASURED) == pytest.approx(20_000.0)
    assert told.of(c.FILL_SLIPPAGE, sign="paid") == pytest.approx(6.0)
    assert told.of(c.FILL_EXPECTED) == pytest.approx(4.0)
    assert told.of(c.FEES, sign="paid") == pytest.approx(1.0)
    assert told.of(c.FEES, sign="rebated") == pytest.approx(0.2)


def test_a_correction_is_no_second_fill(told):
    assert told.of(c.FILLS, side="buy") == 1
    assert told.of(c.FILL_CORRECTIONS) == 1


def test_a_sale_above_the_mid_is_gained(meters, recorded):
    sale = replace(INTENT, side=Side.SELL)
    meters.see(OrderChanged(NOW, replace(ORDER, intent=sale)))
    meters.see(Filled(NOW, replace(FILL, side=Side.SELL, price=Decimal("200.10"))))
    assert recorded.of(c.FILL_SLIPPAGE, sign="gained") == pytest.approx(10.0)


@pytest.mark.parametrize(
    "intent",
    [replace(INTENT, expected_cost_bps=float("nan")), replace(INTENT, reference=Decimal(0))],
    ids=["no model", "no mid"],
)
def test_what_cannot_be_compared_is_not_measured(meters, recorded, intent):
    meters.see(OrderChanged(NOW, replace(ORDER, intent=intent)))
    meters.see(Filled(NOW, FILL))
    assert recorded.of(c.FILLS, side="buy") == 1
    assert not {c.FILL_MEASURED, c.FILL_SLIPPAGE, c.FILL_EXPECTED} & recorded.metrics


def test_a_fill_of_a_stranger_counts_as_a_fill(meters, recorded):
    meters.see(Filled(NOW, replace(FILL, ref="")))
    assert recorded.of(c.FILLS, side="buy") == 1


def test_an_order_is_counted_once_a_state(told):
    for state in ("planned", "sent", "filled"):
        assert told.of(c.ORDERS, state=state) == 1
    assert told.observed[c.ORDER_SEND_SECONDS.name, ()] == [0.25]


def test_what_an_order_was_is_forgotten_when_it_ends(meters):
    for state in (OrderState.PLANNED, OrderState.SENT, OrderState.CANCELLED):
        meters.see(OrderChanged(NOW, replace(ORDER, state=state)))
    assert meters._states == {}


def test_the_account(told):
    assert told.of(c.NAV) == pytest.approx(1_002_000.5)
    assert told.of(c.DAY_PNL) == pytest.approx(2_000.5)
    assert told.of(c.DAY_PNL_RATIO) == pytest.approx(0.0020005)
    assert (told.of(c.GROSS), told.of(c.NET), told.of(c.LARGEST)) == (0.5, -0.1, 0.08)


@pytest.mark.parametrize("nav", ["NaN", "Infinity"])
def test_a_worth_that_is_not_known_is_never_exported(nav):
    exported: list[float] = []

    class Instrument:
        def __init__(self, *_: object) -> None: ...
        def set(self, value: float, tags: object) -> None:
            exported.append(value)

        inc = observe = set

    meters = TradingMeters(InstrumentMeters(*(Instrument,) * 3), FixedClock(NOW))
    meters.see(valued(nav=Decimal(nav)))
    assert exported == [5000.0, 0.5, -0.1, 0.08]  # cash and exposure; no NAV, no profit, no date
    meters.see(valued(prior=Decimal("NaN")))
    assert 1_002_000.5 in exported
    assert all(abs(value) < 2e9 for value in exported)


def test_without_answers_the_bars_are_counted_and_an_answer_ends_it(meters, recorded):
    for event in EVENTS[:4]:
        meters.see(event)
    assert recorded.of(c.BARS_WITHOUT_DECISION) == 2
    meters.see(EVENTS[4])
    assert recorded.of(c.BARS_WITHOUT_DECISION) == 0


def test_the_beat_is_the_last_moment_at_which_a_step_was_seen(recorded):
    clock = FixedClock(NOW)
    meters = TradingMeters(recorded, clock)
    meters.look(STATUS, in_session=True)
    clock.advance(60.0)
    meters.look(STATUS, in_session=True)
    assert recorded.of(c.TRADER_BEAT) == NOW.timestamp()
    meters.look({**STATUS, "steps": 8}, in_session=True)
    assert recorded.of(c.TRADER_BEAT) == NOW.timestamp() + 60.0


def test_a_trader_that_has_ended_is_neither_connected_nor_in_session(meters, recorded):
    meters.look({**STATUS, "state": "stopped"}, in_session=True)
    for metric in (c.TRADER_TRADING, c.GATEWAY_CONNECTED, c.SESSION_OPEN):
        assert recorded.of(metric) == 0
    assert c.TRADER_BEAT not in recorded.metrics


def test_a_limit_that_is_not_known_is_not_exported(told):
    limits = {dict(tags)["limit"] for name, tags in told.gauges if name == c.LIMIT_USED.name}
    assert limits == {"daily loss", "gross exposure"}


def test_messages_are_counted_over_all_connections(meters, recorded):
    traffic = Traffic()
    traffic.see(5, 9)
    meters.follow(lambda: traffic)
    traffic.see(8, 10)
    meters.look(STATUS, in_session=True)
    traffic.end()
    traffic.see(2, 3)
    meters.look(STATUS, in_session=True)
    assert recorded.of(c.GATEWAY_MESSAGES, direction="sent") == 5
    assert recorded.of(c.GATEWAY_MESSAGES, direction="received") == 4
