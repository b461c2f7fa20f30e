"""Seeding, Lloyd steps and identity in time of the tracked clusters."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from dpa.cluster.features import make_features
from dpa.cluster.tracker import (
    ABSENT,
    ClusterTracker,
    best_of_restarts,
    kmeans_plus_plus,
    match_clusters,
    spherical_kmeans,
)
from dpa.simulation.planted import PlantedMarket, simulate
from dpa.validation.truncation import assert_past_only

WINDOW = 60


def unit(rows):
    vectors = torch.as_tensor(rows, dtype=torch.float32)
    return torch.nn.functional.normalize(vectors, dim=1)


def groups(rng, n_groups=4, members=8, spread=0.05, dimensions=10):
    """Tight groups of unit vectors around far-apart centres, and their labels."""
    centres = np.eye(dimensions)[:n_groups]
    noise = rng.standard_normal((n_groups * members, dimensions)) * spread
    return unit(centres.repeat(members, axis=0) + noise), np.repeat(np.arange(n_groups), members)


def test_seeds_are_drawn_by_squared_distance():
    """Second seed given the first: probability D^2 / sum D^2, counted over many draws."""
    vectors = unit([[1, 0, 0], [1, 0.5, 0], [0, 1, 0.2], [-1, 0.3, 0]])
    generator = np.random.default_rng(0)
    counts = np.zeros((4, 4))
    for _ in range(8000):
        first, second = (
            int((vectors @ seed).argmax()) for seed in kmeans_plus_plus(vectors, 2, generator)
        )
        counts[first, second] += 1
    squared = (2 - 2 * vectors @ vectors.T).clamp_min(0).double().numpy()
    np.fill_diagonal(squared, 0)
    expected = squared / squared.sum(1, keepdims=True)
    assert np.allclose(counts.sum(1) / counts.sum(), 0.25, atol=0.03)
    assert np.allclose(counts / counts.sum(1, keepdims=True), expected, atol=0.035)


def test_seeding_beats_a_random_permutation(rng):
    """The seeds of the first version were a random choice, and missed groups most of the time."""
    vectors, labels = groups(rng, n_groups=8, members=6)
    generator = np.random.default_rng(1)

    def found(seeds):
        return len(set(labels[(vectors @ seeds.T).argmax(0).numpy()]))

    ours = np.mean([found(kmeans_plus_plus(vectors, 8, generator)) for _ in range(200)])
    random = np.mean([found(vectors[generator.permutation(48)[:8]]) for _ in range(200)])
    assert ours > 7.6
    assert random < 6.0


def test_fewer_vectors_than_seeds_repeat():
    vectors = unit([[1.0, 0.0], [0.0, 1.0]])
    seeds = kmeans_plus_plus(vectors, 5, np.random.default_rng(0))
    assert seeds.shape == (5, 2)
    assert bool(torch.isfinite(seeds).all())
    labels, _, cohesion = best_of_restarts(vectors, 5, np.random.default_rng(0), 2)
    assert len(set(labels.tolist())) == 2
    assert cohesion == pytest.approx(2.0, abs=1e-5)


def slow_spherical_kmeans(vectors, centroids, steps):
    """Lloyd's loop on the sphere, name by name."""
    centroids, cohesion = centroids.copy(), []
    for _ in range(steps):
        labels = np.array([np.argmax([v @ c for c in centroids]) for v in vectors])
        for k in range(len(centroids)):
            members = vectors[labels == k]
            if len(members):
                mean = members.sum(0)
                centroids[k] = mean / np.linalg.norm(mean)
        cohesion.append(sum(max(v @ c for c in centroids) for v in vectors))
    return np.array([np.argmax([v @ c for c in centroids]) for v in vectors]), centroids, cohesion


@pytest.mark.parametrize("seed", range(4))
def test_lloyd_equals_the_slow_loop_and_never_loses_cohesion(seed):
    generator = np.random.default_rng(seed)
    vectors = unit(generator.standard_normal((40, 6)))
    start = vectors[generator.permutation(40)[:5]]
    labels, centroids, cohesion = spherical_kmeans(vectors, start, max_steps=50)
    slow = slow_spherical_kmeans(vectors.double().numpy(), start.double().numpy(), 50)
    assert np.array_equal(labels.numpy(), slow[0])
    assert np.allclose(centroids.numpy(), slow[1], atol=1e-5)
    assert cohesion == pytest.approx(slow[2][-1], abs=1e-3)
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(slow[2]))


