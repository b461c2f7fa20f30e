"""Similarities to shapes and to the mean paths of members, against unfolded windows."""

import numpy as np
import pytest
import torch

from dpa.cluster.assignment import Comovement, Shapes, tracked_membership
from dpa.cluster.features import make_features

WINDOW = 12


def standardised(series, bar, weights):
    window = series[bar - WINDOW + 1 : bar + 1].T
    mean = window @ weights
    scale = np.sqrt(((window - mean[:, None]) ** 2) @ weights)
    return np.sqrt(weights) * (window - mean[:, None]) / scale[:, None]


@pytest.mark.parametrize("kind", ["returns", "price_path"])
def test_similarity_to_a_shape_is_the_cosine(kind, messy, rng):
    features = make_features(messy, kind, WINDOW)
    shapes = torch.from_numpy(rng.standard_normal((3, WINDOW))).float()
    space = Shapes(features)
    cosine = space.product(shapes) * space.inverse_scale.unsqueeze(1)
    centred = (shapes - shapes.mean(1, keepdim=True)).numpy()
    for bar in (40, 75, 169):
        unit = features.unit_vectors(bar).numpy()
        expected = (unit @ centred.T / np.linalg.norm(centred, axis=1)).T
        assert np.allclose(cosine[bar - WINDOW + 1], expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["returns", "price_path"])
@pytest.mark.parametrize("equal", [True, False])
def test_similarity_to_members_is_the_weighted_correlation(kind, equal, messy, rng):
    features = make_features(messy, kind, WINDOW)
    weights = np.full(WINDOW, 1 / WINDOW) if equal else rng.random(WINDOW)
    weights = weights / weights.sum()
    lags = None if equal else torch.from_numpy(weights).float()
    space = Comovement(features, lags)
    rows, names = messy.n_bars - WINDOW + 1, messy.n_assets
    member = torch.from_numpy(rng.random((rows, 3, names))).float()
    member = member * features.valid[WINDOW - 1 :].unsqueeze(1)
    cosine = space.product(member) * space.inverse_scale.unsqueeze(1)
    series = features.series.double().numpy()
    for bar in (40, 75, 169):
        valid = features.valid[bar].numpy()
        z = standardised(series[:, valid], bar, weights)
        row = bar - WINDOW + 1
        paths = member[row].double().numpy()[:, valid] @ z
        paths /= np.linalg.norm(paths, axis=1, keepdims=True)
        assert np.allclose(space.centroids(member)[row], paths, atol=1e-3)
        assert np.allclose(cosine[row].numpy()[:, valid], paths @ z.T, atol=1e-3)
        assert not cosine[row].numpy()[:, ~valid].any()


def test_learnt_lags_keep_their_accuracy_far_from_the_first_price(make_panel, rng):
    """A price path that has tripled and then hardly moves is still a unit vector."""
    steps = rng.standard_normal((80, 4)) * 2e-4
    steps[20] += np.log(3.0)
    panel = make_panel(100.0 * np.exp(steps.cumsum(0)))
    features = make_features(panel, "price_path", WINDOW)
    lags = torch.linspace(0.5, 1.5, WINDOW)
    lags = lags / lags.sum()
    space = Comovement(features, lags)
    member = torch.zeros(80 - WINDOW + 1, 1, 4)
    member[:, 0, 0] = 1.0
    cosine = (space.product(member) * space.inverse_scale.unsqueeze(1))[-1, 0].numpy()
    z = standardised(np.log(panel.prices), 79, lags.double().numpy())
    assert np.allclose(cosine, z[0] @ z.T, atol=5e-3)


def test_nobody_belongs_to_an_absent_label():
    labels = torch.tensor([[0, 2, -1], [1, 1, 0]])
    member = tracked_membership(labels, 3, torch.float32)
    expected = [[[1, 0, 0], [0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0], [0, 0, 0]]]
    assert member.tolist() == expected
