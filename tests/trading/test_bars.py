"""Bars built of five-second pieces, against bars summed up by hand."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import DataError
from dpa.trading.bars import BarBuilder, Piece

OPEN = datetime(2024, 7, 1, 13, 30, tzinfo=UTC)
CLOSE = OPEN + timedelta(minutes=5)
S = timedelta(seconds=1)


def make_builder(symbols=("AAA", "BBB"), begun=OPEN, interval="5m", wait=2.0) -> BarBuilder:
    return BarBuilder(symbols, interval, "XNYS", wait, begun)


def make_piece(symbol="AAA", start=OPEN, price=100.0, volume=10.0, **changes) -> Piece:
    given = {"open": price, "high": price + 0.1, "low": price - 0.1, "close": price + 0.05,
             "average": price}  # fmt: skip
    return Piece(symbol, start, volume=volume, **{**given, **changes})


def fill(builder, symbol, opens=OPEN, minutes=5, skip=(), **changes) -> list[Piece]:
    pieces = [
        make_piece(symbol, opens + 5 * k * S, 100 + 0.01 * k, **changes)
        for k in range(minutes * 12)
        if k not in skip
    ]
    for piece in pieces:
        builder.add(piece, piece.start + 5 * S)
    return pieces


def test_a_bar_is_due_at_its_close_when_every_last_piece_has_come():
    builder = make_builder()
    pieces = fill(builder, "AAA")
    fill(builder, "BBB")
    assert builder.due(CLOSE - S) == ()
    (bar,) = builder.due(CLOSE)
    assert builder.due(CLOSE) == ()
    assert bar.panel.times[0] == CLOSE
    assert (bar.missing, bar.late, bar.known_at) == ((), False, CLOSE)
    panel = bar.panel
    assert panel.open[0, 0] == pieces[0].open
    assert panel.prices[0, 0] == pieces[-1].close
    assert panel.high[0, 0] == max(p.high for p in pieces)
    assert panel.low[0, 0] == min(p.low for p in pieces)
    assert panel.volume[0, 0] == sum(p.volume for p in pieces)
    assert panel.dollar_volume[0, 0] == pytest.approx(sum(p.volume * p.average for p in pieces))


def test_a_bar_that_is_not_whole_is_given_up_after_the_wait():
    builder = make_builder()
    fill(builder, "AAA")
    assert builder.due(CLOSE + 1.9 * S) == ()
    (bar,) = builder.due(CLOSE + 60 * S)
    assert bar.missing == ("BBB",)
    assert bar.late is False
    assert bar.known_at == CLOSE + 2 * S
    assert list(bar.panel.mask[0]) == [True, False]


def test_a_bar_whose_last_piece_came_after_the_wait_is_late():
    builder = make_builder(("AAA",))
    fill(builder, "AAA", skip=(59,))
    builder.add(make_piece(start=CLOSE - 5 * S), CLOSE + 3 * S)
    (bar,) = builder.due(CLOSE + 4 * S)
    assert bar.late
    assert bar.missing == ()
    assert bar.known_at == CLOSE + 3 * S


def test_nothing_traded_is_no_price_and_not_missing():
    builder = make_builder()
    fill(builder, "AAA")
    fill(builder, "BBB", volume=0.0)
    (bar,) = builder.due(CLOSE)
    assert bar.missing == ()
    assert np.isnan(bar.panel.prices[0, 1])
    assert bar.panel.volume[0, 1] == 0
    assert not bar.panel.mask[0, 1]


@pytest.mark.parametrize(
    ("skipped", "missing"),
    [
        (range(6), ()),
        (range(7), ("AAA",)),
        (range(0, 60, 10), ()),
        (range(59, 60), ()),
        (range(58, 60), ("AAA",)),  # its close would be ten seconds old
        (range(30, 60), ("AAA",)),
    ],
)
def test_a_bar_of_which_a_tenth_or_the_end_was_not_seen_is_missing(skipped, missing):
    builder = make_builder(("AAA",))
    fill(builder, "AAA", skip=skipped)
    (bar,) = builder.due(CLOSE + 5 * S)
    assert bar.missing == missing
    assert bool(np.isnan(bar.panel.prices[0, 0])) == bool(missing)


def test_pieces_twice_too_late_unsound_or_outside_sessions_change_nothing():
    builder = make_builder(("AAA",))
    fill(builder, "AAA")
    builder.add(make_piece(start=OPEN, price=500.0), OPEN)  # again
    builder.add(make_piece(start=OPEN - 5 * S, price=500.0), OPEN)  # before the open
    builder.add(make_piece("CCC", price=500.0), OPEN)
    for bad in (np.nan, 0.0, -1.0, np.inf):
        builder.add(make_piece(start=OPEN + 20 * S, close=bad), OPEN)
    (bar,) = builder.due(CLOSE)
    assert bar.panel.high[0, 0] < 101
    builder.add(make_piece(start=CLOSE - 5 * S, price=500.0), CLOSE + S)
    assert (builder.dropped, builder.unsound) == (3, 4)


def test_a_bar_whose_beginning_was_not_seen_is_not_built():
    builder = make_builder(("AAA",), begun=OPEN + 90 * S)
    fill(builder, "AAA", OPEN + 90 * S, minutes=10)
    (bar,) = builder.due(OPEN + timedelta(minutes=10, seconds=3))
    assert bar.panel.times[0] == OPEN + timedelta(minutes=10)


def closes_between(builder, start, end) -> list[datetime]:
    return [bar.panel.times[0].to_pydatetime() for bar in builder.due(end)
            if bar.panel.times[0] > start]  # fmt: skip


def test_the_grid_knows_half_days_weekends_and_the_change_of_the_clocks():
    half_day = datetime(2024, 7, 3, 13, 30, tzinfo=UTC)
    builder = make_builder(("AAA",), begun=half_day)
    closes = closes_between(builder, half_day, datetime(2024, 7, 8, 13, 36, tzinfo=UTC))
    assert closes[41] == datetime(2024, 7, 3, 17, 0, tzinfo=UTC)  # 13:00 in New York
    assert closes[42] == datetime(2024, 7, 5, 13, 35, tzinfo=UTC)
    assert closes[-1] == datetime(2024, 7, 8, 13, 35, tzinfo=UTC)
    assert len(closes) == 42 + 78 + 1
    friday = datetime(2024, 3, 8, 20, 55, tzinfo=UTC)
    closes = closes_between(make_builder(("AAA",), begun=friday), friday,
                            datetime(2024, 3, 11, 13, 40, tzinfo=UTC))  # fmt: skip
    assert closes == [
        datetime(2024, 3, 8, 21, 0, tzinfo=UTC),
        datetime(2024, 3, 11, 13, 35, tzinfo=UTC),
    ]


def test_the_next_bar_is_known_in_advance():
    builder = make_builder(begun=datetime(2024, 7, 3, 16, 56, tzinfo=UTC))
    assert builder.next_due(datetime(2024, 7, 3, 16, 56, tzinfo=UTC)) == datetime(
        2024, 7, 5, 13, 35, 2, tzinfo=UTC
    )


def test_daily_bars_are_refused():
    with pytest.raises(DataError, match="1d"):
        make_builder(interval="1d")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_bars_are_those_summed_up_by_hand_however_often_one_asks(data):
    """Random pieces over half an hour, asked for at random moments."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    symbols = ("AAA", "BBB", "CCC")
    pieces = [
        make_piece(symbol, OPEN + 5 * k * S, float(rng.uniform(50, 150)), float(rng.integers(0, 3)))
        for k in range(360)
        for symbol in symbols
        if rng.random() < 0.92
    ]
    builder, given_bars = make_builder(symbols), []
    asks = set(data.draw(st.lists(st.integers(0, len(pieces) - 1), max_size=30)))
    for number, piece in enumerate(pieces):
        now = piece.start + 5 * S
        builder.add(piece, now)
        if number in asks:
            given_bars += builder.due(now)
    given_bars += builder.due(OPEN + timedelta(minutes=31))
    assert [bar.panel.times[0] for bar in given_bars] == [
        OPEN + timedelta(minutes=5 * k) for k in range(1, 7)
    ]
    for bar in given_bars:
        ends = bar.panel.times[0].to_pydatetime()
        for k, symbol in enumerate(symbols):
            mine = [p for p in pieces if p.symbol == symbol
                    and ends - timedelta(minutes=5) <= p.start < ends]  # fmt: skip
            traded = [p for p in mine if p.volume > 0]
            ended = any(p.start >= ends - 10 * S for p in mine)
            assert (symbol in bar.missing) == (len(mine) < 54 or not ended)
            if symbol not in bar.missing and traded:
                assert bar.panel.open[0, k] == traded[0].open
                assert bar.panel.high[0, k] == max(p.high for p in traded)
                assert bar.panel.low[0, k] == min(p.low for p in traded)
                assert bar.panel.prices[0, k] == traded[-1].close
                assert bar.panel.volume[0, k] == sum(p.volume for p in traded)
            else:
                assert np.isnan(bar.panel.prices[0, k])
