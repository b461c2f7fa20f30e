"""Training of one fold: early stopping on the tail of the training window, nothing later."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dpa.cluster.loss import Outcome, Profit, annual_sharpe, profit, training_loss
from dpa.cluster.model import ClusterModel, Inputs
from dpa.config import TrainingConfig
from dpa.market.costs import CostModel

ANNEAL_TO = 8.0  # final factor on every sharpness before decisions turn hard


@dataclass(frozen=True)
class Span:
    """Return bars that training may use: fit on ``[start, validation)``, check on the rest.

    A signal belongs to the bar that holds its first return, so no label reaches from the fitted
    part into the validation part, or from there into the test window.
    """

    start: int
    validation: int
    stop: int

    @staticmethod
    def of(start: int, stop: int, validation_fraction: float) -> "Span":
        """Split ``[start, stop)``; a tail of fewer than 5 bars is no validation at all."""
        tail = round((stop - start) * validation_fraction)
        return Span(start, stop - (tail if tail >= 5 else 0), stop)

    @property
    def fit(self) -> slice:
        """Bars of the training loss."""
        return slice(self.start, self.validation)

    @property
    def check(self) -> slice:
        """Bars that decide when to stop; the fitted ones where there is no validation tail."""
        return slice(self.validation, self.stop) if self.validation < self.stop else self.fit


@dataclass(frozen=True)
class TrainingResult:
    """What came of training one fold; Sharpe ratios are annual and net of costs.

    Attributes
    ----------
    epochs : int
        Passes made.
    best_epoch : int
        Pass whose parameters were kept; 0 is before any step.
    train_sharpe, validation_sharpe : float
        At the parameters kept; validation is NaN where there is no validation tail.
    losses : tuple of float
        Training loss of each pass.
    """

    epochs: int
    best_epoch: int
    train_sharpe: float
    validation_sharpe: float
    losses: tuple[float, ...]


class FoldTraining:
    """The loop that trains one fold, in small steps.

    Parameters
    ----------
    model : ClusterModel
        Trained in place; starts from the parameters it has, so weights carry across folds.
    inputs, outcome : Inputs, Outcome
        A stretch that ends with the last return training may see.
    span : Span
        Bars of that stretch.
    costs : CostModel
    training : TrainingConfig
    bars_per_year : float
        From the calendar.
    execution_lag : int
        Bars between a signal and its first return.
    """

    def __init__(
        self,
        model: ClusterModel,
        inputs: Inputs,
        outcome: Outcome,
        span: Span,
        costs: CostModel,
        training: TrainingConfig,
        bars_per_year: float,
        execution_lag: int,
    ) -> None:
        self.model, self.inputs, self.outcome, self.span = model, inputs, outcome, span
        self.costs, self.training = costs, training
        self.bars_per_year, self.lag = bars_per_year, execution_lag
        self.annealed = training.mode == "anneal"

    def run(self) -> TrainingResult:
        """Train until the epochs or the patience are used up, then keep the best parameters."""
        model, training = self.model, self.training
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=training.learning_rate) if parameters else None
        best_score, best_epoch, best = -math.inf, 0, _copy(model)
        losses: list[float] = []
        epoch = 0
        for epoch in range(training.epochs + 1):
            loss, score = self._epoch(epoch)
            losses.append(float(loss.detach()))
            if score > best_score:
                best_score, best_epoch, best = score, epoch, _copy(model)
            exhausted = epoch == training.epochs or epoch - best_epoch >= training.patience
            if exhausted or optimizer is None:
                break
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
            optimizer.step()
        model.load_state_dict(best)
        model.sharpening, model.hard = 1.0, self.annealed
        train, check = self._kept_sharpes()
        return TrainingResult(epoch, best_epoch, train, check, tuple(losses))

    def _epoch(self, epoch: int) -> tuple[Tensor, float]:
        """Loss of one pass, and the net Sharpe that decides whether to keep its parameters."""
        model, span = self.model, self.span
        progress = epoch / max(1, self.training.epochs)
        model.hard = False
        model.sharpening = ANNEAL_TO**progress if self.annealed else 1.0
        output = model(self.inputs)
        result = profit(output.weights, self.outcome, self.costs, self.lag)
        loss = training_loss(
            Profit(result.net[span.fit], result.gross[span.fit], result.turnover[span.fit]),
            output.wanted_gross[span.fit],
            model.config.max_leverage,
            self.training,
            self.bars_per_year,
        )
        if self.annealed:  # judged as it will trade
            model.hard = True
            result = self._profit()
        return loss, float(annual_sharpe(result.net[span.check].detach(), self.bars_per_year))

    def _profit(self) -> Profit:
        with torch.no_grad():
            weights = self.model(self.inputs).weights
            return profit(weights, self.outcome, self.costs, self.lag)

    def _kept_sharpes(self) -> tuple[float, float]:
        net = self._profit().net
        train = float(annual_sharpe(net[self.span.fit], self.bars_per_year))
        if self.span.validation == self.span.stop:
            return train, math.nan
        return train, float(annual_sharpe(net[self.span.check], self.bars_per_year))


def _copy(model: ClusterModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
