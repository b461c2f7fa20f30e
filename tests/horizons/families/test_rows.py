"""Standardising: numpy's mean and deviation, winsorised, gaps kept or filled."""

import numpy as np
import pytest

from dpa.horizons.families._rows import CHUNK, Scaling, chunks, shares


def test_mean_and_deviation_of_what_is_known_beyond_one_chunk():
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((CHUNK + 500, 3)) * [1, 1e4, 1e-6] + [0, 1e5, 2]).astype("f4")
    features[rng.random(features.shape) < 0.2] = np.nan
    scaling = Scaling.of(features)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(scaling.centre, np.nanmean(exact, axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(scaling.scale[:2], 1 / np.nanstd(exact[:, :2], axis=0), rtol=1e-12)
    assert scaling.scale[2] == 0  # varies less than float32 can tell


def test_winsorised_and_filled_by_hand():
    scaling = Scaling(np.array([1.0, 0.0]), np.array([0.5, 0.0]))
    features = np.array([[3, 9], [100, 9], [-100, np.nan], [np.nan, 0]], dtype="f4")
    np.testing.assert_array_equal(
        scaling.standardise(features), [[1, 0], [5, 0], [-5, np.nan], [np.nan, 0]]
    )
    np.testing.assert_array_equal(scaling.filled(features), [[1, 0], [5, 0], [-5, 0], [0, 0]])


@pytest.mark.parametrize("column", [[2.5] * 5, [np.nan] * 5, [0.1, np.nan, 0.1, 0.1, 0.1]])
def test_constant_or_unseen_has_scale_zero(column):
    scaling = Scaling.of(np.array(column, dtype="f4")[:, None])
    assert scaling.scale[0] == 0
    assert np.isfinite(scaling.centre[0])


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (3, 3), (10, 3)])
def test_chunks_cover_every_row_once(n, size):
    covered = [row for part in chunks(n, size) for row in range(n)[part]]
    assert covered == list(range(n))


def test_shares():
    np.testing.assert_array_equal(shares(np.array([1.0, 3.0])), [0.25, 0.75])
    np.testing.assert_array_equal(shares(np.zeros(2)), [0, 0])
