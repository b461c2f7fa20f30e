"""Messages field by field: hours, ticks that are news, and words for the past."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.simulation.tws import replies
from dpa.simulation.tws.history import DAY, HistoryError, bar_seconds, end_of, seconds_of
from dpa.simulation.tws.market_desk import Lines
from dpa.simulation.tws.streams import DELAYED, LIVE, BarLine, MarketLine, TickLine, Window
from dpa.simulation.tws.words import Contract, SimBar, SimQuote

NOON = datetime(2025, 11, 21, 17, tzinfo=UTC)
CONTRACT = Contract(265598, "AAPL", "NASDAQ", "NMS")
QUOTE = SimQuote(
    NOON, Decimal("99.99"), Decimal("100.01"), Decimal(100), 300, 400, 50, 12345, Decimal("99.5")
)


def test_hours_are_new_yorks_and_days_between_sessions_are_closed() -> None:
    friday = (datetime(2025, 11, 28, 14, 30, tzinfo=UTC), datetime(2025, 11, 28, 18, tzinfo=UTC))
    monday = (datetime(2025, 12, 1, 14, 30, tzinfo=UTC), datetime(2025, 12, 1, 21, tzinfo=UTC))
    assert replies.hours([friday, monday]) == (
        "20251128:0930-20251128:1300;20251129:CLOSED;20251130:CLOSED;20251201:0930-20251201:1600"
    )
    assert replies.hours([]) == ""


def ticks(
    line: MarketLine, quote: SimQuote, kind: int = LIVE
) -> dict[tuple[object, object], object]:
    """Message id and tick type, and what follows."""
    told = list(line.messages(quote, kind))
    return {(each[0], each[3]): each[4:] for each in told if each[0] != 58}


def test_the_first_quote_tells_everything_and_a_later_one_only_what_changed() -> None:
    line = MarketLine(7, CONTRACT, (), LIVE)
    first = ticks(line, QUOTE)
    assert first[1, 1] == (Decimal("99.99"), 300, True)
    assert first[1, 2] == (Decimal("100.01"), 400, True)
    assert first[1, 4] == (Decimal(100), 50, True)
    assert first[46, 45] == (str(int(NOON.timestamp())),)
    assert first[2, 8] == (12345,)
    assert first[1, 9] == (Decimal("99.5"), 0, 0)
    assert first[45, 49] == (False,)
    assert ticks(line, QUOTE) == {}
    assert ticks(line, replace(QUOTE, bid_size=200)) == {(2, 0): (200,)}
    assert ticks(line, replace(QUOTE, bid=None, halted=True)) == {
        (1, 1): (-1, 0, False),
        (45, 49): (True,),
    }


def test_delayed_ticks_have_types_of_their_own_and_the_kind_is_told_when_it_changes() -> None:
    line = MarketLine(7, CONTRACT, ("236",), DELAYED)
    delayed = ticks(line, QUOTE, DELAYED)
    assert {tick for _, tick in delayed} == {66, 67, 68, 74, 75, 88, 90}
    live = list(line.messages(QUOTE, LIVE))
    assert live[0] == (58, 1, 7, LIVE)
    assert {each[3] for each in live[1:]} == {1, 2, 4, 8, 9, 45, 46, 49, 89}


@pytest.mark.parametrize(("shares", "level"), [(0, 1.0), (999, 2.0), (1000, 3.0)])
def test_shares_to_borrow_are_told_to_those_who_ask(shares: int, level: float) -> None:
    told = ticks(MarketLine(7, CONTRACT, ("236", "233"), LIVE), replace(QUOTE, shortable=shares))
    assert told[45, 46] == (level,)
    assert told[2, 89] == (shares,)
    assert told[46, 48] == (f"100;50;{int(NOON.timestamp()) * 1000};12345;;true",)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            SimQuote,
            st.just(NOON),
            *[st.one_of(st.none(), st.integers(1, 5).map(Decimal)) for _ in range(3)],
            *[st.integers(0, 3) for _ in range(4)],
            st.none(),
            st.booleans(),
        ),
        max_size=10,
    )
)
def test_a_client_that_follows_every_tick_knows_every_quote(quotes: list[SimQuote]) -> None:
    line, book = MarketLine(7, CONTRACT, (), LIVE), {}
    for quote in quotes:
        for told in line.messages(quote, LIVE):
            if told[0] == 1:
                book[told[3]], book[{1: 0, 2: 3, 4: 5}[int(str(told[3]))]] = told[4], told[5]
            elif told[0] in (2, 45):
                book[told[3]] = told[4]
        assert book[1] == (quote.bid or -1)
        assert book[2] == (quote.ask or -1)
        assert book[0] == (quote.bid_size if quote.bid else 0)
        assert book[3] == (quote.ask_size if quote.ask else 0)
        assert book[8] == quote.volume
        assert book[49] == quote.halted
        if quote.last:
            assert (book[4], book[5]) == (quote.last, quote.last_size)


def test_ticks_are_told_once() -> None:
    trades, quotes, mids = (TickLine(9, CONTRACT, kind) for kind in ("Last", "BidAsk", "MidPoint"))
    when = int(NOON.timestamp())
    assert list(trades.messages(QUOTE)) == [(99, 9, 1, when, Decimal(100), 50, 0, "NASDAQ", "")]
    assert list(trades.messages(replace(QUOTE, bid=Decimal(99)))) == []
    assert len(list(trades.messages(replace(QUOTE, volume=12395)))) == 1
    assert list(quotes.messages(QUOTE)) == [(99, 9, 3, when, QUOTE.bid, QUOTE.ask, 300, 400, 0)]
    assert list(mids.messages(QUOTE)) == [(99, 9, 4, when, Decimal(100))]
    assert list(mids.messages(replace(QUOTE, ask_size=1))) == []
    assert list(mids.messages(replace(QUOTE, ask=None))) == []


def test_bars_are_dated_by_their_start_as_the_client_wants_it() -> None:
    bar = SimBar(NOON, *[Decimal(1)] * 4, 10, Decimal(1), 1)
    assert replies.bar_date(bar, 300, epoch=False) == "20251121 12:00:00 US/Eastern"
    assert replies.bar_date(bar, 300, epoch=True) == str(int(NOON.timestamp()))
    assert replies.bar_date(bar, DAY, epoch=True) == "20251121"
    assert replies.realtime_bar(4, bar)[3] == int(NOON.timestamp())


@pytest.mark.parametrize(
    ("size", "seconds"), [("5 secs", 5), ("1 min", 60), ("30 mins", 1800), ("1 day", DAY)]
)
def test_bar_sizes_are_those_of_tws(size: str, seconds: int) -> None:
    assert bar_seconds(size) == seconds


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("1800 S", 1800), ("2 D", 2 * DAY), ("1 W", 7 * DAY), ("1Y", 365 * DAY)],
)
def test_durations_are_those_of_tws(duration: str, seconds: int) -> None:
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize("duration", ["", "0 D", "-1 D", "2", "86401 S", "366 D", "1 H", "٢ D"])
def test_other_durations_are_refused_with_321(duration: str) -> None:
    with pytest.raises(HistoryError) as refused:
        seconds_of(duration)
    assert refused.value.code == 321


def test_other_ends_and_bar_sizes_are_refused() -> None:
    assert end_of("", NOON) == NOON
    assert end_of("20251121 12:00:00 US/Eastern", NOON - timedelta(days=3)) == NOON
    with pytest.raises(HistoryError) as refused:
        end_of("yesterday", NOON)
    assert refused.value.code == 10314
    with pytest.raises(HistoryError, match="Legal ones are: 1 secs"):
        bar_seconds("7 mins")


def test_lines_are_found_by_number_and_by_contract() -> None:
    lines: Lines[BarLine] = Lines()
    for number in (1, 2):
        lines.add(BarLine(number, CONTRACT))
    lines.add(BarLine(3, replace(CONTRACT, con_id=1)))
    assert [line.number for line in lines.of(CONTRACT)] == [1, 2]
    assert lines.drop(1)
    assert not lines.drop(1)
    assert [line.number for line in lines.of(CONTRACT)] == [2]
    assert (len(lines), 3 in lines, 1 in lines) == (2, True, False)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), max_size=50).map(sorted))
def test_a_window_counts_its_last_seconds(moments: list[float]) -> None:
    window = Window(10)
    for place, now in enumerate(moments):
        assert window.add(now) == sum(now - each < 10 for each in moments[: place + 1])
