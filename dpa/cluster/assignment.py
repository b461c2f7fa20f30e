"""Stage 2: how much each name belongs to each cluster, and whether it belongs to any.

Axes are (n_rows, n_clusters, n_assets); a row is a bar with a whole window behind it.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from dpa.cluster.features import Features, moments
from dpa.cluster.windows import window_product


def assign(
    similarity: Tensor,
    valid: Tensor,
    temperature: Tensor,
    threshold: Tensor,
    gate_sharpness: float,
    hard: bool,
) -> tuple[Tensor, Tensor]:
    """Soft (or hard) assignments and the outlier gate.

    ``q = softmax(similarity / temperature)`` over clusters and
    ``gate = sigmoid(gate_sharpness * (max_k similarity - threshold))``; hard: the nearest cluster,
    and a step.

    Parameters
    ----------
    similarity : Tensor (n_rows, n_clusters, n_assets)
        Cosines.
    valid : Tensor (n_rows, n_assets)
        1 where the name has a whole window, else 0.
    temperature, threshold : scalar Tensors
    gate_sharpness : float
        Per cosine.
    hard : bool

    Returns
    -------
    q : Tensor (n_rows, n_clusters, n_assets)
        Sums to 1 over clusters.
    gate : Tensor (n_rows, n_assets)
        In [0, 1]; 0 where invalid.
    """
    best, nearest = similarity.max(1)
    if hard:
        q = one_hot(nearest, similarity.shape[1]).transpose(1, 2).to(similarity.dtype)
        return q, (best > threshold).to(similarity.dtype) * valid
    q = torch.softmax(similarity / temperature, 1)
    return q, torch.sigmoid(gate_sharpness * (best - threshold)) * valid


def shape_similarity(centroids: Tensor, features: Features) -> Tensor:
    """Cosine of each name's window with K learnable shapes that do not move in time.

    Parameters
    ----------
    centroids : Tensor (n_clusters, window)
        Any vectors; centred and normalised here. Centred, so that the moving mean of the windows
        drops out of the product.
    features : Features

    Returns
    -------
    Tensor (n_rows, n_clusters, n_assets)
    """
    window = features.window
    unit = normalize(centroids - centroids.mean(1, keepdim=True), dim=1)
    scale = features.scale[window - 1 :] * window**0.5
    cosine: Tensor = window_product(unit, features.series) / scale.unsqueeze(1)
    return cosine


class Comovement:
    """Centroid paths that are the mean paths of their members, under learnable lag weights.

    Names are compared by the weighted correlation of their windows,
    ``z_w = sqrt(l_w) (x_w - m) / s`` with lag weights `l` summing to 1 and `m`, `s` the weighted
    moments, so that every z is a unit vector.

    Parameters
    ----------
    features : Features
    lag_weights : Tensor (window,)
        Newest last; sum to 1.
    """

    def __init__(self, features: Features, lag_weights: Tensor | None) -> None:
        window = features.window
        self.windows = features.windows()
        valid = features.valid[window - 1 :]
        if lag_weights is None:
            lag_weights = features.series.new_full((window,), 1.0 / window)
            mean, scale = features.mean[window - 1 :], features.scale[window - 1 :]
        else:
            mean, scale = moments(features.series, lag_weights)
            scale = torch.where(valid, scale, 1.0)
        self.root = lag_weights.sqrt()
        self.inverse_scale = valid / scale
        self.shift = mean * self.inverse_scale

    def centroids(self, membership: Tensor) -> Tensor:
        """Mean direction of the members.

        Parameters
        ----------
        membership : Tensor (n_rows, n_clusters, n_assets)
            Weight of each name in each cluster, 0 where invalid.

        Returns
        -------
        Tensor (n_rows, n_clusters, window)
            Unit vectors; 0 for an empty cluster.
        """
        weighted = membership * self.inverse_scale.unsqueeze(1)
        path = torch.bmm(weighted, self.windows.transpose(1, 2))
        level = torch.bmm(membership, self.shift.unsqueeze(2))
        return normalize((path - level) * self.root, dim=2)

    def similarity(self, centroids: Tensor) -> Tensor:
        """Cosine of each name with each centroid, shape (n_rows, n_clusters, n_assets)."""
        weighted = centroids * self.root
        product = torch.bmm(weighted, self.windows)
        level = weighted.sum(2, keepdim=True)
        similarity: Tensor = product * self.inverse_scale.unsqueeze(1) - (
            level * self.shift.unsqueeze(1)
        )
        return similarity


def tracked_membership(labels: Tensor, n_clusters: int, dtype: torch.dtype) -> Tensor:
    """One-hot membership (n_rows, n_clusters, n_assets) of tracked labels; -1 is nobody's."""
    clusters = torch.arange(n_clusters, device=labels.device).reshape(1, -1, 1)
    return (labels.unsqueeze(1) == clusters).to(dtype)
