"""Unit vectors are what they claim: correlations, of whole windows of members only."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.cluster.features import make_features, moments

WINDOW = 12
KINDS = ["returns", "price_path"]


def naive_series(panel, kind):
    logs = np.log(panel.prices)
    if kind == "price_path":
        return logs
    return np.vstack([np.full(logs.shape[1], np.nan), np.diff(logs, axis=0)])


@pytest.mark.parametrize("kind", KINDS)
def test_cosine_is_the_correlation(kind, messy):
    features = make_features(messy, kind, WINDOW)
    series = naive_series(messy, kind)
    for bar in (40, 75, 120, 169):
        vectors = features.unit_vectors(bar).double().numpy()
        valid = features.valid[bar].numpy()
        assert np.allclose(np.linalg.norm(vectors[valid], axis=1), 1.0, atol=1e-5)
        assert not vectors[~valid].any()
        expected = np.corrcoef(series[bar - WINDOW + 1 : bar + 1, valid].T)
        assert np.allclose(vectors[valid] @ vectors[valid].T, expected, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_counts_only_when_it_is_whole_and_ends_on_a_member(kind, messy):
    features = make_features(messy, kind, WINDOW)
    series = naive_series(messy, kind)
    for bar in range(messy.n_bars):
        window = series[max(0, bar - WINDOW + 1) : bar + 1]
        whole = np.isfinite(window).all(0) & (len(window) == WINDOW)
        assert np.array_equal(features.valid[bar].numpy(), whole & messy.mask[bar]), bar


def test_gap_late_listing_and_mask_by_hand(make_panel, rng):
    prices = np.exp(rng.standard_normal((60, 4)) * 0.01)
    prices[:20, 1] = np.nan  # lists at bar 20
    prices[30, 2] = np.nan
    mask = np.isfinite(prices)
    mask[40, 3] = False
    valid = make_features(make_panel(prices, mask), "price_path", 10).valid.numpy()
    assert valid[:, 0].tolist() == [False] * 9 + [True] * 51
    assert valid[:, 1].tolist() == [False] * 29 + [True] * 31
    assert valid[:, 2].tolist() == [False] * 9 + [True] * 21 + [False] * 10 + [True] * 20
    assert valid[:, 3].tolist() == [False] * 9 + [True] * 31 + [False] + [True] * 19
    later = make_features(make_panel(prices, mask), "returns", 10).valid.numpy()
    assert later[:, 1].argmax() == 30  # one bar more: ten returns need eleven prices
    assert later[:, 2].tolist()[30:42] == [False] * 11 + [True]


@pytest.mark.parametrize("kind", KINDS)
def test_mean_scale_and_newest_are_those_of_the_window(kind, messy):
    features = make_features(messy, kind, WINDOW)
    series = features.series.double().numpy()
    for bar, name in np.argwhere(features.valid.numpy())[::17]:
        window = series[bar - WINDOW + 1 : bar + 1, name]
        assert features.mean[bar, name] == pytest.approx(window.mean(), abs=1e-6)
        assert features.scale[bar, name] == pytest.approx(window.std(), rel=1e-4)
        centre = window.mean() if kind == "price_path" else 0.0
        expected = (window[-1] - centre) / window.std()
        assert features.newest[bar, name] == pytest.approx(expected, abs=1e-3)


def test_price_path_carries_shape_only(make_panel, rng):
    """Doubling every move, or the price itself, changes nothing: the norm is no information."""
    steps = rng.standard_normal((50, 3)) * 0.01
    one = make_panel(100.0 * np.exp(steps.cumsum(0)))
    two = make_panel(7.0 * np.exp(2.0 * steps.cumsum(0)))
    a, b = (make_features(panel, "price_path", WINDOW) for panel in (one, two))
    for bar in (20, 49):
        assert torch.allclose(a.unit_vectors(bar), b.unit_vectors(bar), atol=1e-4)
    assert torch.allclose(a.newest, b.newest, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_price_that_does_not_move_has_no_shape(kind, make_panel, rng):
    prices = 100.0 * np.exp(rng.standard_normal((60, 3)).cumsum(0) * 0.01)
    prices[:, 1] = 42.0
    prices[30:50, 2] = prices[30, 2]
    features = make_features(make_panel(prices), kind, 10)
    assert not features.valid[:, 1].any()
    assert not features.valid[41:50, 2].any()
    assert features.valid[50, 2]  # it moved at last
    assert features.valid[12:, 0].all()


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), n_bars=st.integers(1, 40), n_assets=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_no_output_is_ever_missing(kind, make_panel, seed, n_bars, n_assets):
    rng = np.random.default_rng(seed)
    prices = np.exp(rng.standard_normal((n_bars, n_assets)) * rng.choice([0.0, 0.02, 3.0]))
    prices[rng.random(prices.shape) < 0.1] = np.nan
    features = make_features(make_panel(prices), kind, 5)
    for name in ("series", "mean", "scale", "newest"):
        values = getattr(features, name)
        assert values.shape == prices.shape
        assert bool(torch.isfinite(values).all()), name
    assert bool((features.scale > 0).all())
    assert not features.newest[~features.valid].any()


def test_weighted_moments_equal_numpy(rng):
    series = rng.standard_normal((40, 3))
    weights = rng.random(7)
    weights /= weights.sum()
    mean, scale = moments(torch.from_numpy(series), torch.from_numpy(weights))
    for row in range(34):
        window = series[row : row + 7]
        expected = np.average(window, axis=0, weights=weights)
        spread = np.sqrt(np.average((window - expected) ** 2, axis=0, weights=weights))
        assert np.allclose(mean[row], expected)
        assert np.allclose(scale[row], spread)
