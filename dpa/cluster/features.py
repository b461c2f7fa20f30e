"""Stage 1: what the model sees of each name: a unit vector per bar, never materialised.

A name's window of W bars is centred and scaled to unit length, so inner products are
correlations. The windows stay implicit: a stage that needs them uses the series, its moving
moments and :mod:`dpa.cluster.windows`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dpa.cluster.windows import rolling_all, window_product, window_view
from dpa.market.panel import Bools, Floats, Panel

VARIANCE_FLOOR = 1e-16  # a window that never moves has no direction; it is marked invalid


@dataclass(frozen=True)
class Features:
    """The series behind the unit vectors and what follows from them alone.

    Attributes
    ----------
    kind : "returns" or "price_path"
        ``returns``: windows of log returns, so cosine is the correlation of returns.
        ``price_path``: windows of log prices; cosine then correlates *levels*, which is spurious
        for random walks (Granger & Newbold 1974), and carries the shape of the path only.
    window : int
        Bars in a unit vector, W.
    series : float32 Tensor (n_bars, n_assets)
        Log return per bar, or log price relative to the name's first; 0 where missing.
    valid : bool Tensor (n_bars, n_assets)
        Member at this bar, and all W values of its window exist.
    mean, scale : float32 Tensors (n_bars, n_assets)
        Mean and population standard deviation of the window, equal lag weights; scale is 1 where
        invalid.
    newest : float32 Tensor (n_bars, n_assets)
        Standardised newest value of the window: ``series / scale`` for returns (the drift is not
        taken out of a return), ``(series - mean) / scale`` for price paths. 0 where invalid.
    """

    kind: Literal["returns", "price_path"]
    window: int
    series: Tensor
    valid: Tensor
    mean: Tensor
    scale: Tensor
    newest: Tensor

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return self.series.shape[0]

    @property
    def first_bar(self) -> int:
        """First bar with a whole window behind it."""
        return self.window - 1

    def to(self, device: torch.device | str) -> "Features":
        """The same features on `device`."""
        tensors = (self.series, self.valid, self.mean, self.scale, self.newest)
        return Features(self.kind, self.window, *(tensor.to(device) for tensor in tensors))

    def unit_vectors(self, bar: int) -> Tensor:
        """Unit vectors of one bar, shape (n_assets, window); rows of invalid names are 0."""
        window = self.series[bar - self.window + 1 : bar + 1]
        centred = (window - self.mean[bar]) / (self.scale[bar] * self.window**0.5)
        vectors: Tensor = (centred * self.valid[bar]).t()
        return vectors

    def windows(self) -> Tensor:
        """View (n_bars - window + 1, window, n_assets) of the series."""
        return window_view(self.series, self.window)


def _log_series(prices: Floats, kind: str) -> Floats:
    with np.errstate(invalid="ignore"):
        logs: Floats = np.log(prices)
    if kind == "returns":
        series = np.full(logs.shape, np.nan)
        series[1:] = np.diff(logs, axis=0)
        return series
    if not len(logs):
        return logs
    first = np.isfinite(logs).argmax(axis=0)
    relative: Floats = logs - logs[first, np.arange(logs.shape[1])]
    return relative


def moments(series: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of every trailing window.

    Parameters
    ----------
    series : Tensor of shape (n_bars, n_assets)
        Finite.
    weights : Tensor of shape (window,)
        Lag weights, newest last, summing to 1. Gradients flow to them.

    Returns
    -------
    mean, scale : Tensors of shape (n_bars - window + 1, n_assets)
    """
    kernel = weights.unsqueeze(0)
    mean = window_product(kernel, series)[:, 0]
    square = window_product(kernel, series * series)[:, 0]
    return mean, (square - mean * mean).clamp_min(VARIANCE_FLOOR).sqrt()


def make_features(
    panel: Panel,
    kind: Literal["returns", "price_path"],
    window: int,
    device: torch.device | str = "cpu",
) -> Features:
    """Features of a stretch of history; every bar's from that bar and the W - 1 before it.

    Parameters
    ----------
    panel : Panel
        Prices with NaN where missing; a window that holds a gap, or a bar outside the mask at its
        end, is invalid.
    kind : "returns" or "price_path"
    window : int
        Bars in a unit vector.
    device : torch device

    Returns
    -------
    Features
    """
    return features_of(panel.prices, panel.mask, kind, window, device)


def features_of(
    prices: Floats,
    mask: Bools,
    kind: Literal["returns", "price_path"],
    window: int,
    device: torch.device | str = "cpu",
) -> Features:
    """Like :func:`make_features`, from prices and membership of shape (n_bars, n_assets)."""
    raw = _log_series(prices, kind)
    finite = np.isfinite(raw)
    series64 = torch.from_numpy(np.where(finite, raw, 0.0)).contiguous()
    valid = rolling_all(torch.from_numpy(finite), window) & torch.from_numpy(mask.copy())
    mean64 = torch.zeros_like(series64)
    scale64 = torch.ones_like(series64)
    if len(prices) >= window:
        equal = torch.full((window,), 1.0 / window, dtype=torch.float64)
        mean64[window - 1 :], scale64[window - 1 :] = moments(series64, equal)
    valid &= scale64 > 1e-7  # a price that does not move at all has no shape
    scale64 = torch.where(valid, scale64, 1.0)
    mean64 = torch.where(valid, mean64, 0.0)
    centred = series64 if kind == "returns" else series64 - mean64
    newest = torch.where(valid, centred / scale64, 0.0)
    single = {"dtype": torch.float32, "device": device}
    return Features(
        kind,
        window,
        series64.to(**single),  # type: ignore[call-overload]
        valid.to(device),
        mean64.to(**single),  # type: ignore[call-overload]
        scale64.to(**single),  # type: ignore[call-overload]
        newest.to(**single),  # type: ignore[call-overload]
    )
