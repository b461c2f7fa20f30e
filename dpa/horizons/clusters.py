"""The cluster model as a source of series: residual, consensus, s-score, gate and activity.

One bar is read at a time, by the same arithmetic on arrays of the same shape whether history is
read or a live bar arrives, and on one thread, so both give the same bits everywhere. The tracker
begins anew at every session's open (on daily bars: every month), so that what is read depends on a
bounded tail and on nothing before it; within the session it follows its clusters as in training.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpa.cluster.consensus import leave_one_out_consensus
from dpa.cluster.features import Features, features_of
from dpa.cluster.model import ClusterModel, Inputs
from dpa.cluster.signal import band_pass, s_score
from dpa.cluster.tracker import ClusterTracker
from dpa.horizons.clock import SessionClock
from dpa.horizons.threads import one_thread
from dpa.market.interval_specs import IntervalSpec
from dpa.market.panel import Panel

Doubles = NDArray[np.float64]
CLUSTER_SERIES = (
    "cluster_newest",
    "cluster_consensus",
    "cluster_residual",
    "cluster_gate_now",
    "cluster_s",
    "cluster_activity",
)
_SESSIONS_A_MONTH = 23


class ClusterReader:
    """Leads a trained cluster model through bars.

    Parameters
    ----------
    model : ClusterModel
        As promoted by the grid; on the CPU. Its tracker's own state is not used.

    Notes
    -----
    Series, by name, NaN where the name has no whole window (or, for the last two, no whole
    residual history):

    ``cluster_newest``
        Newest return of the name in units of its own standard deviation over the window (or, for
        ``price_path``, its newest standardised log price).
    ``cluster_consensus``
        Leave-one-out mean of the same over the members of its clusters.
    ``cluster_residual``
        The first less the second.
    ``cluster_gate_now``
        Outlier gate, in [0, 1].
    ``cluster_s``
        s-score of the residual (Avellaneda & Lee 2010).
    ``cluster_activity``
        Band-pass times gate, in [0, 1]: how active the model itself would be, age left out.
    """

    def __init__(self, model: ClusterModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self._columns = -1
        self._reset(0)

    def reach(self, spec: IntervalSpec) -> int:
        """Bars before the current one that its values depend on."""
        config = self.model.config
        period = _SESSIONS_A_MONTH if spec.interval.is_daily else spec.bars_per_session
        return period + config.window + config.residual_bars

    def _reset(self, n_assets: int) -> None:
        config = self.model.config
        self._columns = n_assets
        self._prices = np.full((config.window + 1, n_assets), np.nan)
        self._mask = np.zeros((config.window + 1, n_assets), bool)
        self._bars = 0
        self._in_step = False  # whether the tracker has begun at an open
        self._residual = torch.zeros(config.residual_bars, n_assets)
        self._usable = torch.zeros(config.residual_bars, n_assets, dtype=torch.bool)
        self._tracker = ClusterTracker(config.n_clusters, self.model.seed, config.reseed_bars)

    def read(self, panel: Panel, clock: SessionClock) -> dict[str, Doubles]:
        """All series over a panel, from its first bar on, each (n_bars, n_assets)."""
        self._reset(panel.n_assets)
        out = {name: np.full(panel.prices.shape, np.nan) for name in CLUSTER_SERIES}
        first = self._starts(panel.interval, clock)
        with one_thread():
            for bar in range(panel.n_bars):
                row = self._step(panel.prices[bar], panel.mask[bar], bool(first[bar]))
                for name, values in row.items():
                    out[name][bar] = values
        return out

    def step(self, bar: Panel, clock: SessionClock) -> dict[str, Doubles]:
        """All series at the next bar, each (1, n_assets); goes on from :meth:`read`."""
        first = self._starts(bar.interval, clock)
        with one_thread():
            row = self._step(bar.prices[0], bar.mask[0], bool(first[0]))
        missing = np.full(bar.n_assets, np.nan)
        return {name: np.asarray(row.get(name, missing))[None] for name in CLUSTER_SERIES}

    def _starts(self, interval: str, clock: SessionClock) -> NDArray[np.bool_]:
        """Whether each bar is the first of its period."""
        if interval == "1d":
            month = clock.grid.month[clock.session]
            before = clock.grid.month[np.maximum(clock.session - 1, 0)]
            return np.asarray(month != before)
        return np.asarray(clock.place == 0)

    def _step(self, prices: Doubles, mask: NDArray[np.bool_], first: bool) -> Mapping[str, Doubles]:
        self._prices = np.concatenate([self._prices[1:], prices[None]])
        self._mask = np.concatenate([self._mask[1:], mask[None]])
        self._bars += 1
        if first:
            self._in_step = True
            self._tracker.last, self._tracker.bars_seen = None, 0
        if self._bars <= self.model.config.window or not self._in_step:
            self._remember(None, None)
            return {}
        return self._values(self._features())

    def _features(self) -> Features:
        """Features of exactly one window, the newest."""
        config = self.model.config
        f = features_of(self._prices, self._mask, config.features, config.window)
        return Features(
            f.kind,
            f.window,
            f.series[1:],
            f.valid[1:],
            f.mean[1:],
            f.scale[1:],
            f.newest[1:],
        )

    def _remember(self, residual: Tensor | None, usable: Tensor | None) -> None:
        empty = torch.zeros(self._columns)
        row = empty if residual is None else residual
        known = empty.bool() if usable is None else usable
        self._residual = torch.cat([self._residual[1:], row[None]])
        self._usable = torch.cat([self._usable[1:], known[None]])

    def _values(self, features: Features) -> dict[str, Doubles]:
        model, config = self.model, self.model.config
        labels = None
        if config.centroids == "comovement":
            fresh = self._tracker.extend(features, features.first_bar)
            labels = torch.from_numpy(fresh.astype(np.int64))
        inputs = Inputs(features, labels, config.n_clusters)
        product, inverse_scale = model.similarity(inputs)
        valid, newest = features.valid[-1:], features.newest[-1:]
        consensus, gate, _ = leave_one_out_consensus(
            product, inverse_scale, valid.to(newest.dtype), newest, model.gating
        )
        residual = torch.where(valid, newest - consensus, 0.0)
        self._remember(residual[0], valid[0])
        score, ready = s_score(
            self._residual, self._usable, config.residual_bars, features.kind == "returns"
        )
        inside = band_pass(score, model.entry, model.stop, config.band_sharpness, model.hard)
        known, scored = valid[0], ready[0]
        return {
            "cluster_newest": _double(newest[0], known),
            "cluster_consensus": _double(consensus[0], known),
            "cluster_residual": _double(residual[0], known),
            "cluster_gate_now": _double(gate[0], known),
            "cluster_s": _double(score[0], scored),
            "cluster_activity": _double((inside * gate)[0], scored),
        }


def _double(values: Tensor, known: Tensor) -> Doubles:
    """A float64 row, NaN where not known."""
    row: Doubles = values.detach().double().numpy()
    return np.where(known.numpy(), row, np.nan)
