"""The planted intraday market holds what it says, at every horizon, and nothing else."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from dpa.errors import ConfigError
from dpa.market.calendars import TradingCalendar
from dpa.simulation.planted_bars import (
    SHOWN,
    SIGNALS,
    IntradayMarket,
    implied_ic,
    rank_correlation,
    shuffled_outcomes,
    simulate_bars,
)

SMALL = IntradayMarket(n_clusters=2, names_per_cluster=3, n_sessions=8)
SILENT = {"market_volatility": 0, "factor_volatility": 0, "noise": 0}
NO_PAYOFF = {"fast_payoff": 0, "medium_payoff": 0, "slow_payoff": 0, "residual_deviation": 0}
BPS = 1e-4


def log_returns(panel, horizon, lag=1):
    """log(p[t + lag - 1 + horizon] / p[t + lag - 1]), NaN where it is not known."""
    log_price = np.log(panel.prices)
    out = np.full(log_price.shape, np.nan)
    start = log_price[lag - 1 :]
    out[: len(start) - horizon] = start[horizon:] - start[:-horizon]
    return out


def rank_ics(forecast, outcome):
    """Spearman correlation of each row without NaN, no ties."""
    known = np.isfinite(forecast).all(axis=1) & np.isfinite(outcome).all(axis=1)
    ranks = [values[known].argsort(axis=1).argsort(axis=1) for values in (forecast, outcome)]
    n = forecast.shape[1]
    distance = ((ranks[0] - ranks[1]) ** 2).sum(axis=1)
    return 1 - 6 * distance / (n * (n**2 - 1))


def mean_and_error(values, n_blocks):
    """Mean and standard error by the means of long blocks."""
    blocks = np.array([block.mean() for block in np.array_split(values, n_blocks)])
    return blocks.mean(), blocks.std(ddof=1) / math.sqrt(n_blocks)


@pytest.fixture(scope="module")
def long_market():
    return simulate_bars(IntradayMarket(n_sessions=400), 11)


def test_a_seed_names_a_market():
    first, again, other = (simulate_bars(SMALL, seed) for seed in (3, 3, 4))
    arrays = {"prices": first.panel.prices, **first.panel.extras()}
    assert set(arrays) == {"prices", "dollar_volume", "open", "high", "low", "volume"}
    for name, array in arrays.items():
        assert array.tobytes() == getattr(again.panel, name).tobytes()
        assert array.tobytes() != getattr(other.panel, name).tobytes()
    assert first.truth.expected(3).tobytes() == again.truth.expected(3).tobytes()


def test_nothing_depends_on_later_bars():
    short, long = (
        simulate_bars(SMALL.model_copy(update={"n_sessions": n, "missing": 0.1}), 5) for n in (4, 9)
    )
    bars = short.panel.n_bars
    assert bars < long.panel.n_bars
    np.testing.assert_array_equal(short.panel.prices, long.panel.prices[:bars])
    for name, array in short.panel.extras().items():
        np.testing.assert_array_equal(array, long.panel.extras()[name][:bars])
    np.testing.assert_array_equal(short.truth.expected(7), long.truth.expected(7)[:bars])


@pytest.mark.parametrize("interval", ["1m", "5m", "1d"])
def test_every_bar_of_every_session_is_there(interval):
    config = IntradayMarket(n_clusters=1, names_per_cluster=2, n_sessions=14, interval=interval)
    panel = simulate_bars(config.model_copy(update={"start": "2024-06-24"}), 0).panel
    closes = TradingCalendar("XNYS").bar_closes(interval, "2024-06-24", "2024-07-12")
    assert list(panel.times) == list(closes)
    local = panel.times.tz_convert("America/New_York")
    assert local[local.strftime("%m-%d") == "07-03"][-1].hour == 13  # half day
    assert panel.mask.all()


def test_clock_changes_and_half_days_are_in_the_default_market():
    times = simulate_bars(IntradayMarket(n_clusters=1, names_per_cluster=1), 0).panel.times
    local = times.tz_convert("America/New_York")
    assert set(local[:-1][np.diff(local.normalize().asi8) != 0].strftime("%H:%M")) == {
        "13:00",
        "16:00",
    }
    assert len(set(times[local.strftime("%H:%M") == "16:00"].hour)) == 2
    assert len(set(local.normalize())) == 120


@settings(max_examples=30, deadline=None)
@given(
    n_clusters=st.integers(1, 3),
    names_per_cluster=st.integers(1, 4),
    n_sessions=st.integers(1, 5),
    interval=st.sampled_from(["5m", "15m", "1h", "1d"]),
    calendar=st.sampled_from(["XNYS", "XLON", "XTKS"]),
    typical_range=st.floats(0.01, 1000),
    noise=st.floats(0, 100),
    payoff=st.floats(0, 1000),
    overnight_minutes=st.floats(0, 2000),
    volume_profile=st.floats(0, 2),
    missing=st.floats(0, 1),
    late=st.floats(0, 1),
    gone=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_settings_give_consistent_bars(payoff, late, gone, seed, **given_settings):
    config = IntradayMarket(
        fast_payoff=payoff, late_listings=late, delistings=gone, **given_settings
    )
    planted = simulate_bars(config, seed)
    panel, mask = planted.panel, planted.panel.mask
    assert panel.n_assets == config.n_assets
    np.testing.assert_array_equal(mask, np.isfinite(panel.prices))
    np.testing.assert_array_equal(mask, np.isfinite(planted.truth.expected(2)))
    for array in panel.extras().values():
        np.testing.assert_array_equal(mask, np.isfinite(array))
        assert (array[mask] > 0).all()
    close, open_, high, low = (
        array[mask] for array in (panel.prices, panel.open, panel.high, panel.low)
    )
    assert (high >= np.maximum(open_, close)).all()
    assert (low <= np.minimum(open_, close)).all()
    assert (high > low).all()
    np.testing.assert_allclose(panel.dollar_volume[mask], panel.volume[mask] * close)


def test_each_signal_can_be_read_off_its_own_bar():
    planted = simulate_bars(SMALL, 1)
    panel, latents = planted.panel, planted.truth.latents
    width = panel.high - panel.low
    location = (2 * panel.prices - panel.high - panel.low) / width
    np.testing.assert_allclose(location, latents["fast"] / 4, atol=1e-9)
    log_volume = np.log(panel.volume)
    np.testing.assert_allclose(
        log_volume - log_volume[0], 0.4 * (latents["medium"] - latents["medium"][0]), atol=1e-9
    )
    usual = 25 * BPS * math.sqrt(5)
    np.testing.assert_allclose(
        np.log(width / panel.prices), math.log(usual) + 0.35 * latents["slow"], atol=1e-9
    )


def test_a_volume_profile_is_high_at_open_and_close():
    flat, curved = (
        simulate_bars(SMALL.model_copy(update={"volume_profile": profile}), 2).panel.volume
        for profile in (0.0, 1.5)
    )
    extra = np.log(curved / flat)
    np.testing.assert_allclose(extra[[0, 77, 78, 155]], 1.5, atol=1e-9)
    assert np.abs(extra[38:40]).max() < 0.001
    simulate_bars(SMALL.model_copy(update={"volume_profile": 1.0, "interval": "1d"}), 2)


@pytest.mark.parametrize(
    ("signal", "half_life"), [("fast", 6), ("medium", 45), ("slow", 585), ("residual", 60)]
)
def test_latents_are_standard_and_decay_with_their_half_lives(long_market, signal, half_life):
    latent = long_market.truth.latents[signal]
    independent = latent.size * 5 / half_life / 3  # about
    assert latent.mean() == pytest.approx(0, abs=4 / math.sqrt(independent))
    assert latent.std() == pytest.approx(1, abs=4 / math.sqrt(independent))
    for bars in (1, 3, 12):
        autocorrelation = np.mean(latent[bars:] * latent[:-bars]) / np.mean(latent**2)
        assert autocorrelation == pytest.approx(0.5 ** (5 * bars / half_life), abs=0.01)


def test_half_lives_are_session_minutes_at_every_interval():
    config = IntradayMarket()
    for interval, minutes in (("1m", 1), ("5m", 5), ("1d", 390)):
        signals = config.model_copy(update={"interval": interval}).signals
        assert signals["medium"].persistence == pytest.approx(0.5 ** (minutes / 45))
        assert signals["slow"].persistence == pytest.approx(0.5 ** (minutes / 585))


def test_without_noise_the_return_is_what_the_signals_of_the_bar_before_say():
    planted = simulate_bars(SMALL.model_copy(update={**SILENT, "residual_deviation": 0.0}), 6)
    np.testing.assert_allclose(
        log_returns(planted.panel, 1)[:-1], planted.truth.expected(1)[:-1], atol=1e-12
    )


def test_the_residual_is_part_of_the_log_price():
    planted = simulate_bars(SMALL.model_copy(update={**NO_PAYOFF, **SILENT}), 6)
    assert np.ptp(planted.panel.prices, axis=0).max() < 1e-9
    planted = simulate_bars(
        SMALL.model_copy(update={**NO_PAYOFF, **SILENT, "residual_deviation": 12.0}), 6
    )
    level = 12 * BPS * planted.truth.latents["residual"]
    np.testing.assert_allclose(log_returns(planted.panel, 1)[:-1], np.diff(level, axis=0))


@pytest.mark.parametrize(("horizon", "lag"), [(1, 1), (6, 1), (24, 3)])
def test_expected_is_the_mean_over_all_ways_to_go_on(horizon, lag):
    truth = simulate_bars(SMALL, 8).truth
    rng = np.random.default_rng(0)
    paths, bar, name = 40_000, 100, 2
    half_lives = {"fast": 6, "medium": 45, "slow": 585, "residual": 60}
    payoffs = {"fast": 3, "medium": 8.5, "slow": 36}
    parts = truth.expected_parts(horizon, lag)
    totals = np.zeros(paths)
    for signal in SIGNALS:
        phi = 0.5 ** (5 / half_lives[signal])
        x = np.full(paths, truth.latents[signal][bar, name])
        gained = np.zeros(paths)
        for step in range(1, lag + horizon):  # bar + step, the return of which starts at x
            new = phi * x + math.sqrt(1 - phi**2) * rng.standard_normal(paths)
            drift = 18 * (new - x) if signal == "residual" else payoffs[signal] * (1 - phi) * x
            gained += np.where(step >= lag, drift, 0.0) * BPS
            x = new
        error = gained.std() / math.sqrt(paths)
        assert parts[signal][bar, name] == pytest.approx(gained.mean(), abs=4 * error + 1e-15)
        totals += gained
    error = totals.std() / math.sqrt(paths)
    assert truth.expected(horizon, lag)[bar, name] == pytest.approx(totals.mean(), abs=4 * error)


@pytest.mark.parametrize(("horizon", "lag"), [(1, 1), (6, 1), (6, 4), (78, 1)])
def test_realised_returns_rise_one_for_one_with_each_expected_part(long_market, horizon, lag):
    realised = log_returns(long_market.panel, horizon, lag)
    known = np.isfinite(realised).all(axis=1)
    for part in long_market.truth.expected_parts(horizon, lag).values():
        across = part - part.mean(axis=1, keepdims=True)
        product, square = ((across * side)[known].sum(axis=1) for side in (realised, across))
        slope = product.sum() / square.sum()
        _, error = mean_and_error((product - square) / square.mean(), 40)
        assert slope == pytest.approx(1.0, abs=4 * error)
        assert error < 0.5


@pytest.mark.parametrize("horizon", [1, 2, 3, 6, 12, 78])
def test_measured_rank_correlation_is_the_implied_one(long_market, horizon):
    implied = implied_ic(long_market.truth.config, horizon)
    realised = log_returns(long_market.panel, horizon)
    forecasts = {
        "oracle": long_market.truth.expected(horizon),
        **long_market.truth.expected_parts(horizon),
    }
    forecasts["shown"] = sum(forecasts[name] for name in SHOWN)
    for name, forecast in forecasts.items():
        measured, error = mean_and_error(rank_ics(forecast, realised), 40)
        assert measured == pytest.approx(implied[name], abs=4 * error)
        assert error < 0.012


def test_implied_rank_correlation_holds_at_other_intervals_and_lags():
    daily = simulate_bars(
        IntradayMarket(
            n_clusters=4, names_per_cluster=20, n_sessions=3000, interval="1d"
        ).model_copy(update={"start": "2005-01-03"}),
        2,
    )
    fine = simulate_bars(IntradayMarket(n_sessions=60, interval="1m"), 2)
    for planted, horizon, lag in ((daily, 1, 1), (daily, 5, 2), (fine, 5, 1), (fine, 10, 6)):
        implied = implied_ic(planted.truth.config, horizon, lag)["oracle"]
        ics = rank_ics(
            planted.truth.expected(horizon, lag), log_returns(planted.panel, horizon, lag)
        )
        measured, error = mean_and_error(ics, 30)
        assert measured == pytest.approx(implied, abs=4 * error)
        assert error < 0.15 * implied


def test_default_strengths_are_visible_and_another_signal_leads_at_each_horizon():
    table = {h: implied_ic(IntradayMarket(), h) for h in (1, 2, 3, 6, 12, 78)}
    for forecast, ics in {
        "oracle": [0.127, 0.156, 0.171, 0.198, 0.226, 0.200],
        "shown": [0.105, 0.121, 0.126, 0.128, 0.131, 0.134],
    }.items():
        np.testing.assert_allclose([table[h][forecast] for h in table], ics, atol=6e-4)
    leading = [max(SHOWN, key=ics.__getitem__) for ics in table.values()]
    assert leading == ["fast", "fast", "fast", "medium", "medium", "slow"]
    stated = IntradayMarket.__doc__.replace(" ", "")
    for signal in ("oracle", "shown", *SIGNALS):
        row = "".join(f"{ics[signal]:.3f}" for ics in table.values())
        assert f"{signal}{row}" in stated


def test_the_same_market_at_a_finer_interval_has_the_same_horizons():
    fine = IntradayMarket(interval="1m")
    for minutes in (30, 60, 390):
        coarse_ic = implied_ic(IntradayMarket(), minutes // 5)
        fine_ic = implied_ic(fine, minutes)
        for signal in ("oracle", *SIGNALS):
            assert fine_ic[signal] == pytest.approx(coarse_ic[signal], rel=0.02)


def test_a_signal_of_no_strength_forecasts_nothing(long_market):
    config = IntradayMarket(n_sessions=100).model_copy(update=NO_PAYOFF)
    planted = simulate_bars(config, 12)
    assert not planted.truth.expected(6).any()
    assert set(implied_ic(config, 6).values()) == {0.0}
    realised = log_returns(planted.panel, 6)
    for signal in SIGNALS:
        measured, error = mean_and_error(rank_ics(planted.truth.latents[signal], realised), 25)
        assert abs(measured) < 4 * error


def test_clusters_reveal_the_residual():
    planted = simulate_bars(IntradayMarket(), 0)
    log_price, labels = np.log(planted.panel.prices), planted.truth.labels
    realised = log_returns(planted.panel, 12)
    found = {}
    for kind, groups in (("true", labels), ("one", np.zeros_like(labels))):
        peers = (groups[:, None] == groups) & ~np.eye(len(groups), dtype=bool)
        level = pd.DataFrame(log_price - log_price @ (peers / peers.sum(axis=0)))
        window = level.rolling(60)
        score = (-(level - window.mean()) / window.std()).to_numpy()
        found[kind], error = mean_and_error(rank_ics(score, realised), 30)
        assert error < 0.012
    assert found["true"] == pytest.approx(0.043, abs=0.02)
    assert found["one"] < 0.4 * found["true"]


def test_a_market_of_one_cluster_has_no_factor_between_names():
    config = IntradayMarket(n_clusters=1, names_per_cluster=30)
    quiet = config.model_copy(update={"factor_volatility": 0.0})
    assert implied_ic(config, 6) == implied_ic(quiet, 6)
    assert (
        implied_ic(IntradayMarket(), 6)["oracle"]
        < implied_ic(IntradayMarket(factor_volatility=0.0), 6)["oracle"]
    )


def test_implied_ic_of_a_market_without_differences_is_unknown():
    config = IntradayMarket().model_copy(update={**SILENT, **NO_PAYOFF})
    assert all(math.isnan(ic) for ic in implied_ic(config, 1).values())
    assert all(
        math.isnan(ic)
        for ic in implied_ic(IntradayMarket(n_clusters=1, names_per_cluster=1), 1).values()
    )


@pytest.mark.parametrize("correlation", [0.0, 0.1, -0.5, 0.9])
def test_rank_correlation_of_gaussian_pairs(correlation):
    rng = np.random.default_rng(1)
    x, e = rng.standard_normal((2, 20_000, 8))
    ics = rank_ics(x, correlation * x + math.sqrt(1 - correlation**2) * e)
    assert rank_correlation(correlation, 8) == pytest.approx(
        ics.mean(), abs=4 * ics.std() / math.sqrt(len(ics))
    )
    assert rank_correlation(correlation, 10**9) == pytest.approx(
        6 / math.pi * math.asin(correlation / 2)
    )
    assert rank_ics(x[:1], e[:1])[0] == pytest.approx(stats.spearmanr(x[0], e[0]).statistic)
    assert rank_correlation(1.0, 5) == pytest.approx(1.0)


def test_volatility_and_nights_are_the_stated_ones():
    config = IntradayMarket(n_sessions=250, overnight_minutes=60).model_copy(update=NO_PAYOFF)
    panel = simulate_bars(config, 3).panel
    steps = np.diff(np.log(panel.prices), axis=0)
    first = np.diff(panel.times.normalize().asi8) != 0  # sessions of XNYS do not cross UTC midnight
    total = math.sqrt(5**2 + 6**2 + 2**2) * BPS
    assert steps[~first].std() == pytest.approx(total * math.sqrt(5), rel=0.03)
    assert steps[first].std() == pytest.approx(total * math.sqrt(65), rel=0.1)
    gaps = np.log(panel.open[1:] / panel.prices[:-1])
    assert np.median(np.abs(gaps[~first])) < 1e-12  # opens where the last bar closed
    assert gaps[first].std() > 0.5 * total * math.sqrt(60)


def test_names_of_a_cluster_move_together():
    planted = simulate_bars(IntradayMarket(n_sessions=60), 4)
    correlation = np.corrcoef(planted.panel.returns()[1:].T)
    alike = planted.truth.labels[:, None] == planted.truth.labels[None, :]
    off_diagonal = ~np.eye(len(alike), dtype=bool)
    assert (np.bincount(planted.truth.labels) == 8).all()
    within, between = correlation[alike & off_diagonal].mean(), correlation[~alike].mean()
    assert within == pytest.approx(61 / 74, abs=0.04)
    assert between == pytest.approx(25 / 74, abs=0.06)
    assert (np.diff(planted.truth.labels) == 0).mean() < 0.5


def test_lost_bars_and_listings_leave_the_rest_alone():
    plain = simulate_bars(SMALL, 7)
    config = SMALL.model_copy(update={"missing": 0.05, "late_listings": 0.5, "delistings": 0.5})
    ragged = simulate_bars(config, 7)
    mask = ragged.panel.mask
    assert 0.02 < (~mask).mean() < 0.9
    assert not mask[0].all()
    assert not mask[-1].all()
    assert len(ragged.panel.times) == len(plain.panel.times)
    np.testing.assert_array_equal(ragged.panel.prices[mask], plain.panel.prices[mask])
    np.testing.assert_array_equal(ragged.panel.volume[mask], plain.panel.volume[mask])
    np.testing.assert_array_equal(ragged.truth.expected(2)[mask], plain.truth.expected(2)[mask])


def test_switching_a_signal_off_leaves_the_others_alone():
    plain = simulate_bars(SMALL, 7).truth
    quiet = simulate_bars(SMALL.model_copy(update={"fast_payoff": 0.0}), 7).truth
    for signal in SIGNALS:
        np.testing.assert_array_equal(plain.latents[signal], quiet.latents[signal])


@pytest.mark.parametrize(
    "values",
    [
        {"interval": "7x"},
        {"calendar": "MOON"},
        {"start": "2024-13-01"},
        {"start": "2024-06"},
        {"calendar": "XHKG", "start": "2049-12-01", "n_sessions": 400},
    ],
)
def test_times_that_do_not_exist_are_refused(values):
    with pytest.raises(ConfigError):
        simulate_bars(SMALL.model_copy(update=values), 0)


@pytest.mark.parametrize(("horizon", "lag"), [(0, 1), (1, 0)])
def test_horizons_and_lags_below_one_bar_are_refused(horizon, lag):
    with pytest.raises(ConfigError):
        simulate_bars(SMALL, 0).truth.expected(horizon, lag)
    with pytest.raises(ConfigError):
        implied_ic(SMALL, horizon, lag)


@pytest.mark.parametrize(
    ("field", "value"), [("fast_half_life", 0), ("noise", -1), ("missing", 1.5), ("wings", 2)]
)
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        IntradayMarket(**{field: value})


def test_shuffled_outcomes_are_dealt_within_their_bar():
    rng = np.random.default_rng(0)
    outcomes = rng.standard_normal((400, 12))
    outcomes[rng.random(outcomes.shape) < 0.3] = np.nan
    outcomes[3] = np.nan
    before = outcomes.copy()
    dealt = shuffled_outcomes(outcomes, np.random.default_rng(5))
    np.testing.assert_array_equal(outcomes, before)
    np.testing.assert_array_equal(np.isnan(dealt), np.isnan(outcomes))
    np.testing.assert_array_equal(np.sort(dealt, axis=1), np.sort(outcomes, axis=1))
    again = shuffled_outcomes(outcomes, np.random.default_rng(5))
    np.testing.assert_array_equal(dealt, again)
    full = rng.standard_normal((30_000, 3)) * 0 + np.arange(3)
    counts = [np.bincount(column) for column in shuffled_outcomes(full, rng).astype(int).T]
    np.testing.assert_allclose(counts, 10_000, atol=400)  # every place equally often


def test_shuffled_outcomes_cannot_be_forecast(long_market):
    panel, truth = long_market.panel, long_market.truth
    shuffled = shuffled_outcomes(log_returns(panel, 6), np.random.default_rng(1))
    measured, error = mean_and_error(rank_ics(truth.expected(6), shuffled), 40)
    assert abs(measured) < 4 * error


def test_bars_are_stamped_with_their_close_in_utc():
    times = simulate_bars(SMALL, 0).panel.times
    assert times[0] == pd.Timestamp("2024-06-17 13:35", tz="UTC")
    assert str(times.tz) == "UTC"
