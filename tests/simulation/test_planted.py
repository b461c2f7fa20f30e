"""What is planted is really there, and a seed names a market."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dpa.errors import ConfigError
from dpa.simulation.planted import PlantedMarket, ornstein_uhlenbeck, random_walks, simulate

SMALL = PlantedMarket(n_clusters=3, names_per_cluster=4, n_bars=200)


def same(left, right):
    return (
        left.panel.prices.tobytes() == right.panel.prices.tobytes()
        and left.labels.tobytes() == right.labels.tobytes()
        and left.residuals.tobytes() == right.residuals.tobytes()
        and left.factors.tobytes() == right.factors.tobytes()
    )


def test_a_seed_names_a_market():
    assert same(simulate(SMALL, 7), simulate(SMALL, 7))
    assert not same(simulate(SMALL, 7), simulate(SMALL, 8))


@pytest.mark.parametrize("half_life", [2.0, 10.0, 30.0])
def test_half_life_is_recovered_from_the_autocorrelation(half_life):
    path = ornstein_uhlenbeck(20_000, 10, half_life, 0.015, np.random.default_rng(3))
    autocorrelation = np.mean(
        [np.corrcoef(path[1:, name], path[:-1, name])[0, 1] for name in range(path.shape[1])]
    )
    assert -np.log(2) / np.log(autocorrelation) == pytest.approx(half_life, rel=0.1)


def test_residual_is_stationary_from_its_first_bar():
    path = ornstein_uhlenbeck(3, 50_000, 10.0, 0.015, np.random.default_rng(4))
    stationary = 0.015 / np.sqrt(1 - 0.5 ** (2 / 10))
    assert path.std(axis=1) == pytest.approx([stationary] * 3, rel=0.02)


def test_log_price_is_made_of_the_parts_that_are_handed_out():
    config = PlantedMarket(n_bars=300, market_volatility=0.0, noise=0.0)
    planted = simulate(config, 1)
    steps = np.diff(np.log(planted.panel.prices) - planted.residuals, axis=0)
    np.testing.assert_allclose(
        steps, np.take_along_axis(planted.factors, planted.labels, axis=1)[1:], atol=1e-12
    )


def test_correlations_within_and_between_clusters_are_the_stated_ones():
    planted = simulate(PlantedMarket(), 0)
    correlation = np.corrcoef(planted.panel.returns()[1:].T)
    labels = planted.labels[0]
    alike = labels[:, None] == labels[None, :]
    off_diagonal = ~np.eye(len(labels), dtype=bool)
    assert correlation[alike & off_diagonal].mean() == pytest.approx(0.49, abs=0.04)
    assert correlation[~alike].mean() == pytest.approx(0.20, abs=0.06)


def test_column_order_says_nothing_about_clusters():
    labels = simulate(PlantedMarket(), 0).labels[0]
    assert (np.bincount(labels) == 10).all()
    adjacent_alike = (np.diff(labels) == 0).mean()
    assert adjacent_alike < 0.5  # sorted columns would give 0.9, chance 0.18


def test_late_listings_and_delistings_have_no_price_and_no_membership():
    config = PlantedMarket(n_bars=400, late_listings=0.3, delistings=0.2)
    planted = simulate(config, 5)
    mask = planted.panel.mask
    assert (~mask[0]).sum() == 15
    assert (~mask[-1]).sum() == 10
    assert mask[200].sum() > mask[0].sum()
    np.testing.assert_array_equal(mask, np.isfinite(planted.panel.prices))
    np.testing.assert_array_equal(mask, planted.labels >= 0)
    np.testing.assert_array_equal(mask, np.isfinite(planted.residuals))
    changes = np.abs(np.diff(mask.astype(int), axis=0)).sum(axis=0)
    assert changes.max() <= 2  # listed once, gone for good
    assert (np.diff(mask[:200].astype(int), axis=0) >= 0).all()
    assert (np.diff(mask[200:].astype(int), axis=0) <= 0).all()


def test_regime_change_moves_the_stated_fraction_to_another_cluster():
    config = PlantedMarket(n_bars=100, regime_change_bar=60, regime_change_fraction=0.4)
    labels = simulate(config, 2).labels
    assert (labels[:60] == labels[0]).all()
    assert (labels[60:] == labels[60]).all()
    assert (labels[59] != labels[60]).sum() == 20


def test_a_mover_follows_its_new_cluster():
    config = PlantedMarket(n_bars=2000, regime_change_bar=1000, residual_volatility=0.005)
    planted = simulate(config, 2)
    mover = int(np.flatnonzero(planted.labels[0] != planted.labels[-1])[0])
    old, new = planted.labels[0, mover], planted.labels[-1, mover]
    returns = planted.panel.returns()[:, mover]

    def correlation(bars, cluster):
        return np.corrcoef(returns[bars], planted.factors[bars, cluster])[0, 1]

    before, after = slice(1, 1000), slice(1000, 2000)
    assert correlation(before, old) > 0.5 > correlation(before, new)
    assert correlation(after, new) > 0.5 > correlation(after, old)


def test_switching_a_part_on_leaves_the_other_draws_alone():
    plain = simulate(PlantedMarket(n_bars=300), 9)
    busy = simulate(PlantedMarket(n_bars=300, jump_rate=0.01, delistings=0.2), 9)
    listed = busy.panel.mask
    np.testing.assert_array_equal(plain.labels[listed], busy.labels[listed])
    np.testing.assert_array_equal(plain.residuals[listed], busy.residuals[listed])
    np.testing.assert_array_equal(plain.factors, busy.factors)


def test_jumps_are_permanent_and_as_frequent_as_asked():
    config = {"n_bars": 2000, "market_volatility": 0, "factor_volatility": 0, "noise": 0}
    quiet = PlantedMarket(**config, residual_volatility=0)
    jumpy = PlantedMarket(**config, residual_volatility=0, jump_rate=0.01, jump_size=0.2)
    assert np.ptp(simulate(quiet, 0).panel.prices, axis=0).max() == 0
    steps = np.diff(np.log(simulate(jumpy, 0).panel.prices), axis=0)
    jumps = steps[np.abs(steps) > 1e-12]
    assert len(jumps) / steps.size == pytest.approx(0.01, rel=0.1)
    assert jumps.std() == pytest.approx(0.2, rel=0.1)


def test_times_are_session_closes_with_half_days():
    times = simulate(PlantedMarket(n_bars=260, start="2024-01-02"), 0).panel.times
    assert times[0] == pd.Timestamp("2024-01-02 21:00", tz="UTC")
    assert times[times.normalize() == "2024-07-02"][0].hour == 20  # summer time
    assert times[times.normalize() == "2024-07-03"][0].hour == 17  # half day
    assert not (times.normalize() == "2024-07-04").any()


def test_intraday_bars_fill_whole_sessions():
    times = simulate(
        SMALL.model_copy(update={"interval": "5m", "start": "2024-07-02"}), 0
    ).panel.times
    local = times.tz_convert("America/New_York")
    assert local[0] == pd.Timestamp("2024-07-02 09:35", tz="America/New_York")
    assert np.bincount(local.day)[[2, 3, 5]].tolist() == [78, 42, 78]  # half day, holiday


@pytest.mark.parametrize(("field", "value"), [("interval", "7x"), ("calendar", "MOON")])
def test_times_that_do_not_exist_are_refused(field, value):
    with pytest.raises(ConfigError):
        simulate(SMALL.model_copy(update={field: value}), 0)


def test_random_walks_are_martingales_without_structure():
    panel = random_walks(n_assets=200, n_bars=1000, volatility=0.02, seed=11)
    returns = panel.returns()[1:]
    assert panel.mask.all()
    assert returns.mean() == pytest.approx(0.0, abs=4 * 0.02 / np.sqrt(returns.size))
    assert np.diff(np.log(panel.prices), axis=0).std() == pytest.approx(0.02, rel=0.02)
    correlation = np.corrcoef(returns.T)
    assert np.abs(correlation[~np.eye(200, dtype=bool)]).max() < 0.2
    again = random_walks(n_assets=200, n_bars=1000, volatility=0.02, seed=11)
    assert panel.prices.tobytes() == again.prices.tobytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_clusters", 0),
        ("half_life", 0.0),
        ("noise", -0.1),
        ("delistings", 1.5),
        ("regime_change_bar", 2000),
        ("wings", 2),
    ],
)
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        PlantedMarket(**{field: value})


@pytest.mark.parametrize("arguments", [(0, 10, 0.01), (3, 0, 0.01), (3, 10, float("nan"))])
def test_bad_random_walks_are_refused(arguments):
    with pytest.raises(ConfigError):
        random_walks(*arguments, seed=0)


@settings(max_examples=25, deadline=None)
@given(
    n_clusters=st.integers(2, 4),
    names_per_cluster=st.integers(2, 5),
    n_bars=st.integers(2, 60),
    late=st.floats(0, 1),
    gone=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_settings_give_a_valid_market(n_clusters, names_per_cluster, n_bars, late, gone, seed):
    config = PlantedMarket(
        n_clusters=n_clusters,
        names_per_cluster=names_per_cluster,
        n_bars=n_bars,
        late_listings=late,
        delistings=gone,
        regime_change_bar=1,
    )
    planted = simulate(config, seed)
    assert planted.panel.prices.shape == (n_bars, n_clusters * names_per_cluster)
    assert (planted.panel.prices[planted.panel.mask] > 0).all()
    assert planted.labels.max() < n_clusters
    np.testing.assert_array_equal(planted.panel.mask, planted.labels >= 0)
