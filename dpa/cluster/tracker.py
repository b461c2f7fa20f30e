"""Clusters that follow their members: spherical k-means carried from bar to bar.

The tracker is past-only and has nothing to learn: its labels are the warm start of the
differentiable steps in :mod:`dpa.cluster.assignment`, the same in training, test and live.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dpa.cluster.features import Features

Labels = NDArray[np.int16]
ABSENT = -1


def kmeans_plus_plus(vectors: Tensor, n_clusters: int, generator: np.random.Generator) -> Tensor:
    """Seeds by D^2 weighting on the sphere (Arthur & Vassilvitskii 2007).

    Parameters
    ----------
    vectors : Tensor of shape (n_vectors, window)
        Unit vectors.
    n_clusters : int
        Seeds wanted; with fewer vectors, vectors repeat.
    generator : numpy Generator

    Returns
    -------
    Tensor of shape (n_clusters, window)
        Each a row of `vectors`; squared distance on the sphere is ``2 - 2 cos``.
    """
    n_vectors = vectors.shape[0]
    chosen = [int(generator.integers(n_vectors))]
    distance = (2.0 - 2.0 * (vectors @ vectors[chosen[0]])).clamp_min(0.0)
    for _ in range(1, n_clusters):
        weights = distance.double().cpu().numpy()
        total = weights.sum()
        uniform = total <= 1e-12
        pick = generator.choice(n_vectors, p=None if uniform else weights / total)
        chosen.append(int(pick))
        nearer = (2.0 - 2.0 * (vectors @ vectors[chosen[-1]])).clamp_min(0.0)
        distance = torch.minimum(distance, nearer)
    return vectors[chosen].clone()


def _centroids(vectors: Tensor, labels: Tensor, old: Tensor) -> Tensor:
    """Mean direction of each cluster's members; an empty cluster keeps its old one."""
    n_clusters = old.shape[0]
    sums = torch.zeros_like(old).index_add_(0, labels, vectors)
    filled = torch.bincount(labels, minlength=n_clusters) > 0
    fresh: Tensor = torch.where(filled.unsqueeze(1), sums, old)
    return torch.nn.functional.normalize(fresh, dim=1)


def spherical_kmeans(
    vectors: Tensor, centroids: Tensor, max_steps: int = 50
) -> tuple[Tensor, Tensor, float]:
    """Lloyd iterations on the sphere (Dhillon & Modha 2001) until nothing moves.

    Parameters
    ----------
    vectors : Tensor of shape (n_vectors, window)
        Unit vectors.
    centroids : Tensor of shape (n_clusters, window)
        Start.
    max_steps : int

    Returns
    -------
    labels : int64 Tensor (n_vectors,)
    centroids : Tensor (n_clusters, window)
    cohesion : float
        Sum over vectors of the cosine to their centroid; larger is better.
    """
    labels = (vectors @ centroids.t()).argmax(1)
    for _ in range(max_steps):
        centroids = _centroids(vectors, labels, centroids)
        fresh = (vectors @ centroids.t()).argmax(1)
        if bool((fresh == labels).all()):
            break
        labels = fresh
    cohesion = float((vectors @ centroids.t()).max(1).values.sum())
    return labels, centroids, cohesion


def best_of_restarts(
    vectors: Tensor, n_clusters: int, generator: np.random.Generator, restarts: int
) -> tuple[Tensor, Tensor, float]:
    """The most cohesive of several k-means++ starts; see :func:`spherical_kmeans`."""
    runs = [
        spherical_kmeans(vectors, kmeans_plus_plus(vectors, n_clusters, generator))
        for _ in range(restarts)
    ]
    return max(runs, key=lambda run: run[2])


def match_clusters(fresh: Tensor, old: Tensor, n_clusters: int) -> Tensor:
    """Rename fresh labels so that they agree with old ones as often as can be (Hungarian).

    Parameters
    ----------
    fresh, old : int64 Tensors of shape (n_vectors,)
        `old` may hold ABSENT for names that were not there.

    Returns
    -------
    int64 Tensor of shape (n_vectors,)
    """
    known = old >= 0
    pairs = (fresh[known] * n_clusters + old[known]).cpu()
    counts = torch.bincount(pairs, minlength=n_clusters**2).reshape(n_clusters, n_clusters)
    rows, columns = linear_sum_assignment(-counts.numpy())
    renamed = torch.empty(n_clusters, dtype=torch.int64, device=fresh.device)
    renamed[torch.as_tensor(rows)] = torch.as_tensor(columns, device=fresh.device)
    return renamed[fresh]


@dataclass
class ClusterTracker:
    """Follows K clusters through time; call :meth:`extend` with each new stretch.

    Parameters
    ----------
    n_clusters : int
    seed : int
        Every draw is a function of the seed and the number of bars seen.
    reseed_bars : int
        Every so many bars a fresh k-means++ solution challenges the tracked one and replaces it
        when it is more cohesive by `margin`; names of clusters are kept by matching.
    restarts : int
        k-means++ starts of a challenge.
    margin : float
        Fraction of cohesion a challenger must add.
    """

    n_clusters: int
    seed: int
    reseed_bars: int = 63
    restarts: int = 8
    margin: float = 0.01
    bars_seen: int = 0
    last: Tensor | None = None  # (n_assets,) labels of the newest bar, ABSENT where invalid

    def extend(self, features: Features, first_bar: int) -> Labels:
        """Labels of bars `first_bar` and later.

        Parameters
        ----------
        features : Features
        first_bar : int
            First bar not seen before; has a whole window behind it.

        Returns
        -------
        int16 ndarray of shape (n_bars - first_bar, n_assets)
            Cluster of each name, ABSENT (-1) where its window is invalid.
        """
        features = features.to("cpu")  # one processor's sums, whatever the model runs on
        out = np.full((features.n_bars - first_bar, features.series.shape[1]), ABSENT, np.int16)
        for row, bar in enumerate(range(first_bar, features.n_bars)):
            out[row] = self._step(features, bar).numpy()
        return out

    def _step(self, features: Features, bar: int) -> Tensor:
        valid = features.valid[bar]
        labels = torch.full_like(valid, ABSENT, dtype=torch.int64)
        due = self.last is None or self.bars_seen % self.reseed_bars == 0
        if int(valid.sum()) > 0:
            vectors = features.unit_vectors(bar)[valid]
            old = None if self.last is None else self.last[valid]
            labels[valid] = self._assign(vectors, old, due)
            self.bars_seen += 1
            self.last = labels
        return labels

    def _assign(self, vectors: Tensor, old: Tensor | None, due: bool) -> Tensor:
        tracked = self._follow(vectors, old) if old is not None and bool((old >= 0).any()) else None
        if tracked is not None and not due:
            return tracked[0]
        generator = np.random.default_rng([self.seed, self.bars_seen])
        labels, _, cohesion = best_of_restarts(vectors, self.n_clusters, generator, self.restarts)
        if tracked is None or old is None:
            return labels
        if cohesion <= tracked[1] * (1.0 + self.margin):
            return tracked[0]
        return match_clusters(labels, old, self.n_clusters)

    def _follow(self, vectors: Tensor, old: Tensor) -> tuple[Tensor, float]:
        """Two Lloyd steps from yesterday's members."""
        known = old >= 0
        start = vectors.new_zeros(self.n_clusters, vectors.shape[1])
        start = _centroids(vectors[known], old[known], start)
        labels, _, cohesion = spherical_kmeans(vectors, start, max_steps=2)
        return labels, cohesion
