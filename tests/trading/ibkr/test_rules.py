"""Rules that need no connection: accounts, hours, symbols, lines, paces, outages, codes."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.clock import FixedClock
from dpa.config import IbkrConfig
from dpa.errors import DataError, HaltError, TransientError
from dpa.trading.bars import Piece
from dpa.trading.broker import Account
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.codes import ORDER_CODES, state_after
from dpa.trading.ibkr.contracts import (
    Contracts,
    decimal,
    from_tws,
    parse_hours,
    parse_zone,
    read_instrument,
    to_tws,
)
from dpa.trading.ibkr.lines import Lines
from dpa.trading.ibkr.outages import expected_outage
from dpa.trading.ibkr.pace import Pace, Urgency
from dpa.trading.ibkr.safety import check_address, choose_account
from dpa.trading.ibkr.ticks import PieceStream, QuoteStream, bar_moment
from dpa.trading.ibkr.unexplained import Unexplained
from dpa.trading.ibkr.words import (
    TAGS,
    Known,
    other_currency,
    read_account,
    read_commission,
    read_execution,
)
from dpa.trading.types import Execution, OrderState, Side

NEW_YORK = ZoneInfo("America/New_York")
NOON = datetime(2024, 6, 17, 16, 0, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# accounts


@given(st.lists(st.from_regex(r"[A-Z]{1,3}[0-9]{5}", fullmatch=True), max_size=4), st.data())
def test_without_arming_every_account_traded_is_a_paper_account(
    managed: list[str], data: st.DataObject
) -> None:
    named = data.draw(st.none() | st.sampled_from(managed or ["DU11111"]))
    try:
        account = choose_account(IbkrConfig(account=named), managed)
    except HaltError:
        return
    assert account.startswith("DU")
    assert all(a.startswith(("DU", "F", "DF")) for a in managed)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost"])
def test_this_machine_may_be_connected_to(host: str) -> None:
    check_address(IbkrConfig(ibkr_host=host, ibkr_port=4002))


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "tws.example.com", "::"])
def test_no_other_machine_may_be(host: str) -> None:
    with pytest.raises(HaltError, match="not this machine"):
        check_address(IbkrConfig(ibkr_host=host))


def test_armed_with_another_number_nothing_is_traded() -> None:
    with pytest.raises(HaltError, match="U2"):
        choose_account(IbkrConfig(account="U1", arm_live="U2"), ["U1", "U2"])
    assert choose_account(IbkrConfig(account="U1", arm_live="U1"), ["U1", "U2"]) == "U1"


# contracts


@pytest.mark.parametrize(("ours", "theirs"), [("BRK.B", "BRK B"), ("AAPL", "AAPL")])
def test_symbols_go_there_and_back(ours: str, theirs: str) -> None:
    assert to_tws(ours) == theirs
    assert from_tws(theirs) == ours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # a half day, a weekend, and both sides of a change of the clock
            "20241129:0930-20241129:1300;20241130:CLOSED;20241202:0930-20241202:1600",
            [("2024-11-29 14:30", "2024-11-29 18:00"), ("2024-12-02 14:30", "2024-12-02 21:00")],
        ),
        (
            "20241101:0930-1600;20241104:0930-1600",
            [("2024-11-01 13:30", "2024-11-01 20:00"), ("2024-11-04 14:30", "2024-11-04 21:00")],
        ),
        (
            "20240617:0930-1200,1300-1600",
            [("2024-06-17 13:30", "2024-06-17 16:00"), ("2024-06-17 17:00", "2024-06-17 20:00")],
        ),
        ("20240617:1800-20240618:1700", [("2024-06-17 22:00", "2024-06-18 21:00")]),
        ("20240615:CLOSED", []),
        ("", []),
    ],
)
def test_hours_become_utc(text: str, expected: list[tuple[str, str]]) -> None:  # fault 24
    assert parse_hours(text, NEW_YORK) == tuple((utc(a), utc(b)) for a, b in expected)


@pytest.mark.parametrize("text", ["20240617", "nonsense:0930-1600", "20240617:9-10"])
def test_hours_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="hours"):
        parse_hours(text, NEW_YORK)


def test_time_zones_of_old_and_new_spelling() -> None:
    assert parse_zone("EST (Eastern Standard Time)").key == "America/New_York"
    assert parse_zone("US/Eastern").key == "US/Eastern"
    with pytest.raises(DataError, match="Mars"):
        parse_zone("Mars/Olympus")


@pytest.mark.parametrize(
    ("increment", "lot"), [(0.0, 1), (0.0001, 1), (1.0, 1), (1.5, 2), (100.0, 100), (1e308, 1)]
)
def test_lots_are_whole_shares(increment: float, lot: int) -> None:  # fault 25
    contract = SimpleNamespace(
        symbol="BRK B", conId=7, primaryExchange="NYSE", currency="USD", secType="STK"
    )
    details = SimpleNamespace(
        contract=contract,
        timeZoneId="US/Eastern",
        minTick=0.01,
        sizeIncrement=increment,
        liquidHours="20240617:0930-20240617:1600",
        orderTypes="LMT,MKT,MOC",
    )
    found = read_instrument(details)
    assert (found.symbol, found.lot, found.min_tick) == ("BRK.B", lot, Decimal("0.01"))
    assert found.has_close
    details.orderTypes, details.minTick = "LMT,MKT", 0.0
    with pytest.raises(DataError, match="tick"):
        read_instrument(details)


@given(st.decimals("0.0001", "99999", places=4))
def test_prices_survive_the_wire_exactly(price: Decimal) -> None:
    assert decimal(float(str(price))) == price


# money


@pytest.mark.parametrize("value", [1.7976931348623157e308, float("nan"), float("inf")])
def test_a_number_that_is_none_is_no_fee_and_no_fill(value: float) -> None:
    report = SimpleNamespace(execId="a.b.01.01", commission=value, currency="USD")
    assert read_commission(report) is None
    fill = SimpleNamespace(execId="a.b.01.01", side="BOT", shares=1.0, price=value)
    with pytest.raises(DataError, match=r"a\.b\.01\.01"):
        read_execution("A", fill)


def test_money_of_another_currency_is_not_counted_as_usd() -> None:
    told = [("DU1", tag, "150000000", "JPY") for tag in TAGS]
    assert other_currency("DU1", told) == "JPY"
    assert read_account("DU1", told) == Account("DU1", None, None, None)
    usd = [("DU1", tag, "1000", "USD") for tag in TAGS]
    assert other_currency("DU1", usd) == other_currency("DU1", []) == ""
    assert read_account("DU1", usd) == Account("DU1", *3 * (Decimal(1000),))


@pytest.mark.parametrize(
    ("number", "ticker", "currency", "name"),
    [
        (111, "SHOP", "USD", "SHOP"),
        (222, "SHOP", "CAD", "STK:SHOP:CAD:222"),
        (222, "SHOP", "USD", "STK:SHOP:USD:222"),
        (333, "BRK B", "USD", "BRK.B"),
        (333, "BRK B", "EUR", "STK:BRK.B:EUR:333"),
    ],
)
def test_only_the_listing_that_was_learned_has_its_symbol(
    number: int, ticker: str, currency: str, name: str
) -> None:
    contracts = Contracts(TwsClient(IbkrConfig(), FixedClock(NOON)))
    contracts._symbols = {111: "SHOP"}
    told = SimpleNamespace(secType="STK", conId=number, symbol=ticker, currency=currency)
    assert contracts.symbol(told) == name


# pace


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 60))
def test_in_no_second_leaves_more_than_was_allowed(most: float) -> None:  # fault 19
    clock = FixedClock(NOON)
    moments: list[float] = []

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    async def scenario() -> None:
        pace = TwsClient(IbkrConfig(), clock, most, sleep=sleep).pace
        for _ in range(100):
            await pace.turn(Urgency.ORDER)
            moments.append(clock.elapsed())

    asyncio.run(scenario())
    seconds = max(1.0, 1 / most)
    allowed = max(int(most), 1)
    for k in range(len(moments) - allowed):
        assert moments[k + allowed] - moments[k] >= seconds - 1e-6
    assert moments[-1] - moments[0] <= 100 / min(most, 1) + 100 * 2 / most


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(list(Urgency)), min_size=1, max_size=60), st.integers(1, 10))
def test_no_window_has_too_many_turns_and_the_urgent_go_first(
    wanted: list[Urgency], most: int
) -> None:
    clock = FixedClock(NOON)
    turns: list[tuple[float, Urgency]] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)  # who was given a turn takes it
        clock.advance(seconds)

    async def scenario() -> None:
        pace = Pace(most, clock, sleep)

        async def take(urgency: Urgency) -> None:
            await pace.turn(urgency)
            turns.append((clock.elapsed(), urgency))

        await asyncio.gather(*(take(urgency) for urgency in wanted))
        assert pace.waiting == 0

    asyncio.run(scenario())
    assert sorted(u for _, u in turns) == sorted(wanted)
    moments = [moment for moment, _ in turns]
    assert moments == sorted(moments)
    for k in range(len(moments) - most):
        assert moments[k + most] - moments[k] >= 1.0 - 1e-9
    waited = [urgency for _, urgency in turns[most:]]
    assert waited == sorted(waited)


def test_whoever_waits_is_told_that_nothing_was_sent() -> None:
    async def scenario() -> None:
        async def never(seconds: float) -> None:
            await asyncio.Event().wait()

        pace = Pace(1, FixedClock(NOON), never)
        await pace.turn(Urgency.ORDER)
        waiting = asyncio.create_task(pace.turn(Urgency.ORDER))
        await asyncio.sleep(0)
        pace.break_off("gone")
        with pytest.raises(TransientError, match="not sent: gone"):
            await waiting

    asyncio.run(scenario())


# lines


@given(
    st.lists(st.sampled_from("ABCDEFGHIJ"), unique=True),
    st.sets(st.sampled_from("ABCDEFGHIJ")),
    st.integers(1, 12),
    st.integers(1, 2),
)
def test_who_is_held_has_a_line_before_who_is_not(
    symbols: list[str], held: set[str], most: int, each: int
) -> None:
    lines = Lines(most, each)
    chosen = lines.choose(symbols, held)
    assert len(chosen) == min(len(symbols), lines.symbols)
    assert set(chosen) <= set(symbols)
    left_out = set(symbols) - set(chosen)
    if left_out & held:
        assert set(chosen) <= held


@given(st.integers(1, 20), st.integers(21, 40))
def test_refusals_teach_the_number_of_lines(true: int, asked: int) -> None:
    lines, in_use = Lines(100), 0
    answers = []
    for number in range(asked):
        lines.taken(number)
        answers.append(in_use < true)
        in_use += in_use < true
    for number, accepted in enumerate(answers):
        if not accepted:
            lines.refused(number)
    assert lines.most == true


# outages and codes


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2024-06-17 15:00", ""),
        ("2024-06-18 05:00", "nightly"),  # 01:00 in New York
        ("2024-12-18 06:00", "nightly"),  # 01:00 in winter
        ("2024-06-15 04:00", "weekly"),  # Saturday 00:00
        ("2024-06-15 03:30", "weekly"),  # Friday 23:30
        ("2024-06-18 03:46", "restart"),
    ],
)
def test_outages_are_known(moment: str, words: str) -> None:  # fault 13
    assert words in expected_outage(utc(moment))
    assert bool(words) == bool(expected_outage(utc(moment)))


@pytest.mark.parametrize("code", sorted(ORDER_CODES))
def test_no_code_alone_ends_an_order_that_was_acknowledged(code: int) -> None:  # fault 3
    state = state_after(code, acknowledged=True)
    assert state is None or not state.is_final


def test_an_inactive_order_is_refused_only_with_a_reason() -> None:
    known = Known("r", "DU1", "A", 1, 1)
    known.heard((1, 1, 5, "Inactive", 0.0, 10.0, ""))
    assert known.state is OrderState.UNKNOWN
    known.code, known.message = 201, "no"
    assert known.state is OrderState.REJECTED
    known.heard((1, 1, 5, "Inactive", 0.0, 10.0, "locate"))
    assert known.state is OrderState.WORKING


# ticks


def quotes() -> QuoteStream:
    return QuoteStream("A", FixedClock(NOON), lambda *_: None)


@pytest.mark.parametrize("price", [0.0, -1.0, 1.7976931348623157e308, float("nan")])
def test_prices_that_mean_none_are_none(price: float) -> None:  # fault 23
    stream = quotes()
    stream.price(1, 100.0, 300)
    stream.price(2, price, 300)
    assert stream.quote is not None
    assert stream.quote.ask is None
    assert not stream.quote.sound


def test_after_a_silence_both_sides_must_come_anew() -> None:  # faults 11, 23
    stream = quotes()
    stream.price(1, 99.9, 300)
    stream.price(2, 100.1, 300)
    stream.suspend()
    stream.price(4, 90.0, 100)
    stream.size(3, 500)
    stream.price(1, 89.9, 300)
    assert stream.quote is not None
    assert (stream.quote.bid, stream.quote.ask) == (Decimal("89.9"), None)
    assert not stream.quote.sound
    assert stream.suspended
    stream.price(2, 90.1, 300)
    assert stream.quote.sound
    assert stream.quote.mid == 90


@pytest.mark.parametrize(("rate", "shortable"), [(3.0, True), (2.0, False), (1.0, False)])
def test_what_must_be_located_cannot_be_sold_short_now(rate: float, shortable: bool) -> None:
    stream = quotes()
    stream.price(1, 100.0, 300)
    stream.generic(46, rate)
    assert stream.quote is not None
    assert stream.quote.shortable is shortable
    stream.generic(46, 3.0)
    stream.size(89, 0)
    assert stream.quote is not None
    assert not stream.quote.shortable


@pytest.mark.parametrize("tick", [66, 67, 68])
def test_delayed_ticks_mark_the_quote(tick: int) -> None:  # fault 22
    stream = quotes()
    stream.price(tick, 100.0, 300)
    assert stream.quote is not None
    assert stream.quote.delayed


@pytest.mark.parametrize(
    "stamp", ["1718631000", 1718631000, "20240617 09:30:00 US/Eastern", "20240617 13:30:00 UTC"]
)
def test_bars_are_stamped_in_every_way(stamp: object) -> None:
    assert bar_moment(stamp) == utc("2024-06-17 13:30")


def test_a_stamp_that_is_no_moment_is_refused() -> None:
    with pytest.raises(DataError, match="20240617"):
        bar_moment("20240617")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=40))
def test_growing_bars_become_pieces_without_gaps_or_repetitions(
    updates: list[tuple[int, int]],
) -> None:
    taken: list[Piece] = []
    stream = PieceStream("A", True, taken.append, lambda *_: None)
    newest: dict[int, int] = {}
    begin = 1718631000
    for slot, volume in sorted(updates):
        newest[slot] = volume
        stream.bar(
            SimpleNamespace(
                date=begin + 5 * slot, open=1, high=1, low=1, close=1, volume=volume, average=1
            )
        )
    stream.flush(bar_moment(begin + 5 * 60), fill=True)
    slots = [round((p.start.timestamp() - begin) / 5) for p in taken]
    assert slots == list(range(min(newest), 60))
    assert [p.volume for p in taken] == [newest.get(slot, 0) for slot in slots]


# positions


def fill(name: str, shares: int, side: Side = Side.BUY) -> Execution:
    return Execution(name, "DU1", "A", side, Decimal(shares), Decimal(1), NOON)


def test_fills_explain_positions_and_nothing_else_does() -> None:  # faults 16, 31
    seen = Unexplained()
    seen.position("DU1", "A", 100.0)
    assert not seen.any
    assert seen.filled(fill("x.1.01", 50))
    assert not seen.filled(fill("x.1.01", 50))
    assert seen.any
    seen.position("DU1", "A", 150.0)
    assert not seen.any
    assert seen.filled(fill("x.1.02", 40))
    seen.position("DU1", "A", 140.0)
    assert not seen.any
    seen.position("DU1", "A", 0.0)
    assert seen.any
    seen.settled(complete=True)
    assert not seen.any
