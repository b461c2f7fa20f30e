"""Stages 4 and 5: residual, s-score, band-pass and age gate.

Axes are (n_bars, n_assets). Every value at a bar comes from that bar and earlier ones.
"""

import torch
from torch import Tensor

from dpa.cluster.elementwise import sigmoid
from dpa.cluster.windows import rolling_all, rolling_score

OPEN_SHARPNESS = 20.0  # slope at which a half active position counts as open, per unit of activity


def s_score(
    residual: Tensor, usable: Tensor, window: int, cumulative: bool
) -> tuple[Tensor, Tensor]:
    """How far a name is from its consensus, in standard deviations of its own history.

    The residual *level* is ``residual`` itself for price paths and its running sum for returns
    (the auxiliary process of Avellaneda & Lee 2010); the score standardises its newest value
    among the last `window` ones.

    Parameters
    ----------
    residual : Tensor (n_bars, n_assets)
        Newest value minus consensus; 0 where not usable.
    usable : bool Tensor (n_bars, n_assets)
        Where there is a residual.
    window : int
        Bars of residual history.
    cumulative : bool
        Whether `residual` is an increment (returns) rather than a level (price paths).

    Returns
    -------
    score : Tensor (n_rows, n_assets)
        Of bars ``window - 1`` and later, the first with a whole history; 0 where not ready.
    ready : bool Tensor (n_rows, n_assets)
        All `window` residuals exist.
    """
    level = torch.cumsum(residual, 0) if cumulative else residual
    ready = rolling_all(usable, window)[window - 1 :]
    return rolling_score(level, window) * ready, ready


def band_pass(score: Tensor, entry: Tensor, stop: Tensor, sharpness: float, hard: bool) -> Tensor:
    """1 where ``entry < |score| < stop``, 0 elsewhere, with soft edges unless `hard`."""
    size = score.abs()
    if hard:
        return ((size > entry) & (size < stop)).to(score.dtype)
    return sigmoid(sharpness * (size - entry)) * sigmoid(sharpness * (stop - size))


def linear_scan(keep: Tensor, add: Tensor) -> Tensor:
    """``h[t] = keep[t] * h[t-1] + add[t]`` with ``h[-1] = 0``, along the first axis.

    A doubling scan (Hillis & Steele 1986): log2(n_bars) passes, differentiable, and the value at a
    bar is formed in the same order however many bars follow.

    Parameters
    ----------
    keep, add : Tensors of shape (n_bars, ...)

    Returns
    -------
    Tensor of shape (n_bars, ...)
    """
    total: Tensor = _LinearScan.apply(keep, add)  # type: ignore[no-untyped-call]
    return total


def _scan(keep: Tensor, add: Tensor) -> Tensor:
    step, n_bars = 1, add.shape[0]
    add, keep = add.clone(), keep.clone()
    while step < n_bars:
        ahead = torch.addcmul(add[step:], keep[step:], add[:-step])
        further = keep[step:] * keep[:-step]
        add[step:], keep[step:] = ahead, further
        step *= 2
    return add


class _LinearScan(torch.autograd.Function):
    """The gradient of a linear recurrence is the same recurrence run backwards."""

    @staticmethod
    def forward(ctx, keep, add):  # type: ignore[no-untyped-def]
        total = _scan(keep, add)
        ctx.save_for_backward(keep, total)
        return total

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        keep, total = ctx.saved_tensors
        later_keep = torch.cat([keep[1:], torch.zeros_like(keep[:1])])
        d_total = _scan(later_keep.flip(0), grad.flip(0)).flip(0)
        before = torch.cat([torch.zeros_like(total[:1]), total[:-1]])
        return d_total * before, d_total


def age_gate(
    active: Tensor, score: Tensor, max_age: int | None, sharpness: float, hard: bool
) -> tuple[Tensor, Tensor]:
    """How old each position is, and whether it may still be held.

    A position counts as open, ``open = sigmoid(20 (active - 1/2))``, and
    ``age[t] = keep[t] * age[t-1] + open[t]`` where it is kept while it is open on the same side:
    ``keep = open * (1 + side[t] side[t-1]) / 2`` with ``side = tanh(4 score)``. The mask
    ``sigmoid(sharpness * (max_age + 1/2 - age))`` is open for exactly `max_age` bars. An expired
    position keeps ageing while its signal lasts, so it re-arms only after the signal was flat or
    has changed sides. Without the first sigmoid a position that is 95 % active would never grow
    older than 19 bars.

    Parameters
    ----------
    active : Tensor (n_bars, n_assets)
        Band-pass times gates, in [0, 1], before the age mask.
    score : Tensor (n_bars, n_assets)
        s-score; its sign is the side.
    max_age : int, optional
        Bars a position may live; none: the mask is 1 everywhere.
    sharpness : float
        Slope per bar.
    hard : bool

    Returns
    -------
    age : Tensor (n_bars, n_assets)
        Bars; 0 when flat.
    mask : Tensor (n_bars, n_assets)
        In [0, 1].
    """
    if max_age is None:
        return torch.zeros_like(active), torch.ones_like(active)
    held = active if hard else sigmoid(OPEN_SHARPNESS * (active - 0.5))
    side = torch.sign(score) if hard else torch.tanh(4.0 * score)
    before = torch.cat([side[:1], side[:-1]])
    same_side = (0.5 * (1.0 + side * before)).clamp(0.0, 1.0)
    age = linear_scan(held * same_side, held)
    if hard:
        return age, (age <= max_age + 0.5).to(active.dtype)
    return age, sigmoid(sharpness * (max_age + 0.5 - age))
