"""Probability of backtest overfitting, and how many trials a grid amounts to."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpa.errors import ConfigError, DataError
from dpa.validation.overfitting import (
    effective_number_of_trials,
    probability_of_backtest_overfitting,
)
from dpa.validation.statistics import sharpe_ratio


def slow_cross_validation(trials, n_blocks):
    """The definition, split by split."""
    blocks = np.array_split(np.arange(len(trials)), n_blocks)
    rows = []
    for half in itertools.combinations(range(n_blocks), n_blocks // 2):
        inside = np.concatenate([blocks[b] for b in half])
        outside = np.setdiff1d(np.arange(len(trials)), inside)
        sample = [sharpe_ratio(column[inside], 1) for column in trials.T]
        rest = [sharpe_ratio(column[outside], 1) for column in trials.T]
        best = int(np.argmax(sample))
        relative = stats.rankdata(rest)[best] / (trials.shape[1] + 1)
        rows.append((math.log(relative / (1 - relative)), sample[best], rest[best]))
    return np.array(rows)


@pytest.mark.parametrize(("n_bars", "n_trials", "n_blocks"), [(60, 5, 6), (47, 3, 4), (80, 8, 8)])
def test_every_split_is_that_of_the_definition(n_bars, n_trials, n_blocks):
    trials = np.random.default_rng(n_bars).normal(0.001, 0.01, size=(n_bars, n_trials))
    trials[:, 1] = np.round(trials[:, 1], 2)
    trials[:, 2] = 0.0  # never traded
    expected = slow_cross_validation(trials, n_blocks)
    result = probability_of_backtest_overfitting(trials, n_blocks)
    np.testing.assert_allclose(result.logits, expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(result.in_sample_sharpe, expected[:, 1], rtol=1e-9)
    np.testing.assert_allclose(result.out_of_sample_sharpe, expected[:, 2], rtol=1e-9)
    assert result.probability == np.mean(expected[:, 0] <= 0)
    assert result.probability_of_loss == np.mean(expected[:, 2] < 0)
    line = stats.linregress(expected[:, 1], expected[:, 2])
    assert result.slope == pytest.approx(line.slope)
    assert result.intercept == pytest.approx(line.intercept)
    assert result.r_squared == pytest.approx(line.rvalue**2)


def test_noise_is_overfitted_half_of_the_time():
    rng = np.random.default_rng(1)
    results = [
        probability_of_backtest_overfitting(rng.normal(size=(600, 27)), 8) for _ in range(150)
    ]
    assert np.mean([result.probability for result in results]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([result.slope for result in results]) < -0.3


def test_one_truly_good_trial_is_not_overfitted():
    rng = np.random.default_rng(2)
    for _ in range(10):
        trials = rng.normal(size=(1000, 27))
        trials[:, 5] += 0.3
        result = probability_of_backtest_overfitting(trials)
        assert result.probability < 0.02
        assert result.probability_of_loss < 0.01


def test_a_trial_that_shone_only_once_is_overfitted():
    trials = np.random.default_rng(3).normal(0, 0.1, size=(800, 2))
    trials[:100, 0] += 1.0  # wins the halves that hold this block, loses the others
    trials[100:, 0] -= 0.02
    assert probability_of_backtest_overfitting(trials, 8).probability > 0.5


def test_a_wide_grid_is_worked_in_pieces_with_the_same_result():
    trials = np.random.default_rng(4).normal(size=(130, 4))
    result = probability_of_backtest_overfitting(trials, 14)  # 3432 splits, several pieces
    expected = slow_cross_validation(trials, 14)
    np.testing.assert_allclose(result.logits, expected[:, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("n_bars", "blocks"), [(10, 2), (29, 4), (30, 6), (79, 14), (80, 16), (9999, 16)]
)
def test_default_blocks_keep_five_bars_each(n_bars, blocks):
    trials = np.random.default_rng(5).normal(size=(n_bars, 2))
    result = probability_of_backtest_overfitting(trials)
    assert result.n_blocks == blocks
    assert len(result.logits) == math.comb(blocks, blocks // 2)


def test_trials_that_are_all_alike_count_as_overfitted():
    same = np.tile(np.random.default_rng(6).normal(size=(200, 1)), (1, 5))
    result = probability_of_backtest_overfitting(same, 4)
    assert result.probability == 1.0
    flat = probability_of_backtest_overfitting(np.zeros((200, 5)), 4)
    assert flat.probability == 1.0
    assert math.isnan(flat.slope)


@pytest.mark.parametrize(
    ("trials", "n_blocks", "error"),
    [
        (np.zeros((100, 1)), None, DataError),
        (np.zeros((9, 3)), None, DataError),
        (np.full((100, 3), np.nan), None, DataError),
        (np.zeros(100), None, DataError),
        (np.zeros((100, 3)), 5, ConfigError),
        (np.zeros((100, 3)), 18, ConfigError),
        (np.zeros((10, 3)), 6, ConfigError),
    ],
)
def test_bad_input_is_refused(trials, n_blocks, error):
    with pytest.raises(error):
        probability_of_backtest_overfitting(trials, n_blocks)


@settings(max_examples=40, deadline=None)
@given(n_bars=st.integers(20, 80), n_trials=st.integers(2, 6), seed=st.integers(0, 1000))
def test_scale_and_order_of_trials_do_not_matter(n_bars, n_trials, seed):
    rng = np.random.default_rng(seed)
    trials = rng.normal(size=(n_bars, n_trials))
    result = probability_of_backtest_overfitting(trials, 4)
    assert 0 <= result.probability <= 1
    assert np.isfinite(result.logits).all()
    moved = trials[:, rng.permutation(n_trials)] * rng.uniform(0.1, 10, n_trials)
    again = probability_of_backtest_overfitting(moved, 4)
    np.testing.assert_allclose(again.logits, result.logits, atol=1e-12)


def test_independent_trials_count_in_full_and_copies_once():
    rng = np.random.default_rng(7)
    noise = rng.normal(size=(5000, 20))
    assert effective_number_of_trials(noise) == pytest.approx(20, abs=0.5)
    copies = np.tile(noise[:, :1], (1, 20))
    assert effective_number_of_trials(copies) == pytest.approx(1)
    assert effective_number_of_trials(copies, "clusters") == 1
    assert effective_number_of_trials(noise[:, :1]) == 1


def test_average_correlation_by_hand():
    rng = np.random.default_rng(8)
    trials = rng.normal(size=(400, 6)) + 0.8 * rng.normal(size=(400, 1))
    pairs = [np.corrcoef(trials.T)[i, j] for i, j in itertools.combinations(range(6), 2)]
    expected = np.mean(pairs) + (1 - np.mean(pairs)) * 6
    assert effective_number_of_trials(trials) == pytest.approx(expected)


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_clusters_of_trials_are_counted(groups):
    rng = np.random.default_rng(groups)
    leaders = rng.normal(size=(1000, groups))
    trials = np.repeat(leaders, 6, axis=1) + 0.3 * rng.normal(size=(1000, groups * 6))
    assert effective_number_of_trials(trials, "clusters") == groups


def test_a_flat_trial_counts_as_one_more():
    trials = np.random.default_rng(9).normal(size=(200, 1)).repeat(3, axis=1)
    with_flat = np.column_stack([trials, np.zeros(200)])
    assert effective_number_of_trials(trials) == pytest.approx(1)
    assert 1 < effective_number_of_trials(with_flat) < 4
