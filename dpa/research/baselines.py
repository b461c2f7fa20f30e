"""What the model has to beat: simpler strategies on the same folds, costs and execution lag."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.clock import Clock, SystemClock
from dpa.config import Settings
from dpa.errors import ConfigError
from dpa.market.calendars import TradingCalendar
from dpa.market.costs import CostModel
from dpa.market.panel import BarSource, Bools, Floats, Panel
from dpa.research.backtest import ADV_BARS, Backtest, BacktestResult, BacktestState
from dpa.research.pca import Lengths, PcaScore
from dpa.research.results import summarise_trial
from dpa.research.rolling import (
    FOLDS,
    FoldReport,
    RollingTrainer,
    forget_peak_memory,
    join_parquet,
    peak_memory_mb,
)
from dpa.validation.splits import Fold
from dpa.validation.statistics import sharpe_ratio

LastBars = NDArray[np.int64]


class Rule(Protocol):
    """A strategy that decides one test window at a time, remembering what it holds."""

    @property
    def look_back(self) -> int:
        """Bars needed before the first test bar."""
        ...

    def decide(self, panel: Panel, first: int) -> tuple[Floats, Bools]:
        """Targets for bars `first` and later, and which of those bars trade.

        Arrays are (n_bars - first, n_assets) and (n_bars - first,); row t comes from bars
        ``first + t`` and earlier.
        """
        ...


class EqualWeight:
    """Buy the members of the first bar of each test window in equal parts, and hold them."""

    look_back = 0

    def decide(self, panel: Panel, first: int) -> tuple[Floats, Bools]:
        """See :class:`Rule`: only the first bar trades; a name's target ends with its price."""
        members = panel.mask[first]
        target = members / max(1, int(members.sum()))
        weights = np.where(np.isfinite(panel.prices[first:]), target, 0.0)
        return weights, np.arange(len(weights)) == 0


class RuleTrader:
    """Runs a rule over folds and writes what a trial writes, less clusters and model.

    Parameters
    ----------
    rule : Rule
    settings : Settings
        Costs and execution lag.
    source : BarSource
    out_dir : Path
        Receives ``returns.parquet``, ``weights.parquet`` and ``folds.csv``.
    last_bar : int ndarray (n_assets,), optional
        Bar number of each name's last price; used by the accounting only.
    clock : Clock
    """

    def __init__(
        self,
        rule: Rule,
        settings: Settings,
        source: BarSource,
        out_dir: Path,
        last_bar: LastBars | None,
        clock: Clock,
    ) -> None:
        self.rule, self.source, self.out_dir = rule, source, out_dir
        self.last_bar, self.clock = last_bar, clock
        self.bars_per_year = TradingCalendar(source.calendar).bars_per_year(source.interval)
        lag = settings.walk_forward.execution_lag
        costs = CostModel(settings.costs)
        self.backtest = Backtest(costs, source.calendar, source.interval, lag)
        self.book: BacktestState | None = None
        self.reports: list[FoldReport] = []
        self._net: list[Floats] = []

    def run(self, folds: Sequence[Fold]) -> dict[str, Any]:
        """All folds; the baseline's row of ``baselines.csv``, less its name."""
        forget_peak_memory()
        for fold in folds:
            self._fold(fold, last=fold is folds[-1])
        for name in ("returns", "weights"):
            parts = [self._folder(fold) / f"{name}.parquet" for fold in folds]
            join_parquet(parts, self.out_dir / f"{name}.parquet")
        frame = pd.DataFrame([asdict(report) for report in self.reports])
        frame.to_csv(self.out_dir / "folds.csv", index=False)
        returns = pd.read_parquet(self.out_dir / "returns.parquet")
        return summarise_trial(returns, self.bars_per_year) | {
            "folds": len(folds),
            "seconds": float(frame["seconds"].sum()),
            "peak_memory_mb": peak_memory_mb(),
        }

    def _folder(self, fold: Fold) -> Path:
        return self.out_dir / FOLDS / f"{fold.index:04d}"

    def _fold(self, fold: Fold, last: bool) -> None:
        began = self.clock.elapsed()
        start = fold.test_start - max(self.rule.look_back, ADV_BARS + 1)
        start = max(0, min(start, fold.train_start))
        panel = self.source.window(start, fold.test_stop)
        first = fold.test_start - start
        weights, rebalance = self.rule.decide(panel, first)
        if self.book is None:
            self.book = self.backtest.warm_up(panel.window(0, first))
        test = panel.window(first, panel.n_bars)
        result, self.book = self.backtest.run(
            weights,
            test,
            self.book,
            rebalance=rebalance,
            last_bar=self.last_bar,
            first_bar=fold.test_start,
            liquidate=last,
        )
        self._net.append(result.net)
        self._write(fold, test, weights, result)
        train = panel.times[fold.train_start - start : fold.train_stop - start]
        self.reports.append(self._report(fold, train, result, began))

    def _write(self, fold: Fold, test: Panel, weights: Floats, result: BacktestResult) -> None:
        folder = self._folder(fold)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        result.frame().assign(fold=fold.index).to_parquet(folder / "returns.parquet")
        index = test.times.rename("time")
        targets = pd.DataFrame(weights.astype(np.float32), index, list(test.names))
        targets.to_parquet(folder / "weights.parquet")

    def _report(
        self, fold: Fold, train: pd.DatetimeIndex, result: BacktestResult, began: float
    ) -> FoldReport:
        return FoldReport(
            fold=fold.index,
            train_start=train[0].isoformat(),
            train_stop=train[-1].isoformat(),
            test_start=result.times[0].isoformat(),
            test_stop=result.times[-1].isoformat(),
            partial=fold.partial,
            epochs=0,
            train_sharpe=math.nan,
            validation_sharpe=math.nan,
            net_sharpe=sharpe_ratio(result.net, self.bars_per_year),
            gross_sharpe=sharpe_ratio(result.gross, self.bars_per_year),
            net_sharpe_so_far=sharpe_ratio(np.concatenate(self._net), self.bars_per_year),
            turnover=float(result.turnover.mean()),
            cost=float((result.gross - result.net).mean()),
            average_gross=float(result.gross_exposure.mean()),
            seconds=self.clock.elapsed() - began,
            entry_threshold=math.nan,
            stop_threshold=math.nan,
            signal_scale=math.nan,
            temperature=math.nan,
            similarity_threshold=math.nan,
        )


