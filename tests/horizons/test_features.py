"""Every feature against values worked out plainly from the raw arrays, and what must not matter."""

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest

from dpa.config import HorizonsConfig
from dpa.horizons.feature_set import available_features, choose_features
from dpa.horizons.features.market import across, ranks
from dpa.horizons.registry import FEATURES
from dpa.horizons.views import BatchView, ViewSettings
from dpa.market.interval_specs import get_interval_spec
from dpa.market.panel import Panel
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from tests.horizons.irregular import (
    CLOCK_CHANGE,
    HALF_DAY,
    WEEKEND,
    all_features,
    irregular_panel,
    on_dates,
)

MINUTES, LONG, COVERAGE = 5, 1950, 0.5
EASTERN = "America/New_York"


class Plain:
    """Features once more, by pandas over whole history, windows of rows and groups of dates."""

    def __init__(self, panel: Panel, minutes: int = MINUTES, session: int = 390) -> None:
        self.minutes, self.session = minutes, session
        frame = {name: pd.DataFrame(array) for name, array in panel.extras().items()}
        self.close, self.open = pd.DataFrame(panel.prices), frame["open"]
        self.high, self.low, self.volume = frame["high"], frame["low"], frame["volume"]
        self.member = pd.DataFrame(panel.mask)
        self.log = np.log(self.close)
        self.ret = self.log - self.log.shift(1)
        local = panel.times.tz_convert(EASTERN)
        self.date = pd.Series(local.strftime("%Y-%m-%d"))
        self.elapsed = np.asarray(local.hour * 60 + local.minute - 570, float)
        self.length = np.where(self.date == HALF_DAY, 210.0, 390.0)
        self.place = self.date.groupby(self.date).cumcount()
        self.sigma = np.sqrt(self.mean(self.ret**2, LONG) / minutes) * 1e4
        held = self.ret.where(self.member)
        self.market = held.mean(axis=1).where(held.notna().sum(axis=1) >= 3)
        # what a name is held against: the mean of the others, itself left out
        others = {k: held.drop(columns=k) for k in held}
        self.others = pd.DataFrame(
            {k: v.mean(axis=1).where(v.notna().sum(axis=1) >= 2) for k, v in others.items()}
        )
        self.beta = self.mean(self.ret * self.others, LONG) / self.mean(self.others**2, LONG)
        self.residual = self.ret - self.beta.shift(1) * self.others
        apart = held.sub(self.market, axis=0) ** 2
        self.apart = apart.mean(axis=1).where(apart.notna().sum(axis=1) >= 3)

    def bars(self, minutes: float) -> int:
        return math.ceil(minutes / self.minutes)

    def enough(self, values, minutes):
        known = values.notna().astype(float).rolling(self.bars(minutes)).sum()
        return known >= COVERAGE * self.bars(minutes)

    def mean(self, values, minutes):
        n = self.bars(minutes)
        return values.rolling(n, min_periods=1).mean().where(self.enough(values, minutes))

    def scaled(self, values, minutes):
        return values * 1e4 / (self.sigma * math.sqrt(minutes))

    def of_session(self, values, minute):
        return (values * 1e4 / self.sigma).div(np.sqrt(minute), axis=0)

    def earlier_same_place(self, values):
        """Mean over the same place of five sessions before, three of them at least."""
        parts = []
        dates = list(dict.fromkeys(self.date))
        table = values.set_index([self.date, self.place])
        for back in range(1, 6):
            moved = {d: dates[k - back] if k >= back else None for k, d in enumerate(dates)}
            wanted = pd.MultiIndex.from_arrays([self.date.map(moved), self.place])
            parts.append(table.reindex(wanted).to_numpy())
        stack = np.stack(parts)
        count = np.isfinite(stack).sum(axis=0)
        total = np.nansum(stack, axis=0)
        return pd.DataFrame(np.where(count >= 3, total / np.maximum(count, 1), np.nan))

    # -- the features

    def return_scaled(self, m):
        return self.scaled(self.log - self.log.shift(self.bars(m)), m)

    def momentum(self, m):
        newest = self.bars(m / 12)
        path = self.log.shift(newest) - self.log.shift(self.bars(m))
        return self.scaled(path, m - newest * self.minutes)

    def reversal(self, m):
        return self.scaled(self.mean(self.log, m) - self.log, m)

    def volatility(self, m):
        return np.log(np.sqrt(self.mean(self.ret**2, m) / self.minutes) * 1e4 / self.sigma)

    def range_surprise(self, m):
        width = np.log(self.high / self.low)
        return np.log(self.mean(width, m) / self.mean(width, LONG))

    def close_location(self, m):
        n = self.bars(m)
        top = self.high.rolling(n, min_periods=1).max().where(self.enough(self.high, m))
        bottom = self.low.rolling(n, min_periods=1).min().where(self.enough(self.low, m))
        place = (2 * self.close - top - bottom) / (top - bottom).where(top > bottom)
        return place.where(~((top == bottom) & self.close.notna()), 0.0)

    def jump(self, m):
        n, square = self.bars(m), self.ret**2
        largest = square.rolling(n, min_periods=1).max().where(self.enough(square, m))
        return self.scaled(np.sqrt(largest), self.minutes)

    def beta_market(self):
        return self.beta

    def residual_market(self, m):
        return self.scaled(self.mean(self.residual, m) * self.bars(m), m)

    def market_return(self, m):
        usual = np.sqrt(self.mean(self.market**2, LONG) / self.minutes * m)
        return (self.mean(self.market, m) * self.bars(m) / usual).to_frame()

    def dispersion(self, m):
        return (0.5 * np.log(self.mean(self.apart, m) / self.mean(self.apart, LONG))).to_frame()

    def return_rank(self, m):
        moved = (self.log - self.log.shift(self.bars(m))).where(self.member)
        count = moved.notna().sum(axis=1)
        rank = moved.rank(axis=1)
        return (2 * (rank - 0.5)).div(count.where(count >= 3), axis=0) - 1

    def log_sigma(self):
        logs = np.log(self.sigma)
        held = logs.where(self.member)
        return logs.sub(held.mean(axis=1).where(held.notna().sum(axis=1) >= 3), axis=0)

    def session_elapsed(self):
        return pd.DataFrame(self.elapsed / self.length)

    def session_left(self):
        return pd.DataFrame((self.length - self.elapsed) / 60)

    def overnight_gap(self):
        first = self.open.groupby(self.date, sort=False).transform(lambda x: x.iloc[0])
        last = self.close.groupby(self.date, sort=False).nth(-1)
        last.index = self.date.drop_duplicates().to_numpy()
        before = last.shift(1).reindex(self.date).reset_index(drop=True)
        return self.scaled(np.log(first / before), self.session)

    def return_since_open(self):
        first = self.open.groupby(self.date, sort=False).transform(lambda x: x.iloc[0])
        return self.of_session(np.log(self.close / first), self.elapsed)

    def return_at_this_time(self):
        return self.scaled(self.earlier_same_place(self.ret), self.minutes)

    def volume_surprise(self, m):
        recent, usual = self.mean(self.volume, m), self.mean(self.volume, LONG)
        return np.log((recent / usual).where((recent > 0) & (usual > 0)))

    def volume_for_the_time(self):
        usual = self.earlier_same_place(self.volume)
        return np.log((self.volume / usual).where((self.volume > 0) & (usual > 0)))

    def volume_imbalance(self, m):
        flow = self.mean(np.sign(self.ret) * self.volume, m)
        traded = self.mean(self.volume.where(self.ret.notna()), m)
        return flow / traded.where(traded > 0)

    def vwap_distance(self, m):
        paid = self.mean(self.close * self.volume, m)
        weighted = self.close * self.mean(self.volume.where(self.close.notna()), m)
        return self.scaled(np.log((weighted / paid).where((weighted > 0) & (paid > 0))), m)

    def vwap_distance_session(self):
        def so_far(values):
            return values.fillna(0.0).groupby(self.date, sort=False).cumsum()

        paid = so_far(self.close * self.volume)
        weighted = self.close * so_far(self.volume.where(self.close.notna()))
        return self.of_session(
            np.log((weighted / paid).where((weighted > 0) & (paid > 0))), self.elapsed
        )

    def illiquidity(self, m):
        traded = self.close * self.volume
        now = (self.ret.abs() / traded.where(traded > 0)) * 1e6
        return np.log(self.mean(now, m).clip(lower=1e-12))


