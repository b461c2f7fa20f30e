"""Folds: nothing of the test window reaches training, and every bar is tested once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.config import WalkForwardConfig
from dpa.errors import ConfigError, DataError
from dpa.validation.splits import Fold, walk_forward_folds


def config(train, test, lag=1, embargo=0, least=1):
    return WalkForwardConfig(
        train_bars=train,
        test_bars=test,
        execution_lag=lag,
        embargo_bars=embargo,
        min_test_bars=least,
    )


def test_folds_by_hand():
    assert walk_forward_folds(55, config(20, 10, lag=1, embargo=2), context_bars=5) == [
        Fold(0, 5, 22, 25, 35, False),
        Fold(1, 15, 32, 35, 45, False),
        Fold(2, 25, 42, 45, 55, False),
    ]


def test_last_partial_window_is_kept_and_flagged_or_dropped():
    kept = walk_forward_folds(44, config(20, 10, least=9), context_bars=5)
    assert kept[-1] == Fold(1, 15, 34, 35, 44, True)
    dropped = walk_forward_folds(43, config(20, 10, least=9), context_bars=5)
    assert dropped == [Fold(0, 5, 24, 25, 35, False)]


def test_a_full_window_is_kept_even_below_the_least_of_a_partial_one():
    assert len(walk_forward_folds(32, config(20, 3, least=5), context_bars=0)) == 4


@pytest.fixture(scope="module")
def skfolio_walk_forward():
    return pytest.importorskip("skfolio.model_selection", reason="an extra").WalkForward


bars = st.integers


@settings(deadline=None)
@given(
    train=bars(10, 80),
    test=bars(1, 40),
    lag=bars(1, 4),
    embargo=bars(0, 5),
    least=bars(1, 10),
    context=bars(0, 60),
    extra=bars(0, 300),
)
def test_invariants(train, test, lag, embargo, least, context, extra):
    n_bars = context + train + min(least, test) + extra
    folds = walk_forward_folds(n_bars, config(train, test, lag, embargo, least), context)
    assert folds[0].train_start == context
    assert folds[0].test_start == context + train
    for number, fold in enumerate(folds):
        assert fold.index == number
        label_end = fold.train_stop - 1 + lag  # of the last training decision
        assert label_end + embargo < fold.test_start
        assert label_end + embargo == fold.test_start - 1  # and no bar is wasted
        assert fold.test_start - fold.train_start == train
        assert fold.partial == (fold.test_stop - fold.test_start < test)
        assert fold.test_stop <= n_bars
    assert not any(fold.partial for fold in folds[:-1])
    for before, after in itertools.pairwise(folds):
        assert before.test_stop == after.test_start
    assert n_bars - folds[-1].test_stop < min(least, test)


@settings(deadline=None)
@given(train=bars(15, 80), test=bars(1, 40), lag=bars(1, 4), embargo=bars(0, 5), extra=bars(0, 300))
def test_windows_are_those_of_skfolio(skfolio_walk_forward, train, test, lag, embargo, extra):
    gap = lag + embargo
    n_bars = train + 1 + extra
    oracle = skfolio_walk_forward(
        train_size=train - gap, test_size=test, purged_size=gap, reduce_test=True
    )
    expected = [
        (fit[0], fit[-1] + 1, check[0], check[-1] + 1)
        for fit, check in oracle.split(np.zeros((n_bars, 1)))
    ]
    folds = walk_forward_folds(n_bars, config(train, test, lag, embargo, least=1), 0)
    assert [(f.train_start, f.train_stop, f.test_start, f.test_stop) for f in folds] == expected


def test_too_few_bars_says_how_many_are_needed():
    with pytest.raises(DataError, match=r"^29 bars are too few.*make 30"):
        walk_forward_folds(29, config(20, 10, least=5), context_bars=5)


@pytest.mark.parametrize(
    ("walk_forward", "context", "window", "word"),
    [
        (config(10, 5, lag=6, embargo=4), 0, None, "embargo_bars 4"),
        (config(10, 5), 0, 11, "model.window: 11"),
        (config(10, 5), -1, None, "context_bars -1"),
    ],
)
def test_contradictions_are_refused(walk_forward, context, window, word):
    with pytest.raises(ConfigError, match=word):
        walk_forward_folds(1000, walk_forward, context, window)