def test_an_empty_cluster_keeps_its_centroid():
    vectors = unit([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0]])
    start = unit([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    labels, centroids, _ = spherical_kmeans(vectors, start)
    assert labels.tolist() == [0, 0]
    assert torch.equal(centroids[1], start[1])


def test_matching_undoes_a_renaming(rng):
    old = torch.from_numpy(rng.integers(0, 5, 200))
    permutation = torch.from_numpy(rng.permutation(5))
    fresh = permutation[old]
    fresh[:20] = torch.from_numpy(rng.integers(0, 5, 20))  # some names did move
    old_with_gaps = old.clone()
    old_with_gaps[40:50] = ABSENT
    renamed = match_clusters(fresh, old_with_gaps, 5)
    assert torch.equal(renamed[20:], old[20:])
    assert torch.equal(
        match_clusters(fresh, torch.full_like(old, ABSENT), 5).sort()[0], fresh.sort()[0]
    )


def track(panel, n_clusters=5, seed=0, **options):
    features = make_features(panel, "returns", WINDOW)
    tracker = ClusterTracker(n_clusters, seed, **options)
    return tracker.extend(features, features.first_bar), tracker, features


@pytest.fixture(scope="module")
def tracked(market):
    return track(market.panel)[0]


def test_planted_clusters_are_found(market, tracked):
    truth = market.labels[WINDOW - 1 :]
    scores = [adjusted_rand_score(truth[row], tracked[row]) for row in range(50, len(tracked), 25)]
    assert np.mean(scores) >= 0.95
    assert min(scores) >= 0.9


def test_clusters_keep_their_names_in_time(tracked):
    """No permutation from bar to bar, across the challenges of every 63 bars too."""
    settled = tracked[50:]
    assert (settled[1:] == settled[:-1]).mean() > 0.99
    assert (settled[0] == settled[-1]).mean() > 0.9


def test_a_challenger_that_is_better_takes_over_under_the_old_names():
    """Half the names change cluster; the tracked partition follows, its names stay."""
    config = PlantedMarket(
        n_clusters=4,
        names_per_cluster=8,
        n_bars=500,
        regime_change_bar=250,
        residual_volatility=0.005,
    )
    planted = simulate(config, 5)
    labels, _, _ = track(planted.panel, 4)
    first, last = labels[240 - WINDOW + 1], labels[-1]
    assert adjusted_rand_score(planted.labels[240], first) >= 0.9
    assert adjusted_rand_score(planted.labels[-1], last) >= 0.9
    stayed = planted.labels[240] == planted.labels[-1]
    assert (first[stayed] == last[stayed]).mean() > 0.9


def test_a_better_partition_takes_the_names_of_the_old_one(market):
    """Yesterday two true clusters were one and a third was split; Lloyd steps stay stuck there."""
    truth = market.labels[300]
    last = np.array([3, 3, 0, 4, 2])[truth]
    last[np.flatnonzero(truth == 2)[:2]] = 1
    features = make_features(market.panel, "returns", WINDOW)

    def label(bars_seen):
        tracker = ClusterTracker(5, 0, bars_seen=bars_seen, last=torch.from_numpy(last))
        return tracker.extend(features, 300)[0]

    stuck, found = label(62), label(63)  # the challenge comes every 63 bars
    assert adjusted_rand_score(truth, stuck) < 0.9
    assert adjusted_rand_score(truth, found) > 0.9
    for cluster, name in ((2, 0), (3, 4), (4, 2)):
        assert (found[truth == cluster] == name).mean() > 0.8


def test_tracking_goes_on_where_it_stopped(market):
    """Label by label the same whether the history comes at once or in stretches."""
    whole = track(market.panel)[0]
    part, tracker, _ = track(market.panel.window(0, 301))
    later = market.panel.window(301 - WINDOW - 5, 600)  # another stretch, another first bar
    rest = tracker.extend(make_features(later, "returns", WINDOW), WINDOW + 5)
    assert np.array_equal(np.concatenate([part, rest]), whole)


def test_names_come_and_go(messy):
    features = make_features(messy, "returns", 20)
    tracker = ClusterTracker(3, 0)
    labels = tracker.extend(features, features.first_bar)
    valid = features.valid[features.first_bar :].numpy()
    assert np.array_equal(labels == ABSENT, ~valid)
    assert labels.max() < 3
    assert set(valid[-1]) == {False, True}


def test_a_bar_without_names_is_skipped(make_panel, rng):
    prices = np.exp(rng.standard_normal((80, 6)).cumsum(0) * 0.01)
    mask = np.ones(prices.shape, bool)
    mask[40:43] = False
    features = make_features(make_panel(prices, mask), "returns", 20)
    tracker = ClusterTracker(2, 0)
    labels = tracker.extend(features, 20)
    assert (labels[20:23] == ABSENT).all()
    assert (labels[23:] >= 0).all()
    assert tracker.bars_seen == 57


def test_the_seed_decides(market):
    panel = market.panel.window(0, 130)
    first, again, other = (track(panel, 12, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_tracking_is_past_only(messy):
    def labels(panel):
        features = make_features(panel, "returns", 20)
        tracked = ClusterTracker(3, 0, reseed_bars=30).extend(features, features.first_bar)
        return {"labels": np.vstack([np.full((19, panel.n_assets), ABSENT, np.int16), tracked])}

    assert_past_only(labels, messy, (60, 92, 131))
