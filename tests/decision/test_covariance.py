import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from dpa.decision.alignment import Alignment
from dpa.decision.covariance import ScoreMoments


def moments_of(bars: list[np.ndarray]) -> ScoreMoments:
    moments = ScoreMoments.start(*bars[0].shape[:2])
    for scores in bars:
        moments = moments.with_scores(scores)
    return moments


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(3, 30), st.integers(1, 5))
@hypothesis_settings(max_examples=40, deadline=None)
def test_without_forgetting_it_is_sklearns(
    seed: int, n_families: int, n_names: int, n_bars: int
) -> None:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n_bars, 2, 1, n_names))
    bars = rng.standard_normal((n_bars, 2, n_families, n_names)) + common
    bars[rng.random(bars.shape) < 0.1] = np.nan
    bars[..., :2] = rng.standard_normal((n_bars, 2, n_families, 2))  # two whole rows a bar
    found = moments_of(list(bars)).covariance()
    for horizon in range(2):
        rows = np.concatenate(list(bars[:, horizon].swapaxes(1, 2)))
        rows = rows[np.isfinite(rows).all(axis=1)]
        wanted = ledoit_wolf(rows, assume_centered=True)[0]
        np.testing.assert_allclose(found[horizon], wanted, rtol=1e-9, atol=1e-12)


def test_forgetting_is_a_weight() -> None:
    """A bar faded to one half counts as half a bar."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 1, 3, 50))
    faded = moments_of([first]).faded(0.5).with_scores(second)
    twice = moments_of([first, second, second])
    for name in ("second", "fourth", "count"):
        np.testing.assert_allclose(2 * getattr(faded, name), getattr(twice, name), rtol=1e-12)


def test_before_any_score_it_is_the_unit_matrix() -> None:
    np.testing.assert_array_equal(
        ScoreMoments.start(2, 3).covariance(), np.broadcast_to(np.eye(3), (2, 3, 3))
    )


def test_a_family_that_never_answers_does_not_stop_the_others() -> None:
    rng = np.random.default_rng(1)
    bars = [rng.standard_normal((1, 3, 40)) for _ in range(5)]
    for scores in bars:
        scores[0, 1] = np.nan
    found = moments_of(bars).covariance()[0]
    rows = np.concatenate([scores[0][[0, 2]].T for scores in bars])
    wanted = ledoit_wolf(rows, assume_centered=True)[0]
    np.testing.assert_allclose(found[np.ix_([0, 2], [0, 2])], wanted, rtol=1e-9)
    np.testing.assert_array_equal(found[1], [0.0, 1.0, 0.0])


@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=40, deadline=None)
def test_is_never_indefinite(seed: int) -> None:
    """Even where families answered at different bars."""
    rng = np.random.default_rng(seed)
    bars = []
    for _ in range(6):
        scores = rng.standard_normal((1, 4, 3)) * rng.uniform(0.1, 3, (1, 4, 1))
        scores[0, rng.random(4) < 0.4] = np.nan
        bars.append(scores)
    found = moments_of(bars).covariance()[0]
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() > -1e-12


def test_alignment() -> None:
    rng = np.random.default_rng(2)
    moments = moments_of([rng.standard_normal((2, 2, 9))])
    to = Alignment(np.array([1]), np.array([1, -1, 0]), np.array([], np.int64))
    moved = moments.aligned(to)
    np.testing.assert_array_equal(
        moved.second[0][np.ix_([0, 2], [0, 2])], moments.second[1][::-1, ::-1]
    )
    assert (moved.count[0, 1] == 0).all()