@pytest.fixture(scope="module")
def panel() -> Panel:
    return irregular_panel()


@pytest.fixture(scope="module")
def computed(panel):
    """Feature to values (n_bars, n_assets), and sigma."""
    values, sigma = all_features().compute(BatchView(panel, all_features().settings))
    return dict(zip(all_features().names, values.transpose(2, 0, 1), strict=True)), sigma


@pytest.fixture(scope="module")
def plain(panel):
    return Plain(panel)


def expected(plain: Plain, name: str) -> np.ndarray:
    base = re.fullmatch(r"(.*?)(?:_(\d+)m)?", name)
    minutes = () if base[2] is None else (int(base[2]),)
    with np.errstate(all="ignore"):
        values = getattr(plain, base[1])(*minutes).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


@pytest.mark.parametrize("name", all_features().names)
def test_feature_is_what_plain_arithmetic_says(name, computed, plain, panel):
    values = expected(plain, name)
    found = computed[0][name]
    values = np.broadcast_to(values, found.shape)
    assert np.isfinite(found).mean() > 0.4
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(values))
    np.testing.assert_allclose(found, values, rtol=2e-5, atol=2e-6)


def test_sigma_is_what_plain_arithmetic_says(computed, plain):
    np.testing.assert_allclose(computed[1], plain.sigma.to_numpy(), rtol=1e-9)


