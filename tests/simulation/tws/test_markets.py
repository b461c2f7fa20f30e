"""What the venue publishes is the source's bars, no more and never early."""

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.market.panel import Panel
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from dpa.simulation.tws.contracts import Hours, Listing
from dpa.simulation.tws.markets import Book, Market, market_of, planted_market, replayed_market
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Refused
from tests.simulation.tws.venues import Ear, flat_market, market, open_venue


def published(made):
    """Everything a client that follows all is told, from the first moment to the last."""
    venue, ear = SimVenue(made), Ear(markets=True)
    venue.attach(ear)
    while venue.advance():
        pass
    return venue, ear


def rebuilt(made, told):
    """Source bars put together from five-second bars: arrays of (n_bars, n_names)."""
    place = {name: k for k, name in enumerate(made.panel.names)}
    shape = made.panel.prices.shape
    found = {key: np.full(shape, np.nan) for key in ("open", "high", "low", "close", "volume")}
    opens = pd.DatetimeIndex(made.opens)
    for contract, bar in told:
        if not bar.volume and not bar.count:
            continue
        row = opens.searchsorted(bar.time, side="right") - 1
        at = row, place[contract.symbol]
        assert bar.time + timedelta(seconds=5) <= made.closes[row]
        if np.isnan(found["open"][at]):
            found["open"][at], found["volume"][at] = bar.open, 0
        found["high"][at] = np.fmax(found["high"][at], float(bar.high))
        found["low"][at] = np.fmin(found["low"][at], float(bar.low))
        found["close"][at] = float(bar.close)
        found["volume"][at] += bar.volume
    return found


@pytest.mark.parametrize("empty_bars", [True, False])
def test_five_second_bars_are_the_source_bars_exactly(empty_bars):
    made = market(names=3, empty_bars=empty_bars)
    _, ear = published(made)
    told = ear.heard("realtime_bar")
    assert told == ear.heard("history_bar")
    found = rebuilt(made, told)
    panel = made.panel
    for name in ("open", "high", "low", "volume"):
        np.testing.assert_array_equal(found[name], getattr(panel, name))
    np.testing.assert_array_equal(found["close"], panel.prices)
    # as TWS does, one for each five seconds, but for those before a name's first trade
    assert len(told) == 3 * (78 * 60 if empty_bars else 78 * 4)


def test_prices_are_those_of_the_planted_market_and_volumes_whole_shares():
    config = IntradayMarket(n_clusters=1, names_per_cluster=3, n_sessions=1, volume_profile=0.5)
    source, made = simulate_bars(config, 5).panel, market(names=3)
    np.testing.assert_array_equal(made.panel.prices, source.prices)
    np.testing.assert_array_equal(made.panel.high, source.high)
    np.testing.assert_array_equal(made.panel.volume, np.rint(source.volume))


def test_missing_bars_stay_missing():
    made = market(names=3)
    prices = made.panel.prices.copy()
    prices[10:13, 1] = np.nan
    prices[:20, 2] = np.nan  # lists late
    extras = {k: np.where(np.isnan(prices), np.nan, v) for k, v in made.panel.extras().items()}
    holes = Panel(
        made.panel.times, made.panel.names, prices, np.isfinite(prices), "5m", "XNYS", **extras
    )
    made = market_of(holes)
    venue, ear = published(made)
    found = rebuilt(made, ear.heard("realtime_bar"))
    np.testing.assert_array_equal(found["close"], prices)
    first = next(bar for contract, bar in ear.heard("realtime_bar") if contract.symbol == "N2")
    assert first.time == made.opens[20]
    bars = venue.history(venue.find(0, "N1"), venue.clock.now(), 86_400, 300, True)
    assert len(bars) == 75


def test_quotes_surround_trades_on_the_tick_grid():
    _, ear = published(market(names=3))
    for _, quote in ear.heard("quote"):
        assert 0 < quote.bid < quote.ask
        assert quote.bid % Decimal("0.01") == quote.ask % Decimal("0.01") == 0
        assert quote.bid_size >= 100
        assert quote.ask_size >= 100
        if quote.last is not None:
            spread = quote.ask - quote.bid
            assert abs((quote.bid + quote.ask) / 2 - quote.last) <= spread + Decimal("0.01")


def test_the_same_seed_says_the_same():
    first, second = (published(planted_market(9, 3))[1].said for _ in range(2))
    other = published(planted_market(10, 3))[1].said
    assert first == second
    assert first != other


def test_history_is_the_source_and_never_the_future():
    made = market(names=2, sessions=2, history=1)
    venue, ear = SimVenue(made), Ear(markets=True)
    venue.attach(ear)
    contract = venue.find(0, "N1")
    before = venue.history(contract, venue.clock.now(), 86_400, 300, True)
    assert len(before) == 78
    np.testing.assert_array_equal([float(b.close) for b in before], made.panel.prices[:78, 1])
    np.testing.assert_array_equal([b.volume for b in before], made.panel.volume[:78, 1])
    assert [b.time for b in before] == made.opens[:78]
    for _ in range(40):
        venue.advance()
        now = venue.clock.now()
        bars = venue.history(contract, now, 86_400, 300, True)
        pieces = [b for c, b in ear.heard("realtime_bar") if c.symbol == "N1"]
        if not pieces:
            continue
        assert bars[-1].close == pieces[-1].close
        assert sum(b.volume for b in bars) == sum(b.volume for b in pieces)
        assert max(b.high for b in bars) == max(b.high for b in pieces)
        fives = venue.history(contract, now, 600, 5, True)
        assert list(fives) == pieces[-120:]


