"""A neural encoder that all horizons share, with a linear head for each of them and the barriers.

Several horizons learned together by one encoder regularise each other (Caruana 1997). Because the
encoder is shared it sees every feature: which horizons a feature serves has no influence here.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dpa.config import FamiliesConfig
from dpa.errors import DataError
from dpa.horizons.families._rows import (
    Scaling,
    check_learnable,
    check_width,
    chunks,
    not_fitted,
    shares,
)
from dpa.horizons.families._storage import fingerprint, pack, read_model, write_model
from dpa.horizons.families.protocol import FitLog, register_family
from dpa.horizons.threads import one_thread
from dpa.horizons.types import BARRIERS, Doubles, Forecast, Rows, RowSchema, Singles

FILE = "encoder.safetensors"
LOG_VARIANCE_BOUND = 5.0  # learned log variances stay within +- this
IMPORTANCE_ROWS = 20_000  # rows the importance is averaged over, evenly spaced
TINY = 1e-12  # a label that varies less is taken as it is
_NETWORK_SETTINGS = ("encoder_width", "encoder_layers", "encoder_norm")


class _Network(nn.Module):
    """Standardised features, NaN where missing -> one output per horizon and barrier (logits).

    Parameters
    ----------
    gaps : bool ndarray of shape (n_features,)
        Features that get an indicator of being missing.
    n_outputs : int
    settings : FamiliesConfig
        Width, layers, normalisation and dropout.
    """

    gaps: Tensor

    def __init__(self, gaps: NDArray[np.bool_], n_outputs: int, settings: FamiliesConfig) -> None:
        super().__init__()
        self.register_buffer("gaps", torch.from_numpy(np.flatnonzero(gaps)))
        layers: list[nn.Module] = []
        size = len(gaps) + int(gaps.sum())
        for _ in range(settings.encoder_layers):
            layers.append(nn.Linear(size, settings.encoder_width))
            if settings.encoder_norm:
                layers.append(nn.LayerNorm(settings.encoder_width))
            layers += [nn.GELU(), nn.Dropout(settings.encoder_dropout)]
            size = settings.encoder_width
        self.encoder = nn.Sequential(*layers)
        self.heads = nn.Linear(size, n_outputs)

    def forward(self, scaled: Tensor) -> Tensor:
        """Outputs of shape (n_rows, n_outputs) for features of shape (n_rows, n_features)."""
        missing = torch.isnan(scaled)
        return self.outputs(torch.nan_to_num(scaled), missing)

    def outputs(self, filled: Tensor, missing: Tensor) -> Tensor:
        """The same from features with gaps filled, and where they were missing."""
        indicators = missing[:, self.gaps].to(filled.dtype)
        outputs: Tensor = self.heads(self.encoder(torch.cat([filled, indicators], dim=1)))
        return outputs


class _Losses(nn.Module):
    """Loss of each head over the rows that have its label, and how the heads are weighted.

    ``equal`` and ``decay`` weight each head's loss relative to that of the best constant forecast
    (`reference`); the weight falls by 2^(-loss_decay |log2(h / h_primary)|), barriers weigh as
    much as the primary horizon. ``uncertainty`` learns a log variance s of each head (Kendall,
    Gal & Cipolla 2018): exp(-s) L / 2 + s / 2 for a squared error, exp(-s) L + s / 2 for a log
    loss, s within +-:data:`LOG_VARIANCE_BOUND`, starting where it is optimal for `reference`.

    Parameters
    ----------
    schema : RowSchema
    settings : FamiliesConfig
    reference : float64 ndarray of shape (n_outputs,)
        Loss of the best constant; NaN for a head that cannot be learned.
    """

    weights: Tensor
    reference: Tensor
    factors: Tensor

    def __init__(self, schema: RowSchema, settings: FamiliesConfig, reference: Doubles) -> None:
        super().__init__()
        self.n_horizons = len(schema.horizons)
        self.kind = settings.loss_weights
        learned = ~np.isnan(reference)
        weights = np.where(learned, _prior_weights(schema, settings), 0.0)
        factors = np.r_[np.full(self.n_horizons, 0.5), np.ones(len(BARRIERS))]
        safe = np.where(learned & (np.nan_to_num(reference) > TINY), reference, 1.0)
        start = np.log(2 * factors * safe).clip(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        self.register_buffer("weights", torch.tensor(weights / weights.sum()).float())
        self.register_buffer("reference", torch.tensor(safe).float())
        self.register_buffer("factors", torch.tensor(factors).float())
        self.log_variances = nn.Parameter(torch.tensor(start).float())

    def heads(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of each head's losses and number of its labels, both of shape (n_outputs,)."""
        known = ~torch.isnan(labels)
        target = torch.nan_to_num(labels)
        n = self.n_horizons
        squares = (outputs[:, :n] - target[:, :n]) ** 2
        log_losses = functional.binary_cross_entropy_with_logits(
            outputs[:, n:], target[:, n:], reduction="none"
        )
        return (torch.cat([squares, log_losses], dim=1) * known).sum(dim=0), known.sum(dim=0)

    def forward(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss to descend, and :meth:`heads`."""
        total, count = self.heads(outputs, labels)
        loss = total / count.clamp(min=1)
        there = (count > 0) & (self.weights > 0)
        if self.kind == "uncertainty":
            s = self.log_variances
            terms = self.factors * torch.exp(-s) * loss + s / 2
            return (terms * there).sum(), total, count
        return (self.weights * loss / self.reference * there).sum(), total, count

    @torch.no_grad()
    def bound(self) -> None:
        """Keep the learned log variances within their bounds."""
        self.log_variances.clamp_(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)

    def score(self, losses: Doubles) -> float:
        """Weighted mean of known losses of shape (n_outputs,), relative to the best constant."""
        weights = self.weights.double().cpu().numpy() * ~np.isnan(losses)
        relative = np.nan_to_num(losses) / self.reference.double().cpu().numpy()
        return float((weights * relative).sum() / weights.sum()) if weights.sum() else math.nan


def _prior_weights(schema: RowSchema, settings: FamiliesConfig) -> Doubles:
    """Weights before learning, of shape (n_horizons + 2,): equal, or falling from the primary."""
    minutes = np.array([horizon.minutes for horizon in schema.horizons], dtype=float)
    doublings = np.abs(np.log2(minutes / minutes[schema.primary]))
    fall = settings.loss_decay if settings.loss_weights == "decay" else 0.0
    weights: Doubles = np.r_[2.0 ** (-fall * doublings), np.ones(len(BARRIERS))]
    return weights


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What decides a forecast, and the network in float64 made of it."""

    scaling: Scaling
    gaps: NDArray[np.bool_]
    learned: NDArray[np.bool_]
    network: _Network

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        weights = {
            f"network.{name}": value.numpy().astype(np.float32)
            for name, value in self.network.state_dict().items()
            if name != "gaps"
        }
        parts = {"centre": self.scaling.centre, "scale": self.scaling.scale}
        return {**parts, "gaps": self.gaps, "learned": self.learned, **weights}


@register_family
class EncoderFamily:
    """Shared multilayer perceptron, one linear head a horizon, two logit heads for the barriers.

    Inputs are the standardised features, missing ones at their mean, and an indicator for each
    feature that has gaps in the training rows. Trained by AdamW (Loshchilov & Hutter 2019) on
    the loss that ``loss_weights`` names; stopped, and set back to its best epoch, by the weighted
    mean of the heads' holdout losses, each relative to that of the best constant; without a
    holdout all epochs are run. Forecasts are made in float64 on the CPU: a row alone and in a
    batch agree to about 1e-14. A fit on the CPU uses one thread and repeats to the bit; a GPU
    does not promise that. A barrier whose training rows show one class only is not forecast.

    Parameters
    ----------
    schema : RowSchema
    settings : FamiliesConfig
    device : str, optional
        Where to train; none: a GPU where there is one, else the CPU.
    """

    name: ClassVar[str] = "encoder"
    splits_by_target: ClassVar[bool] = False
    has_barriers: ClassVar[bool] = True

    def __init__(
        self, schema: RowSchema, settings: FamiliesConfig, device: str | None = None
    ) -> None:
        self._schema = schema
        self._settings = settings
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._fitted: _Fitted | None = None
        self._importance = np.zeros(len(schema.features))

    def fit(
        self, train: Rows, validation: Rows, seed: int, targets: tuple[str, ...] | None = None
    ) -> FitLog:
        """Train all heads together; `targets` has no influence."""
        horizons = list(range(len(self._schema.horizons)))
        check_learnable(self.name, train, self._schema, horizons)
        check_width(validation.features, self._schema)
        scaling = Scaling.of(train.features)
        missing_rate = np.isnan(train.features).mean(axis=0)
        gaps = (missing_rate > 0) & (missing_rate < 1)
        constants, reference = _best_constants(train)
        with _repeatable(seed, self._device):
            network = _Network(gaps, len(reference), self._settings)
            with torch.no_grad():
                network.heads.weight.zero_()  # training starts from the best constant forecast
                network.heads.bias.copy_(torch.from_numpy(np.nan_to_num(constants)))
            losses = _Losses(self._schema, self._settings, reference)
            network, log = self._train(
                network.to(self._device),
                losses.to(self._device),
                _on_device(train, scaling, self._device),
                _on_device(validation, scaling, self._device),
                torch.Generator().manual_seed(seed),
            )
            fitted = _Fitted(scaling, gaps, ~np.isnan(reference), _for_forecasts(network))
            sample = validation if len(validation) else train
            self._importance = self._gradient_times_input(fitted, sample.features)
        self._fitted = fitted
        return log

    def predict(self, features: Singles) -> Forecast:
        """Forecast; each row's own to about 1e-14, whatever rows come with it."""
        check_width(features, self._schema)
        if self._fitted is None:
            raise not_fitted(self.name)
        n_horizons = len(self._schema.horizons)
        forecast = np.empty((len(features), n_horizons + len(BARRIERS)))
        with torch.inference_mode(), one_thread():
            for part in chunks(len(features)):
                scaled = torch.from_numpy(self._fitted.scaling.standardise(features[part]))
                outputs = self._fitted.network(scaled)
                outputs[:, n_horizons:] = torch.sigmoid(outputs[:, n_horizons:])
                forecast[part] = outputs.numpy()
        forecast[:, ~self._fitted.learned] = np.nan
        return Forecast(forecast[:, :n_horizons], forecast[:, n_horizons:])

    def save(self, folder: Path) -> None:
        """Write ``encoder.safetensors`` and ``encoder.json``."""
        if self._fitted is None:
            raise not_fitted(self.name)
        arrays = {**self._fitted.arrays(), "importance": self._importance}
        shape = {key: getattr(self._settings, key) for key in _NETWORK_SETTINGS}
        facts = {"network": shape}
        write_model(folder, self.name, self.name, self._schema, {FILE: pack(arrays)}, facts)

    @classmethod
    def load(cls, folder: Path, schema: RowSchema, settings: FamiliesConfig) -> Self:
        """Read what :meth:`save` wrote; RunError when it is damaged or of other columns.

        The network has the layers it was saved with, whatever `settings` say.
        """
        stored = read_model(folder, cls.name, cls.name, schema, (FILE,))
        trained = settings.model_copy(update=stored.facts["network"])
        family = cls(schema, trained)
        n_outputs = len(schema.horizons) + len(BARRIERS)
        size = (len(schema.features),)
        plain = {"centre": size, "scale": size, "importance": size, "gaps": size}
        gaps = stored.arrays(FILE)["gaps"]
        network = _Network(gaps, n_outputs, trained).double().eval()
        shapes = {f"network.{key}": tuple(value.shape) for key, value in network.named_parameters()}
        arrays = stored.arrays(FILE, {**plain, "learned": (n_outputs,), **shapes})
        for key, value in network.named_parameters():
            value.data.copy_(torch.from_numpy(arrays[f"network.{key}"]))
        scaling = Scaling(arrays["centre"], arrays["scale"])
        family._fitted = _Fitted(scaling, gaps, arrays["learned"], network)
        family._importance = arrays["importance"]
        return family

    def fingerprint(self) -> str:
        """Hash of scaling, layers and weights."""
        if self._fitted is None:
            raise not_fitted(self.name)
        return fingerprint(self.name, self._schema, self._fitted.arrays())

    def importance(self) -> dict[str, float]:
        """Mean |gradient times input| on the holdout, as a share, averaged over horizons."""
        return dict(zip(self._schema.features, self._importance.tolist(), strict=True))

    def _train(
        self,
        network: _Network,
        losses: _Losses,
        train: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor],
        order: torch.Generator,
    ) -> tuple[_Network, FitLog]:
        """Epochs until the holdout stops getting better; the network of the best one."""
        settings = self._settings
        groups: list[dict[str, Any]] = [
            {"params": network.parameters()},
            {"params": losses.parameters(), "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(
            groups,
            lr=settings.encoder_rate,
            weight_decay=settings.encoder_decay,
        )
        curves: dict[str, list[float]] = {}
        best, best_score, best_epoch = network, math.inf, 0
        for epoch in range(1, settings.encoder_epochs + 1):
            learned = _pass(network, losses, optimiser, train, settings.encoder_batch, order)
            self._record(curves, "training", losses, learned)
            score = self._record(curves, "validation", losses, _judge(network, losses, validation))
            if math.isnan(score):  # no holdout: the last epoch is the best
                best_epoch = epoch
            elif score < best_score:
                best, best_score, best_epoch = copy.deepcopy(network), score, epoch
            elif epoch - best_epoch >= settings.encoder_patience:
                break
        notes = {"best epoch": float(best_epoch), "epochs": float(epoch)}
        return best, FitLog({name: tuple(values) for name, values in curves.items()}, notes)

    def _record(
        self, curves: dict[str, list[float]], rows: str, losses: _Losses, values: Doubles
    ) -> float:
        """Append an epoch's score and the loss of each head to the curves; the score."""
        score = losses.score(values)
        if math.isnan(score):
            return score
        curves.setdefault(f"{rows} loss", []).append(score)
        heads = (*self._schema.labels, *BARRIERS)
        for head, value in zip(heads, values.tolist(), strict=True):
            if not math.isnan(value):
                curves.setdefault(f"{rows} loss, {head}", []).append(value)
        return score

    def _gradient_times_input(self, fitted: _Fitted, features: Singles) -> Doubles:
        """Mean |x_i d output / d x_i| of shape (n_features,), horizons counting alike."""
        chosen = np.unique(np.linspace(0, len(features) - 1, IMPORTANCE_ROWS).astype(int))
        scaled = torch.from_numpy(fitted.scaling.standardise(features[chosen]))
        inputs = torch.nan_to_num(scaled).requires_grad_()
        outputs = fitted.network.outputs(inputs, torch.isnan(scaled))
        strength = np.zeros(len(self._schema.features))
        for horizon in range(len(self._schema.horizons)):
            (gradient,) = torch.autograd.grad(outputs[:, horizon].sum(), inputs, retain_graph=True)
            strength += shares((gradient * inputs).abs().mean(dim=0).detach().numpy())
        return shares(strength)


def _for_forecasts(network: _Network) -> _Network:
    """The network in float64 on the CPU; a :class:`DataError` when a weight is not finite."""
    network = copy.deepcopy(network).to("cpu").double().eval()
    if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
        raise DataError("encoder: training diverged", "lower families.encoder_rate")
    return network


def _pass(
    network: _Network,
    losses: _Losses,
    optimiser: torch.optim.Optimizer,
    rows: tuple[Tensor, Tensor],
    batch: int,
    order: torch.Generator,
) -> Doubles:
    """One pass over the rows in random order; mean loss of each head on the way."""
    features, labels = rows
    network.train()
    total = torch.zeros_like(losses.reference, dtype=torch.float64)
    count = torch.zeros_like(total)
    shuffled = torch.randperm(len(features), generator=order).to(features.device)
    for part in chunks(len(features), batch):
        chosen = shuffled[part]
        loss, sums, counts = losses(network(features[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.bound()
        total += sums.detach()
        count += counts
    return _mean(total, count)


@torch.no_grad()
def _judge(network: _Network, losses: _Losses, rows: tuple[Tensor, Tensor]) -> Doubles:
    """Mean loss of each head without dropout; NaN for a head without labels."""
    network.eval()
    total = torch.zeros_like(losses.reference, dtype=torch.float64)
    count = torch.zeros_like(total)
    for part in chunks(len(rows[0])):
        sums, counts = losses.heads(network(rows[0][part]), rows[1][part])
        total += sums
        count += counts
    return _mean(total, count)


def _mean(total: Tensor, count: Tensor) -> Doubles:
    """Total over count, NaN where the count is 0."""
    mean: Doubles = (total / torch.where(count > 0, count, math.nan)).cpu().numpy()
    return mean


def _on_device(rows: Rows, scaling: Scaling, device: str) -> tuple[Tensor, Tensor]:
    """Standardised features, NaN kept, and labels of all heads, as float32 tensors."""
    features = np.empty(rows.features.shape, dtype=np.float32)
    for part in chunks(len(rows)):
        features[part] = scaling.standardise(rows.features[part])
    labels = np.concatenate([rows.targets, rows.barriers], axis=1)
    return torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device)


def _best_constants(train: Rows) -> tuple[Doubles, Doubles]:
    """Best constant output of each head and its loss, of shape (n_outputs,).

    The mean and variance of a horizon; log odds and entropy of a barrier, NaN without both classes.
    """
    labels = [column[~np.isnan(column)].astype(float) for column in train.targets.T]
    constants = [values.mean() for values in labels]
    losses = [values.var() for values in labels]
    for column in train.barriers.T:
        hits, n = float(np.nansum(column)), int((~np.isnan(column)).sum())
        rate = hits / n if 0 < hits < n else math.nan
        constants.append(math.log(rate / (1 - rate)))
        losses.append(-rate * math.log(rate) - (1 - rate) * math.log(1 - rate))
    return np.array(constants), np.array(losses)


@contextmanager
def _repeatable(seed: int, device: str) -> Iterator[None]:
    """Seed torch and use one thread, then leave both as they were."""
    devices = [torch.cuda.current_device()] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), one_thread():
        torch.manual_seed(seed)
        yield
