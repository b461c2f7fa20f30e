"""What a fixed rule earns on a planted market when it is told the true labels.

The yardstick for models that have to find the labels themselves. The rule is deliberately the
plainest of its kind: residual of the cumulative return against the leave-one-out mean of the
true cluster, s-score over a rolling window (Avellaneda & Lee 2010), entry and exit bands or a
smooth response, gross exposure 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dpa.errors import ConfigError
from dpa.market.panel import Floats, Panel
from dpa.simulation.planted import Labels, Planted

SIGNAL_WINDOWS = (60, 90, 120)
BANDS: tuple[tuple[float, float] | None, ...] = (None, (0.75, 0.25), (1.0, 0.5), (1.25, 0.5))


@dataclass(frozen=True)
class Oracle:
    """The best fixed rule of a small search, and what it earned.

    Parameters
    ----------
    net_sharpe : float
        Annual net Sharpe ratio over the bars asked for.
    signal_window : int
        Bars of the s-score.
    band : tuple of float, or None
        Entry and exit threshold in s; None: weight ``-tanh(s / 2)``.
    """

    net_sharpe: float
    signal_window: int
    band: tuple[float, float] | None


def residual_returns(panel: Panel, labels: Labels) -> Floats:
    """Return of each name minus the mean of its true cluster without it.

    Parameters
    ----------
    panel : Panel
    labels : int64 ndarray of shape (n_bars, n_assets)
        True cluster, -1 where not listed.

    Returns
    -------
    float64 ndarray of shape (n_bars, n_assets)
        Simple return per bar; NaN where the name has no return or no peer has one.
    """
    returns = panel.returns()
    known = np.isfinite(returns)
    filled = np.where(known, returns, 0.0)
    out = np.full(returns.shape, np.nan)
    for cluster in range(int(labels.max()) + 1):
        member = known & (labels == cluster)
        total = (filled * member).sum(axis=1, keepdims=True)
        peers = member.sum(axis=1, keepdims=True) - 1
        mean = (total - filled) / np.maximum(peers, 1)
        out = np.where(member & (peers > 0), returns - mean, out)
    return out


def s_scores(panel: Panel, labels: Labels, signal_window: int) -> Floats:
    """Standardised residual level: ``(x - mean) / sd`` of the last `signal_window` bars.

    ``x`` is the running sum of :func:`residual_returns`. Shape (n_bars, n_assets); NaN until a
    name has a full window and after it stops trading. Past only.
    """
    residual = residual_returns(panel, labels)
    known = np.isfinite(residual)
    level = np.cumsum(np.where(known, residual, 0.0), axis=0)
    out = np.full(level.shape, np.nan)
    if len(level) < signal_window:
        return out
    levels = sliding_window_view(level, signal_window, axis=0)
    full = sliding_window_view(known, signal_window, axis=0).all(axis=-1)
    spread = levels.std(axis=-1, ddof=1)
    usable = full & (spread > 0)
    score = (level[signal_window - 1 :] - levels.mean(axis=-1)) / np.where(usable, spread, 1.0)
    out[signal_window - 1 :] = np.where(usable, score, np.nan)
    return out


def _banded(scores: Floats, entry: float, exit_: float) -> Floats:
    """Positions in {-1, 0, 1}: opened against the score beyond entry, closed inside exit."""
    position = np.zeros(scores.shape[1])
    out = np.zeros_like(scores)
    for bar, score in enumerate(scores):
        distance = np.abs(score)
        crossed = np.sign(score) * position > 0
        held = np.where((distance < exit_) | crossed | np.isnan(score), 0.0, position)
        position = np.where(distance > entry, -np.sign(score), held)
        out[bar] = position
    return out


def true_label_weights(
    planted: Planted, signal_window: int, band: tuple[float, float] | None = None
) -> Floats:
    """Target weights of the fixed rule that knows the true labels.

    Parameters
    ----------
    planted : Planted
    signal_window : int
        Bars of the s-score, >= 2.
    band : tuple of float, optional
        Entry and exit threshold in s, ``0 <= exit < entry``. None: ``-tanh(s / 2)``.

    Returns
    -------
    float64 ndarray of shape (n_bars, n_assets)
        Decided at each bar's close from that bar and earlier ones (the labels apart); gross
        exposure 1, or 0 where there is no signal; 0 outside the mask.
    """
    if signal_window < 2:
        raise ConfigError(f"signal_window {signal_window}", "use at least 2 bars")
    if band is not None and not 0 <= band[1] < band[0]:
        raise ConfigError(f"band {band}", "give entry and exit with 0 <= exit < entry")
    scores = s_scores(planted.panel, planted.labels, signal_window)
    raw = -np.tanh(0.5 * np.nan_to_num(scores)) if band is None else _banded(scores, *band)
    raw = np.where(planted.panel.mask, raw, 0.0)
    gross = np.abs(raw).sum(axis=1, keepdims=True)
    weights: Floats = np.divide(raw, gross, out=np.zeros_like(raw), where=gross > 0)
    return weights


def net_returns(panel: Panel, weights: Floats, cost_bps: float = 10.0) -> Floats:
    """Net simple return per bar of target weights, shape (n_bars,).

    Weights decided at bar t earn the return of bar t + 1; the move from the drifted weights to
    the new targets pays `cost_bps` per unit of traded value, at the bar it is decided. A name
    without a return earns 0.
    """
    returns = np.nan_to_num(panel.returns())
    held = np.vstack([np.zeros(weights.shape[1]), weights[:-1]])
    gross = (held * returns).sum(axis=1)
    drifted = held * (1.0 + returns) / (1.0 + gross[:, None])
    traded = np.abs(weights - drifted).sum(axis=1)
    net: Floats = gross - traded * cost_bps * 1e-4
    return net


def tuned_oracle(
    planted: Planted,
    periods_per_year: float,
    bars: slice = slice(252, None),
    cost_bps: float = 10.0,
    signal_windows: Iterable[int] = SIGNAL_WINDOWS,
    bands: Iterable[tuple[float, float] | None] = BANDS,
) -> Oracle:
    """Best fixed rule with the true labels, by net Sharpe over `bars`, in hindsight.

    Parameters
    ----------
    planted : Planted
    periods_per_year : float
        Bars per year, from the calendar.
    bars : slice
        Bars over which the Sharpe ratio is taken; the folds' test bars for a fair comparison.
    cost_bps : float
        Cost of a trade, bps of traded value a side.
    signal_windows, bands : iterables
        The search; see :func:`true_label_weights`.
    """
    best = Oracle(-np.inf, 0, None)
    for signal_window, band in product(tuple(signal_windows), tuple(bands)):
        weights = true_label_weights(planted, signal_window, band)
        net = net_returns(planted.panel, weights, cost_bps)[bars]
        spread = net.std(ddof=1)
        sharpe = net.mean() / spread * np.sqrt(periods_per_year) if spread > 0 else 0.0
        if sharpe > best.net_sharpe:
            best = Oracle(float(sharpe), signal_window, band)
    return best