@pytest.mark.parametrize("seconds", [60, 300, 900, 1800, 3600, 86_400])
def test_longer_and_shorter_bars_join_up(seconds):
    made = market(names=2)
    venue, _ = published(made)
    contract = venue.find(0, "N0")
    bars = venue.history(contract, venue.clock.now(), 86_400, seconds, True)
    assert sum(b.volume for b in bars) == made.panel.volume[:, 0].sum()
    assert float(max(b.high for b in bars)) == made.panel.high[:, 0].max()
    assert float(min(b.low for b in bars)) == made.panel.low[:, 0].min()
    assert float(bars[0].open) == made.panel.open[0, 0]
    assert float(bars[-1].close) == made.panel.prices[-1, 0]
    assert all(b.low <= b.average <= b.high for b in bars)
    assert len(bars) == -(-390 * 60 // seconds)


def test_history_that_is_not_there_is_refused():
    venue, _ = published(market(names=2))
    contract, now = venue.find(0, "N0"), venue.clock.now()
    assert venue.history(contract, now, 86_400, 7 * 86_400, True).code == 162
    early = venue.history(contract, venue.market.opens[0] - timedelta(days=3), 86_400, 300, True)
    assert isinstance(early, Refused)
    assert "no data" in early.message


def test_half_days_end_early():
    made = planted_market(1, 2, sessions=3, start="2024-07-02")
    closes = {moment.strftime("%m-%d %H:%M") for moment in made.closes}
    assert "07-03 17:00" in closes
    assert "07-03 20:00" not in closes
    venue = SimVenue(made)
    while venue.clock.now() < made.opens[78]:
        venue.advance()
    contract = venue.find(0, "N0")
    assert contract.liquid_hours[0][1].strftime("%m-%d %H:%M") == "07-03 17:00"
    assert contract.trading_hours[0][1].strftime("%H:%M") == "21:00"
    assert contract.liquid_hours[1][0].strftime("%m-%d") == "07-05"  # no session on the fourth


def test_the_clock_change_moves_the_open():
    made = planted_market(1, 1, sessions=2, start="2024-11-01")
    assert [m.strftime("%d %H:%M") for m in (made.opens[0], made.opens[78])] == [
        "01 13:30",
        "04 14:30",
    ]


@pytest.mark.parametrize("interval", ["1m", "30m", "1d"])
def test_other_bar_lengths(interval):
    made = planted_market(2, 2, sessions=2, interval=interval)
    _, ear = published(made)
    found = rebuilt(made, ear.heard("realtime_bar"))
    np.testing.assert_array_equal(found["close"], made.panel.prices)
    np.testing.assert_array_equal(found["volume"], made.panel.volume)


def test_recorded_bars_wide_and_long_and_where_history_begins(tmp_path):
    source = simulate_bars(IntradayMarket(n_clusters=1, names_per_cluster=3, n_sessions=3), 1).panel
    wide = pd.DataFrame(source.prices, index=source.times, columns=list(source.names))
    wide.rename_axis("time").reset_index().to_parquet(tmp_path / "wide.parquet")
    made = replayed_market(DataConfig(path=str(tmp_path / "wide.parquet"), start="2024-06-20"), 1)
    assert made.panel.n_bars == 2 * 78
    assert made.starts_at.strftime("%Y-%m-%d") == "2024-06-20"
    np.testing.assert_array_equal(made.panel.prices, source.prices[78:])
    rows = [
        (name, time - pd.Timedelta(300, "s"), *values)
        for k, name in enumerate(source.names)
        for time, *values in zip(
            source.times, source.open[:, k], source.high[:, k], source.low[:, k],
            source.prices[:, k], source.volume[:, k], strict=True,
        )
    ]  # fmt: skip
    columns = ["symbol", "time", "open", "high", "low", "close", "volume"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "long.parquet")
    data = DataConfig(path=str(tmp_path / "long.parquet"), stamps="auto")
    made = replayed_market(data, history=1, sessions=1)
    assert made.panel.n_bars == 2 * 78
    assert made.live_from == 78
    np.testing.assert_array_equal(made.panel.high, source.high[: 2 * 78])


def test_too_few_sessions_are_refused():
    panel = market(names=1).panel
    with pytest.raises(DataError, match="1 sessions of bars, 1 of them history"):
        market_of(panel, history=1)
    with pytest.raises(ConfigError, match="seed -1"):
        planted_market(-1)


def test_contracts_have_numbers_of_their_own_the_same_in_every_listing():
    made = market(names=2)
    hours = Hours("XNYS", made.opens[0], made.ends_at)
    listing = Listing(["AAPL", "BRK.B", "SPY"], hours)
    other = Listing(["SPY", "BRK.B"], hours)
    berkshire = listing.find(0, "BRK.B")
    assert berkshire.symbol == "BRK B"
    assert listing.find(0, "BRK B") is berkshire
    assert listing.find(berkshire.con_id, "") is berkshire
    assert other.find(0, "BRK B").con_id == berkshire.con_id
    assert listing.find(1, "SPY") is None
    with pytest.raises(ConfigError, match="listed already"):
        Listing(["BRK.B", "BRK B"], hours)


def test_a_flat_market_stays_flat():
    venue, ear = open_venue(flat_market(price=50.0), ear=Ear(markets=True))
    quote = venue.quote(venue.find(0, "N0"))
    assert quote.ask - quote.bid == Decimal("0.01")
    assert {q.bid for _, q in ear.heard("quote")} == {quote.bid}


def test_bars_shorter_than_their_trades_are_refused():
    made = market(names=1)
    with pytest.raises(DataError, match="bars are history"):
        Market(made.panel, made.panel.n_bars, Book())