@pytest.mark.parametrize("date", [CLOCK_CHANGE, HALF_DAY, WEEKEND, "2024-12-02"])
def test_the_gap_spans_the_night_before_whatever_its_length(date, computed, panel):
    """By hand, from two raw prices; a Monday's from Friday's close."""
    rows = on_dates(panel, date, date)
    first, last = rows[0], rows[0] - 1
    with np.errstate(invalid="ignore"):
        gap = np.log(panel.open[first] / panel.prices[last]) * 1e4
    for row in rows:
        by_hand = gap / (computed[1][row] * math.sqrt(390.0))
        np.testing.assert_allclose(computed[0]["overnight_gap"][row], by_hand, rtol=1e-6)


def test_the_half_day_has_its_own_clock(computed, panel):
    elapsed, left = (computed[0][n][:, 0] for n in ("session_elapsed", "session_left"))
    half = on_dates(panel, HALF_DAY, HALF_DAY)
    assert len(half) == 42
    np.testing.assert_allclose(elapsed[half], np.arange(1, 43) / 42, rtol=1e-6)
    assert left[half[-1]] == 0.0
    whole = on_dates(panel, CLOCK_CHANGE, CLOCK_CHANGE)
    assert len(whole) == 78
    assert left[whole[0]] == pytest.approx(385 / 60)


def test_bounded_features_stay_in_their_bounds(computed):
    for name, values in computed[0].items():
        if name.startswith(("volume_imbalance", "close_location", "return_rank")):
            assert np.nanmax(np.abs(values)) <= 1.0 + 1e-6, name


def test_volume_without_a_close_weighs_nothing(panel):
    """A vendor may know the volume of a bar and not its price."""
    prices = panel.prices.copy()
    gaps = np.random.default_rng(8).random(prices.shape) < 0.2
    prices[gaps] = np.nan
    torn = dataclasses.replace(panel, prices=prices, mask=panel.mask & ~gaps)
    plain, view = Plain(torn), BatchView(torn, all_features().settings)
    for name in ("vwap_distance_60m", "vwap_distance_session", "volume_imbalance_60m"):
        with np.errstate(all="ignore"):
            found = FEATURES[name].compute(view)
        np.testing.assert_allclose(found, expected(plain, name), rtol=1e-6, atol=1e-9)


