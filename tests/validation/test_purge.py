"""Session folds: no label of a training decision reaches a test decision, nights included."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import ConfigError, DataError
from dpa.market.calendars import TradingCalendar
from dpa.validation.purge import PurgeSpec, holdout, make_purge_spec, session_folds
from dpa.validation.splits import Fold

whole = st.integers


def sessions_of(*lengths):
    return np.repeat(np.arange(len(lengths)), lengths)


def test_purge_spec_takes_the_longest_label():
    assert make_purge_spec([1, 12, 6], execution_lag=1, embargo_bars=0) == PurgeSpec(12, 0)
    spec = make_purge_spec([1, 78], execution_lag=3, embargo_bars=5)
    assert spec == PurgeSpec(80, 5)
    assert spec.bars == 85


@pytest.mark.parametrize(
    ("bars", "lag", "embargo"), [([], 1, 0), ([0], 1, 0), ([5], 0, 0), ([5], 1, -1)]
)
def test_impossible_purges_are_refused(bars, lag, embargo):
    with pytest.raises(ConfigError):
        make_purge_spec(bars, lag, embargo)


def test_folds_by_hand():
    # sessions of 4, 4, 2 (a half day), 4, 4, 4 bars begin at 0, 4, 8, 10, 14, 18
    session = sessions_of(4, 4, 2, 4, 4, 4) + 7
    assert session_folds(session, 2, 2, PurgeSpec(2, 1)) == [
        Fold(0, 0, 5, 8, 14, False),
        Fold(1, 8, 11, 14, 22, False),
    ]
    # one bar of context drops the first session, and the last test window is partial
    assert session_folds(session, 2, 2, PurgeSpec(2, 1), first_bar=1) == [
        Fold(0, 4, 7, 10, 18, False),
        Fold(1, 10, 15, 18, 22, True),
    ]


@settings(deadline=None)
@given(
    lengths=st.lists(whole(1, 9), min_size=3, max_size=40),
    train=whole(1, 6),
    test=whole(1, 5),
    label=whole(1, 6),
    embargo=whole(0, 3),
    first_bar=whole(0, 20),
)
def test_invariants(lengths, train, test, label, embargo, first_bar):
    session = sessions_of(*lengths)
    purge = PurgeSpec(label, embargo)
    try:
        folds = session_folds(session, train, test, purge, first_bar)
    except (ConfigError, DataError):
        return
    starts = {0, *(np.flatnonzero(np.diff(session)) + 1).tolist(), len(session)}
    for number, fold in enumerate(folds):
        assert fold.index == number
        assert {fold.train_start, fold.test_start, fold.test_stop} <= starts
        assert fold.train_start >= first_bar
        assert len(set(session[fold.train_start : fold.test_start])) == train
        tested = len(set(session[fold.test_start : fold.test_stop]))
        assert fold.partial == (tested < test)
        last = fold.train_stop - 1
        assert fold.train_start <= last
        assert last + label + embargo == fold.test_start - 1  # purged, and no bar wasted
    assert folds[-1].test_stop == len(session)
    for before, after in itertools.pairwise(folds):
        assert before.test_stop == after.test_start
        assert not before.partial


@settings(deadline=None)
@given(train=whole(5, 40), test=whole(1, 20), label=whole(1, 3), extra=whole(0, 200))
def test_windows_are_those_of_skfolio_on_daily_bars(train, test, label, extra):
    split = pytest.importorskip("skfolio.model_selection", reason="an extra")
    n_bars = train + 1 + extra
    oracle = split.WalkForward(
        train_size=train - label, test_size=test, purged_size=label, reduce_test=True
    )
    expected = [
        (fit[0], fit[-1] + 1, check[0], check[-1] + 1)
        for fit, check in oracle.split(np.zeros((n_bars, 1)))
    ]
    folds = session_folds(np.arange(n_bars), train, test, PurgeSpec(label, 0))
    assert [(f.train_start, f.train_stop, f.test_start, f.test_stop) for f in folds] == expected


def test_too_few_sessions_says_how_many_are_needed():
    with pytest.raises(DataError, match=r"^4 sessions are too few.*make 5"):
        session_folds(sessions_of(3, 3, 3, 3), 4, 1, PurgeSpec(1, 0))
    with pytest.raises(DataError, match=r"^0 sessions"):
        session_folds(np.zeros(0, dtype=np.int64), 4, 1, PurgeSpec(1, 0))
    with pytest.raises(DataError, match="bar 2"):
        session_folds(np.array([0, 1, 0]), 1, 1, PurgeSpec(1, 0))


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="leave nothing"):
        session_folds(sessions_of(3, 3, 3), 2, 1, PurgeSpec(5, 1))
    with pytest.raises(ConfigError, match="test_sessions 0"):
        session_folds(sessions_of(3, 3, 3), 2, 0, PurgeSpec(1, 0))


# --- the overnight leak -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def clock():
    """5-minute bars around Thanksgiving 2023 and both clock changes of 2024: half days and DST."""
    calendar = TradingCalendar("XNYS")
    spans = (("2023-11-13", "2023-12-29"), ("2024-02-26", "2024-03-22"))
    return [calendar.bars("5m", *span) for span in spans]


def label_spans(bars, decisions, horizon_minutes, lag):
    """Brute force: walk the clock bar by bar, adding the minutes in which the venue trades."""
    spans = []
    for decision in decisions:
        entry, passed, bar = decision + lag - 1, 0, decision + lag - 1
        while passed < horizon_minutes:
            bar += 1
            passed += (bars.closes[bar] - bars.opens[bar]) // 60_000_000_000
        spans.append((entry, bar))
    return spans


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("horizon_minutes", [5, 60, 390])
def test_a_label_that_spans_the_close_never_meets_a_training_row(clock, horizon_minutes, lag):
    for bars in clock:
        purge = make_purge_spec([horizon_minutes // 5], lag, 0)
        folds = session_folds(bars.session - bars.session[0], 5, 3, purge)
        assert len(folds) >= 4
        overnight = 0
        for fold in folds:
            decisions = range(fold.train_start, fold.train_stop)
            tested = set(range(fold.test_start, fold.test_stop))
            for decision, (entry, end) in zip(
                decisions, label_spans(bars, decisions, horizon_minutes, lag), strict=True
            ):
                assert tested.isdisjoint(range(decision, end + 1))
                overnight += bars.session[entry] != bars.session[end]
            beyond = label_spans(bars, [fold.train_stop], horizon_minutes, lag)[0]
            assert beyond[1] == fold.test_start  # one row more would leak
        assert overnight > 0  # there are training labels that span a night


def test_a_purge_in_clock_minutes_would_leak(clock):
    bars, minutes = clock[0], 60
    (fold, *_) = session_folds(bars.session - bars.session[0], 5, 3, make_purge_spec([12], 1, 0))
    opening = bars.closes[fold.test_start]
    by_clock = [
        bar
        for bar in range(fold.train_start, fold.test_start)
        if bars.closes[bar] + minutes * 60_000_000_000 < opening
    ]
    leaking = [
        bar
        for bar, (_, end) in zip(by_clock, label_spans(bars, by_clock, minutes, 1), strict=True)
        if end >= fold.test_start
    ]
    assert leaking == list(range(fold.test_start - 12, fold.test_start))
    assert leaking[0] == fold.train_stop


def test_the_clock_holds_a_half_day_and_a_clock_change(clock):
    lengths = np.bincount(clock[0].session - clock[0].session[0])
    assert sorted(set(lengths)) == [42, 78]
    offsets = pd.DatetimeIndex(clock[1].opens.view("M8[ns]")).hour.to_numpy()
    assert {13, 14} <= set(offsets)  # the open, UTC, in summer and in winter time


# --- the holdout -----------------------------------------------------------------------------


def test_holdout_by_hand():
    assert holdout(100, 200, 0.2, PurgeSpec(5, 2)) == (173, 180)
    assert holdout(0, 10, 0.01, PurgeSpec(1, 0)) == (8, 9)  # at least one bar


@settings(deadline=None)
@given(
    start=whole(0, 1000),
    length=whole(10, 2000),
    fraction=st.floats(0.05, 0.5),
    label=whole(1, 50),
)
def test_no_label_that_was_fitted_reaches_the_holdout(start, length, fraction, label):
    stop = start + length
    try:
        fit_stop, validation = holdout(start, stop, fraction, PurgeSpec(label, 0))
    except ConfigError:
        return
    assert start < fit_stop < validation < stop
    assert fit_stop - 1 + label == validation - 1
    assert stop - validation == max(1, round(fraction * length))


@pytest.mark.parametrize(("fraction", "label"), [(0.0, 1), (1.0, 1), (0.5, 50)])
def test_impossible_holdouts_are_refused(fraction, label):
    with pytest.raises(ConfigError):
        holdout(0, 100, fraction, PurgeSpec(label, 0))
