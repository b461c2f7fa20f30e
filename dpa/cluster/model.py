"""The differentiable cluster model: from a stretch of history to target weights, end to end."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dpa.cluster.assignment import Comovement, Shapes, tracked_membership
from dpa.cluster.consensus import Gating, leave_one_out_consensus, membership
from dpa.cluster.features import Features, make_features
from dpa.cluster.signal import age_gate, band_pass, s_score
from dpa.cluster.sizing import project
from dpa.cluster.tracker import ABSENT, ClusterTracker, Labels, best_of_restarts
from dpa.config import ClusterConfig
from dpa.errors import ConfigError
from dpa.market.panel import Panel


@dataclass(frozen=True)
class Inputs:
    """What the model reads of a stretch of history; nothing in it depends on the parameters.

    Attributes
    ----------
    features : Features
        Of n_bars bars.
    labels : int64 Tensor (n_rows, n_assets), optional
        Tracked clusters of bars ``first_bar`` and later (comovement only).
    n_clusters : int
        Number of clusters.
    """

    features: Features
    labels: Tensor | None
    n_clusters: int

    @cached_property
    def tracked(self) -> Tensor | None:
        """One-hot membership (n_rows, n_clusters, n_assets) of the tracked clusters."""
        if self.labels is None:
            return None
        return tracked_membership(self.labels, self.n_clusters, self.features.series.dtype)

    def until(self, n_bars: int) -> "Inputs":
        """The first `n_bars` bars."""
        f = self.features
        cut = Features(
            f.kind,
            f.window,
            f.series[:n_bars],
            f.valid[:n_bars],
            f.mean[:n_bars],
            f.scale[:n_bars],
            f.newest[:n_bars],
        )
        rows = max(0, n_bars - f.first_bar)
        return Inputs(cut, None if self.labels is None else self.labels[:rows], self.n_clusters)


@dataclass(frozen=True)
class ModelOutput:
    """Every stage's result, axes (n_bars, n_assets) unless said otherwise; 0 before warm-up.

    Attributes
    ----------
    weights : target weight decided at each bar's close, signed fraction of NAV
    wanted_gross : (n_bars,) gross exposure before the leverage projection, times NAV
    score : s-score of the residual
    ready : bool, whether there is a score
    active : band-pass times gate, before the age mask, in [0, 1]
    gate : outlier gate, in [0, 1]
    age : age of the position, bars
    product : (n_rows, n_clusters, n_assets), similarity less the name's own scale; rows are bars
        ``window - 1`` and later
    """

    weights: Tensor
    wanted_gross: Tensor
    score: Tensor
    ready: Tensor
    active: Tensor
    gate: Tensor
    age: Tensor
    product: Tensor

    def clusters(self, valid: Tensor) -> Labels:
        """Most likely cluster (n_bars, n_assets) int16; -1 where gated out (gate < 1/2)."""
        n_bars = self.gate.shape[0]
        out = np.full(self.gate.shape, ABSENT, np.int16)
        nearest = self.product.argmax(1).to(torch.int16)
        inside = (self.gate >= 0.5) & valid
        rows = nearest.shape[0]
        kept = torch.where(inside[n_bars - rows :], nearest, torch.full_like(nearest, ABSENT))
        out[n_bars - rows :] = kept.cpu().numpy()
        return out


def inverse_softplus(value: float) -> float:
    """The x with ``softplus(x) = value``, for ``value > 0``."""
    return value + math.log(-math.expm1(-value))


class ClusterModel(nn.Module):
    """Stages 1 to 6 of the method, with everything learnable declared in one place.

    Learnable: temperature, similarity threshold, entry and stop threshold, signal scale, and
    either the lag weights (``comovement``) or the K shapes themselves (``shape``). Positive ones
    go through softplus; the stop is the entry plus something positive.

    Parameters
    ----------
    config : ClusterConfig
        One point of the grid.
    seed : int
        Root of the tracker's and the seeding's random numbers.
    """

    def __init__(self, config: ClusterConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.sharpening = 1.0  # above 1 while annealing towards hard decisions
        self.hard = False
        scalar = {
            "raw_temperature": inverse_softplus(config.temperature),
            "similarity_threshold": config.similarity_threshold,
            "raw_entry": inverse_softplus(config.entry_threshold),
            "raw_band": inverse_softplus(config.stop_threshold - config.entry_threshold),
            "raw_scale": inverse_softplus(config.signal_scale),
        }
        for name, value in scalar.items():
            start = torch.tensor(value)
            self.register_parameter(name, nn.Parameter(start, config.learn_thresholds))
        self.raw_lags = nn.Parameter(
            torch.full((config.window,), inverse_softplus(1.0)),
            requires_grad=config.centroids == "comovement" and config.learn_lag_weights,
        )
        self.shapes = nn.Parameter(
            torch.zeros(config.n_clusters, config.window),
            requires_grad=config.centroids == "shape",
        )
        self.tracker = ClusterTracker(config.n_clusters, seed, config.reseed_bars)
        if not config.learn:
            self.requires_grad_(False)

    raw_temperature: Tensor
    similarity_threshold: Tensor
    raw_entry: Tensor
    raw_band: Tensor
    raw_scale: Tensor

    @property
    def temperature(self) -> Tensor:
        """Softmax temperature of the assignments, in units of cosine."""
        return softplus(self.raw_temperature) / self.sharpening

    @property
    def entry(self) -> Tensor:
        """|s| above which a position opens."""
        return softplus(self.raw_entry)

    @property
    def stop(self) -> Tensor:
        """|s| above which a position is given up; always above the entry."""
        return self.entry + softplus(self.raw_band)

    @property
    def scale(self) -> Tensor:
        """k of the direction ``-tanh(k s)``."""
        return softplus(self.raw_scale)

    @property
    def lag_weights(self) -> Tensor:
        """Weight of each lag of the window, (window,), newest last, summing to 1."""
        positive = softplus(self.raw_lags)
        return positive / positive.sum()

    def learned(self) -> dict[str, float]:
        """Current values of the scalar parameters, by the names of the settings."""
        return {
            "entry_threshold": float(self.entry.detach()),
            "stop_threshold": float(self.stop.detach()),
            "signal_scale": float(self.scale.detach()),
            "temperature": float(softplus(self.raw_temperature).detach()),
            "similarity_threshold": float(self.similarity_threshold.detach()),
        }

    def seed_shapes(self, features: Features, until_bar: int) -> None:
        """Start the shapes from spherical k-means on windows of the training stretch only.

        Parameters
        ----------
        features : Features
        until_bar : int
            First bar that must not be looked at.
        """
        generator = np.random.default_rng([self.seed, 1])
        features = features.to("cpu")
        bars = np.arange(features.first_bar, until_bar, max(1, features.window // 4))
        vectors = [features.unit_vectors(int(bar))[features.valid[int(bar)]] for bar in bars]
        pool = torch.cat(vectors) if vectors else features.series.new_zeros(0, features.window)
        if pool.shape[0] < self.config.n_clusters:
            raise ConfigError(
                f"model.n_clusters: {self.config.n_clusters} clusters but only {pool.shape[0]} "
                "whole windows in the first training window",
                "use fewer clusters, a shorter window or more names",
            )
        if pool.shape[0] > 4000:
            pool = pool[torch.from_numpy(generator.choice(pool.shape[0], 4000, replace=False))]
        _, centroids, _ = best_of_restarts(pool, self.config.n_clusters, generator, 4)
        with torch.no_grad():
            self.shapes.copy_(centroids)

    def prepare(self, panel: Panel, known: Labels | None = None) -> Inputs:
        """Inputs of a stretch of history.

        Parameters
        ----------
        panel : Panel
            Bars in order; the first `window - 1` can carry no feature.
        known : int16 ndarray (n_known, n_assets), optional
            Tracked labels already made for the first bars with a whole window; the tracker goes
            on from there. Without it the tracker starts at the first whole window.

        Returns
        -------
        Inputs
        """
        device = self.raw_entry.device
        features = make_features(panel, self.config.features, self.config.window, device)
        if self.config.centroids == "shape":
            return Inputs(features, None, self.config.n_clusters)
        first = features.first_bar
        if known is None:
            known = np.empty((0, panel.n_assets), np.int16)
        fresh = self.tracker.extend(features, first + len(known))
        labels = np.concatenate([known, fresh]).astype(np.int64)
        return Inputs(features, torch.from_numpy(labels).to(device), self.config.n_clusters)

    def similarity(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Cosine of each name with each cluster, as a product and its inverse scale.

        Returns
        -------
        product : Tensor (n_rows, n_clusters, n_assets)
        inverse_scale : Tensor (n_rows, n_assets)
            Cosine is ``product * inverse_scale``; 0 where the window is invalid.
        """
        features, config = inputs.features, self.config
        if inputs.tracked is None:
            shapes = Shapes(features)
            return shapes.product(self.shapes), shapes.inverse_scale
        space = Comovement(features, self.lag_weights if self._weighs_lags() else None)
        valid = features.valid[features.first_bar :].to(features.series.dtype)
        product = space.product(inputs.tracked)
        for _ in range(config.unroll_steps):
            members = membership(product, space.inverse_scale, valid, self.gating)
            product = space.product(members)
        return product, space.inverse_scale

    def _weighs_lags(self) -> bool:
        return self.raw_lags.requires_grad or bool((self.raw_lags != self.raw_lags[0]).any())

    @property
    def gating(self) -> Gating:
        """Parameters of the assignments and of the outlier gate."""
        sharpness = self.config.gate_sharpness * self.sharpening
        return Gating(self.temperature, self.similarity_threshold, sharpness, self.hard)

    def forward(self, inputs: Inputs) -> ModelOutput:
        """Weights and every stage before them; see :class:`ModelOutput`."""
        config, features = self.config, inputs.features
        first = features.first_bar
        valid, newest = features.valid[first:], features.newest[first:]
        product, inverse_scale = self.similarity(inputs)
        consensus, gate, company = leave_one_out_consensus(
            product, inverse_scale, valid.to(newest.dtype), newest, self.gating
        )
        residual = torch.where(valid, newest - consensus, 0.0)
        score, ready = s_score(
            residual, valid, config.residual_bars, cumulative=features.kind == "returns"
        )
        sharp = config.band_sharpness * self.sharpening
        inside = band_pass(score, self.entry, self.stop, sharp, self.hard)
        skipped = gate.shape[0] - score.shape[0]
        gate_now, company = gate[skipped:], company[skipped:]
        active = inside * gate_now * ready
        age, young = age_gate(
            active, score, config.max_age, config.age_sharpness * self.sharpening, self.hard
        )
        direction = -torch.tanh(self.scale * score)
        raw = config.position_unit * direction * active * young * company
        weights, wanted_gross = project(
            raw, config.name_cap, config.max_leverage, config.dollar_neutral
        )
        silent = features.n_bars - score.shape[0]  # bars before the first score

        def whole(rows: Tensor, leading: int) -> Tensor:
            return torch.cat([rows.new_zeros(leading, *rows.shape[1:]), rows])

        return ModelOutput(
            weights=whole(weights, silent),
            wanted_gross=whole(wanted_gross, silent),
            score=whole(score, silent),
            ready=whole(ready, silent),
            active=whole(active, silent),
            gate=whole(gate, first),
            age=whole(age, silent),
            product=product.detach(),
        )
