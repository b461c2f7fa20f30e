import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dpa.config import StandardiseConfig
from dpa.decision.standardise import PastForecasts, Summary, standardise

SETTINGS = StandardiseConfig(score_sessions=2, score_samples=3, score_clip=3.0)


def summary_of(rows: np.ndarray) -> Summary:
    summary = Summary.empty(rows.shape[1:])
    for row in rows:
        summary = summary.with_values(row)
    return summary


def test_hand_computed_score() -> None:
    past = summary_of(np.array([[1.0], [2.0], [3.0]]))
    scores, n_samples = standardise(past, np.array([4.0]), SETTINGS)
    assert scores == pytest.approx([2.0])  # mean 2, sample deviation 1
    assert n_samples == [3]


def test_current_forecast_is_excluded() -> None:
    """With the current value inside, |z| of 4 values could not exceed 1.5 (PITFALLS M10)."""
    past = summary_of(np.array([[0.9], [1.0], [1.1]]))
    scores, _ = standardise(past, np.array([1.25]), SETTINGS)
    assert scores == pytest.approx([2.5])
    assert (4 - 1) / np.sqrt(4) < 2.5


@pytest.mark.parametrize("values", [[5.0, 5.0], [0.1, 0.1, 0.1, 0.1], [1e9, 1e9, 1e9]])
def test_too_few_or_equal_values_have_no_score(values: list[float]) -> None:
    past = summary_of(np.array(values)[:, None])
    scores, n_samples = standardise(past, np.array([1.0]), SETTINGS)
    assert np.isnan(scores).all()
    assert n_samples == [len(values)]


def test_no_forecast_no_score() -> None:
    past = summary_of(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    scores, _ = standardise(past, np.array([np.nan, 2.0]), SETTINGS)
    np.testing.assert_array_equal(scores, [np.nan, 0.0])


@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(0, 30), st.floats(0.0, 0.9))
@hypothesis_settings(max_examples=40, deadline=None)
def test_moments_are_numpys(seed: int, first: int, second: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    rows = 50.0 + rng.standard_normal((first + second, 5))
    rows[rng.random(rows.shape) < missing] = np.nan
    merged = summary_of(rows[:first].reshape(first, 5)).merged(
        summary_of(rows[first:].reshape(second, 5))
    )
    for column in range(5):
        known = rows[:, column][np.isfinite(rows[:, column])]
        assert merged.count[column] == len(known)
        if len(known):
            assert merged.mean[column] == pytest.approx(known.mean(), rel=1e-12)
        if len(known) > 1:
            assert merged.deviation[column] == pytest.approx(known.std(ddof=1), rel=1e-9)
        else:
            assert np.isnan(merged.deviation[column])


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
@hypothesis_settings(max_examples=30, deadline=None)
def test_scores_are_cut(seed: int, clip: float) -> None:
    rng = np.random.default_rng(seed)
    settings = StandardiseConfig(score_samples=3, score_clip=clip)
    past = summary_of(rng.standard_normal((5, 2, 3)))
    scores, _ = standardise(past, 100 * rng.standard_normal((2, 3)), settings)
    assert (np.abs(scores) <= clip).all()


def test_sessions_that_count() -> None:
    """Two sessions before the running one, by number; the running one as far as it got."""
    rng = np.random.default_rng(3)
    past, running, history = PastForecasts.start((4,)), -1, []
    for session in (0, 1, 2, 3, 7, 8, 9):
        for _ in range(5):
            past = past.moved_to(session, running, keep=2)
            running = session
            counted = np.array([row for number, row in history if number >= session - 2])
            whole = past.whole
            assert (whole.count == len(counted)).all()
            if len(counted) > 1:
                np.testing.assert_allclose(whole.mean, counted.mean(axis=0), rtol=1e-12)
                np.testing.assert_allclose(whole.deviation, counted.std(axis=0, ddof=1), rtol=1e-12)
            row = rng.standard_normal(4)
            history.append((session, row))
            past = past.with_forecasts(row)
    assert [number for number, _ in past.closed] == [7, 8]


def test_closed_sessions_are_merged_once_a_session() -> None:
    past = PastForecasts.start((2,)).with_forecasts(np.ones(2)).moved_to(1, 0, 10)
    assert past.with_forecasts(np.ones(2)).moved_to(1, 1, 10).past is past.past


def test_symbols_do_not_share_a_past() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 3))
    alone = summary_of(rows[:, [1]])
    together = summary_of(rows)
    assert alone.spread[0] == together.spread[1]
