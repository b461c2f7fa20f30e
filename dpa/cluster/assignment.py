"""Stage 2: how like each cluster a name's window is.

Axes are (n_rows, n_clusters, n_assets); a row is a bar with a whole window behind it. Products are
similarities before the division by the name's own scale, which costs nothing where they are used.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dpa.cluster.features import Features, moments
from dpa.cluster.windows import window_product

TINY = 1e-24  # squared length below which a vector is no direction: an empty cluster's stays 0


class Shapes:
    """Similarity to K learnable shapes that do not move in time.

    Parameters
    ----------
    features : Features
    """

    def __init__(self, features: Features) -> None:
        rows = slice(features.first_bar, None)
        self.series = features.series
        self.inverse_scale = features.valid[rows] / (features.scale[rows] * features.window**0.5)

    def product(self, shapes: Tensor) -> Tensor:
        """Inner product of each name's centred window with each shape.

        Parameters
        ----------
        shapes : Tensor (n_clusters, window)
            Any vectors; centred and normalised here. Because they are centred, the moving mean
            of the windows drops out.

        Returns
        -------
        Tensor (n_rows, n_clusters, n_assets)
            Times ``inverse_scale`` it is the cosine.
        """
        unit = normalize(shapes - shapes.mean(1, keepdim=True), dim=1)
        return window_product(unit, self.series)


class Comovement:
    """Similarity to centroid paths that are the mean paths of their members.

    Names are compared by the weighted correlation of their windows,
    ``z_w = sqrt(l_w) (x_w - m) / s`` with lag weights `l` summing to 1 and `m`, `s` the weighted
    moments, so that every z is a unit vector. Every z, hence every centroid, is orthogonal to
    ``sqrt(l)``, so `m` drops out of their product.

    Parameters
    ----------
    features : Features
    lag_weights : Tensor (window,), optional
        Newest last; sum to 1. None: all equal.
    """

    def __init__(self, features: Features, lag_weights: Tensor | None) -> None:
        rows = slice(features.first_bar, None)
        self.windows = features.windows()
        self.levels = features.kind == "price_path"
        if lag_weights is None:
            window = features.window
            self.root = features.series.new_full((window,), window**-0.5)
            self.mean, scale = features.mean[rows], features.scale[rows]
        else:
            self.root = lag_weights.sqrt()
            form = _exact_moments if self.levels else moments
            self.mean, scale = form(features.series, lag_weights)
            scale = torch.where(features.valid[rows], scale, 1.0)
        self.inverse_scale = features.valid[rows] / scale

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
        level = torch.bmm(weighted, self.mean.unsqueeze(2))
        unit: Tensor = _Direction.apply(path, level, self.root)  # type: ignore[no-untyped-call]
        return unit

    def product(self, membership: Tensor) -> Tensor:
        """Inner product of each name's window with the centroids of `membership`.

        Returns
        -------
        Tensor (n_rows, n_clusters, n_assets)
            Times ``inverse_scale`` it is the weighted correlation.
        """
        kernels = self.centroids(membership) * self.root
        if self.levels:  # what rounding left of their sum would be multiplied by the level
            kernels = kernels - kernels.mean(2, keepdim=True)
        return torch.bmm(kernels, self.windows)


class _Direction(torch.autograd.Function):
    """``(path - level) * root`` scaled to unit length, with half the passes over its windows."""

    @staticmethod
    def forward(ctx, path, level, root):  # type: ignore[no-untyped-def]
        unit = torch.sub(path, level).mul_(root)
        inverse = torch.linalg.vecdot(unit, unit).clamp_min_(TINY).rsqrt_().unsqueeze_(2)
        unit.mul_(inverse)
        ctx.save_for_backward(unit, inverse, root)
        return unit

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        unit, inverse, root = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit).unsqueeze_(2)
        d_raw = torch.addcmul(grad, unit, along, value=-1.0).mul_(inverse)
        d_root = None
        if root.requires_grad:  # the vector before the root is unit / (inverse * root)
            d_root = torch.mul(d_raw, unit).div_(inverse).sum((0, 1)) / root
        d_path = d_raw.mul_(root)
        return d_path, -d_path.sum(2, keepdim=True), d_root


def _exact_moments(series: Tensor, lag_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted moments, formed in double: squares of levels far from 0 cancel in single."""
    weights = lag_weights.double()
    mean, scale = moments(series.double(), weights / weights.sum())
    return mean.to(series.dtype), scale.to(series.dtype)


def tracked_membership(labels: Tensor, n_clusters: int, dtype: torch.dtype) -> Tensor:
    """One-hot membership (n_rows, n_clusters, n_assets) of tracked labels; -1 is nobody's."""
    clusters = torch.arange(n_clusters, device=labels.device).reshape(1, -1, 1)
    return (labels.unsqueeze(1) == clusters).to(dtype)