def test_a_name_without_a_close_has_no_close_location():
    panel = irregular_panel()
    flat, missing = np.full_like(panel.prices, 10.0), np.full_like(panel.prices, 10.0)
    missing[1500, 0] = np.nan
    still = dataclasses.replace(
        panel, prices=missing, mask=np.isfinite(missing), open=flat, high=flat, low=flat
    )
    place = FEATURES["close_location_30m"].compute(BatchView(still, all_features().settings))
    assert np.isnan(place[1500, 0])
    assert place[1500, 1] == 0.0


# -- what must not matter


@pytest.mark.parametrize("factor", [4.0, 0.37])
def test_the_unit_of_prices_matters_to_illiquidity_alone(factor, computed, panel):
    """Traded value is in units of price: there the log of the factor comes off."""
    raw = {name: getattr(panel, name) * factor for name in ("prices", "open", "high", "low")}
    values, sigma = all_features().compute(
        BatchView(dataclasses.replace(panel, **raw), all_features().settings)
    )
    np.testing.assert_allclose(sigma, computed[1], rtol=1e-6)
    for place, name in enumerate(all_features().names):
        shift = -math.log(factor) if name.startswith("illiquidity") else 0.0
        np.testing.assert_allclose(
            values[:, :, place], computed[0][name] + shift, rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_the_unit_of_volume_matters_to_illiquidity_alone(computed, panel):
    more = dataclasses.replace(panel, volume=panel.volume * 3.7)
    values, _ = all_features().compute(BatchView(more, all_features().settings))
    for place, name in enumerate(all_features().names):
        shift = -math.log(3.7) if name.startswith("illiquidity") else 0.0
        np.testing.assert_allclose(
            values[:, :, place], computed[0][name] + shift, rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_a_split_of_all_history_changes_nothing(computed, panel):
    raw = {name: getattr(panel, name) / 2 for name in ("prices", "open", "high", "low")}
    split = dataclasses.replace(panel, volume=panel.volume * 2, **raw)
    values, _ = all_features().compute(BatchView(split, all_features().settings))
    for place, name in enumerate(all_features().names):
        np.testing.assert_allclose(
            values[:, :, place], computed[0][name], rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_the_layout_of_arrays_in_memory_changes_no_bit(computed, panel):
    raw = {"prices": panel.prices, "mask": panel.mask} | panel.extras()
    turned = dataclasses.replace(panel, **{k: np.asfortranarray(v) for k, v in raw.items()})
    values, _ = all_features().compute(BatchView(turned, all_features().settings))
    for place, name in enumerate(all_features().names):
        np.testing.assert_array_equal(values[:, :, place], computed[0][name], err_msg=name)


def test_means_over_many_names_have_the_same_bits_alone_and_together():
    values = np.random.default_rng(0).normal(size=(40, 333))
    values[values > 2] = np.nan
    together = across(values)
    for row in range(40):
        np.testing.assert_array_equal(across(values[row : row + 1])[0], together[row])


def test_ranks_by_hand():
    line = np.array([[3.0, np.nan, 1.0, 1.0, 7.0], [1.0, 2.0, *[np.nan] * 3]])
    np.testing.assert_allclose(ranks(line)[0], [0.25, np.nan, -0.5, -0.5, 0.75])
    assert np.isnan(ranks(line)[1]).all()


# -- names, intervals, data that lack something


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_a_name_carries_the_declared_look_back(name):
    feature = FEATURES[name]
    found = re.search(r"_(\d+)m$", name)
    if found is not None:
        assert feature.minutes == int(found[1])
    else:
        assert feature.minutes in (0, 390, 1950)
    assert feature.words
    assert feature.serves[0] <= feature.serves[1]
    assert feature.version >= 1
    assert feature.source.lstrip().startswith("@feature")


@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "30m", "60m", "1d"])
def test_what_fits_is_whole_bars_and_enough_of_them(interval):
    spec = get_interval_spec(interval, None)
    for feature, why in available_features(
        spec, frozenset(FEATURES) | {"cluster"}, HorizonsConfig(), "XNYS"
    ):
        if feature.intraday:
            assert bool(why) or interval != "1d"
        elif feature.minutes:
            whole = feature.minutes % spec.bar_minutes == 0
            held = feature.minutes >= feature.bars * spec.bar_minutes
            short = interval == "1d" or feature.minutes <= 1950
            fits = why != f"does not fit bars of {spec.interval}"
            assert fits == (whole and held and short), feature.name


@pytest.fixture(scope="module")
def daily() -> Panel:
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=3, n_sessions=160, interval="1d", missing=0.02
    )
    return simulate_bars(market, 3).panel