Runner = Callable[
    [Settings, BarSource, Sequence[Fold], Path, LastBars | None, Clock], dict[str, Any]
]


def equal_weight(
    settings: Settings,
    source: BarSource,
    folds: Sequence[Fold],
    out_dir: Path,
    last_bar: LastBars | None,
    clock: Clock,
) -> dict[str, Any]:
    """Buy and hold in equal parts, rebalanced at each fold: what the market itself gave."""
    return RuleTrader(EqualWeight(), settings, source, out_dir, last_bar, clock).run(folds)


def kmeans_fixed(
    settings: Settings,
    source: BarSource,
    folds: Sequence[Fold],
    out_dir: Path,
    last_bar: LastBars | None,
    clock: Clock,
) -> dict[str, Any]:
    """Spherical k-means that follows its members, hard decisions at fixed thresholds.

    The model's own machinery with nothing learned: what learning adds is the difference.
    """
    model = settings.model.model_copy(update={"learn": False, "centroids": "comovement"})
    training = settings.training.model_copy(update={"mode": "anneal"})
    unlearned = settings.model_copy(update={"model": model, "training": training})
    trainer = RollingTrainer(unlearned, source, folds, out_dir, last_bar, clock=clock)
    while not trainer.done:
        trainer.step()
    return trainer.finish()


def pca_sscore(
    settings: Settings,
    source: BarSource,
    folds: Sequence[Fold],
    out_dir: Path,
    last_bar: LastBars | None,
    clock: Clock,
) -> dict[str, Any]:
    """Residual reversion around eigenportfolios (Avellaneda & Lee 2010); see dpa.research.pca."""
    lengths = Lengths.fitting(folds[0].test_start)
    rule = PcaScore(settings.model, lengths, len(source.names))
    return RuleTrader(rule, settings, source, out_dir, last_bar, clock).run(folds)


BASELINES: dict[str, Runner] = {
    "equal_weight": equal_weight,
    "kmeans_fixed": kmeans_fixed,
    "pca_sscore": pca_sscore,
}


def run_baseline(
    name: str,
    settings: Settings,
    source: BarSource,
    folds: Sequence[Fold],
    out_dir: Path,
    last_bar: LastBars | None = None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Run one baseline and write its files.

    Parameters
    ----------
    name : str
        A key of :data:`BASELINES`.
    settings : Settings
        Costs, execution lag, and for all but equal weight the limits on positions.
    source : BarSource
    folds : sequence of Fold
        The folds of the grid.
    out_dir : Path
        ``baselines/<name>``; made when absent.
    last_bar : int ndarray (n_assets,), optional
        Bar number of each name's last price, for delistings in the accounting.
    clock : Clock, optional
        Measures how long folds take.

    Returns
    -------
    dict
        Its row of ``baselines.csv``, less its name.

    Raises
    ------
    ConfigError
        When no baseline is called `name`.
    """
    if name not in BASELINES:
        raise ConfigError(f"baseline {name!r}", f"choose from {', '.join(BASELINES)}")
    out_dir.mkdir(parents=True, exist_ok=True)
    return BASELINES[name](settings, source, folds, out_dir, last_bar, clock or SystemClock())