def test_daily_bars_have_the_features_that_fit_them(daily):
    config = HorizonsConfig()
    spec = get_interval_spec("1d", None)
    chosen = choose_features(spec, frozenset(daily.extras()), config, "XNYS")
    values, sigma = chosen.compute(BatchView(daily, chosen.settings))
    assert chosen.settings.sigma_minutes == 60 * 390
    assert np.isfinite(sigma[80:]).mean() > 0.8
    for place, name in enumerate(chosen.names):
        assert not FEATURES[name].intraday
        assert np.isfinite(values[90:, :, place]).mean() > 0.5, name
    assert {"momentum_8190m", "return_scaled_390m", "overnight_gap"} <= set(chosen.names)
    assert not {"return_scaled_5m", "session_left", "momentum_390m"} & set(chosen.names)


def test_a_daily_momentum_by_hand(daily):
    """21 sessions less the newest two: from close t-21 to close t-2."""
    settings = ViewSettings(get_interval_spec("1d", None), 60 * 390, 0.5)
    view = BatchView(daily, settings)
    found, sigma = FEATURES["momentum_8190m"].compute(view), view.now("sigma")
    log = np.log(daily.prices)
    for bar in (100, 159):
        by_hand = (log[bar - 2] - log[bar - 21]) * 1e4 / (sigma[bar] * math.sqrt(19 * 390))
        np.testing.assert_allclose(found[bar], by_hand, rtol=1e-9)


def test_features_say_what_the_data_lack(panel):
    spec = get_interval_spec("5m", None)
    reasons = {
        f.name: why
        for f, why in available_features(spec, frozenset({"open"}), HorizonsConfig(), "XNYS")
    }
    assert reasons["close_location_30m"] == "needs high, low"
    assert reasons["volume_surprise_30m"] == "needs volume"
    assert reasons["cluster_score"] == "needs a cluster model"
    assert reasons["overnight_gap"] == reasons["return_scaled_5m"] == ""
    assert reasons["momentum_8190m"] == "does not fit bars of 5m"
    bare = Panel(panel.times, panel.names, panel.prices, panel.mask, "5m")
    chosen = choose_features(spec, frozenset(), HorizonsConfig(), "XNYS")
    values, _ = chosen.compute(BatchView(bare, chosen.settings))
    assert not any(re.match("volume|vwap|illiq|close_loc|range|overnight", n) for n in chosen.names)
    assert np.isfinite(values[-400:]).any(axis=(0, 1)).all()


# -- the same market on bars of two lengths


@pytest.fixture(scope="module")
def two_lengths():
    """Values and sigma on 1m bars and on the same bars joined to 5m, at common closes."""
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=3, n_sessions=7, interval="1m", start="2024-06-24"
    )
    fine = simulate_bars(market, 2).panel
    groups = np.arange(fine.n_bars) // 5
    last = np.arange(4, fine.n_bars, 5)

    def joined(array, how):
        return getattr(pd.DataFrame(array).groupby(groups), how)().to_numpy()

    coarse = Panel(
        fine.times[last],
        fine.names,
        fine.prices[last],
        fine.mask[last],
        "5m",
        "XNYS",
        joined(fine.dollar_volume, "sum"),
        joined(fine.open, "first"),
        joined(fine.high, "max"),
        joined(fine.low, "min"),
        joined(fine.volume, "sum"),
    )
    out = []
    for panel, rows in ((fine, last), (coarse, slice(None))):
        chosen = all_features(panel.interval, 780)
        values, sigma = chosen.compute(BatchView(panel, chosen.settings))
        columns = values.transpose(2, 0, 1)[:, rows].astype(float)
        out.append((dict(zip(chosen.names, columns, strict=True)), sigma[rows]))
    return out


@pytest.mark.parametrize(
    "name",
    [
        "return_scaled_30m",
        "return_scaled_60m",
        "return_scaled_390m",
        "return_scaled_1950m",
        "momentum_60m",
        "overnight_gap",
        "return_since_open",
    ],
)
def test_returns_at_common_closes_differ_by_sigma_alone(name, two_lengths):
    (fine, sigma_1m), (coarse, sigma_5m) = two_lengths
    known = np.isfinite(fine[name]) & np.isfinite(coarse[name])
    assert known.mean() > 0.1
    np.testing.assert_allclose(
        (fine[name] * sigma_1m)[known], (coarse[name] * sigma_5m)[known], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "name",
    [
        "return_rank_30m",
        "return_rank_390m",
        "close_location_30m",
        "close_location_390m",
        "session_elapsed",
        "session_left",
        "volume_surprise_30m",
        "volume_surprise_390m",
    ],
)
def test_what_knows_no_bars_is_the_same_on_both(name, two_lengths):
    fine, coarse = two_lengths[0][0][name], two_lengths[1][0][name]
    known = np.isfinite(fine) & np.isfinite(coarse)
    assert known.mean() > 0.5
    np.testing.assert_allclose(fine[known], coarse[known], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "reversal_60m",
        "reversal_390m",
        "momentum_390m",
        "vwap_distance_390m",
        "residual_market_30m",
        "residual_market_390m",
        "market_return_30m",
        "market_return_390m",
        "dispersion_390m",
        "return_scaled_60m",
        "volatility_390m",
        "log_sigma",
        "beta_market",
        "vwap_distance_session",
    ],
)
def test_what_is_made_of_bars_agrees_closely(name, two_lengths):
    fine, coarse = two_lengths[0][0][name], two_lengths[1][0][name]
    known = np.isfinite(fine) & np.isfinite(coarse)
    assert known.mean() > 0.5
    if name in (
        "volatility_390m",
        "dispersion_390m",
        "log_sigma",
        "beta_market",
    ):  # measured, and hardly varying
        assert np.abs(fine[known] - coarse[known]).mean() < 0.1
    else:
        assert np.corrcoef(fine[known], coarse[known])[0, 1] > 0.9


# -- the unit of sigma


@pytest.mark.parametrize(("interval", "sessions"), [("1m", 8), ("5m", 12), ("1d", 300)])
def test_sigma_of_a_random_walk_is_its_volatility(interval, sessions):
    """6 bps per square root of a session minute, whatever the bar; nights have no variance."""
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=4, n_sessions=sessions, interval=interval
    )
    frame = simulate_bars(market, 0).panel
    spec = get_interval_spec(interval, None)
    scale = 6e-4 * math.sqrt(spec.bar_minutes)
    steps = np.random.default_rng(7).normal(0, scale, frame.prices.shape)
    walk = Panel(
        frame.times, frame.names, 50 * np.exp(steps.cumsum(0)), frame.mask, interval, "XNYS"
    )
    look_back = 23400 if interval == "1d" else 1950
    sigma = BatchView(walk, ViewSettings(spec, look_back, 0.5)).now("sigma")[-1]
    n_bars = look_back / spec.bar_minutes
    error = 6.0 / math.sqrt(2 * n_bars * len(sigma))
    assert sigma.mean() == pytest.approx(6.0, abs=3 * error)
