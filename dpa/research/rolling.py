"""The rolling trainer: train on N bars, trade the next M, slide by M, fold after fold.

A trial of the grid is one of these. It writes every fold as it goes, so a trial that is
interrupted goes on at the fold it lost, and its memory does not grow with the history.
"""

import json
import math
import resource
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dpa.clock import Clock, SystemClock
from dpa.cluster.loss import make_outcome
from dpa.cluster.model import ClusterModel, Inputs, ModelOutput
from dpa.cluster.storage import load_model, save_model
from dpa.cluster.tracker import Labels
from dpa.config import Settings
from dpa.errors import RunError
from dpa.market.calendars import TradingCalendar
from dpa.market.costs import CostModel
from dpa.market.panel import BarSource, Panel
from dpa.research.backtest import Backtest, BacktestResult, BacktestState
from dpa.research.results import summarise_trial
from dpa.research.training import FoldTraining, Span, TrainingResult
from dpa.validation.splits import Fold
from dpa.validation.statistics import sharpe_ratio

FOLDS = "folds"
PARTS = ("returns", "weights", "clusters")


@dataclass(frozen=True)
class FoldReport:
    """What one fold came to; Sharpe ratios are annual, costs and turnover fractions of NAV.

    ``train_sharpe`` and ``validation_sharpe`` are net, at the parameters kept; NaN where nothing
    was trained. ``cost`` is the mean per bar, ``turnover`` and ``average_gross`` too.
    """

    fold: int
    train_start: str
    train_stop: str
    test_start: str
    test_stop: str
    partial: bool
    epochs: int
    train_sharpe: float
    validation_sharpe: float
    net_sharpe: float
    gross_sharpe: float
    net_sharpe_so_far: float
    turnover: float
    cost: float
    average_gross: float
    seconds: float
    entry_threshold: float
    stop_threshold: float
    signal_scale: float
    temperature: float
    similarity_threshold: float


class RollingTrainer:
    """Walk-forward training of one parameter point.

    Parameters
    ----------
    settings : Settings
        One point of the grid; ``training.seed`` is the trial's own.
    source : BarSource
        The history.
    folds : sequence of Fold
        Shared by all trials of a run, so that they are compared over the same dates.
    out_dir : Path
        Receives ``folds/NNN/*.parquet`` while running, and the joined files at the end.
    last_bar : int ndarray (n_assets,), optional
        Bar number of each name's last price in the whole history: tells a delisting from a gap in
        the accounting. No decision sees it.
    model : ClusterModel, optional
        A trained model: it is traded as it is, nothing is trained.
    device : str
        torch device of the model.
    clock : Clock
        Measures how long folds take.
    """

    def __init__(
        self,
        settings: Settings,
        source: BarSource,
        folds: Sequence[Fold],
        out_dir: Path,
        last_bar: NDArray[np.int64] | None = None,
        model: ClusterModel | None = None,
        device: str = "cpu",
        clock: Clock | None = None,
    ) -> None:
        self.settings, self.source, self.folds = settings, source, list(folds)
        self.out_dir, self.last_bar, self.device = out_dir, last_bar, device
        self.clock: Clock = clock or SystemClock()
        self.frozen = model is not None
        self.model = model or ClusterModel(settings.model, settings.training.seed)
        self.model.to(device)
        calendar = TradingCalendar(source.calendar)
        self.bars_per_year = calendar.bars_per_year(source.interval)
        self.bars_per_session = self.bars_per_year / calendar.bars_per_year("1d")
        self.costs = CostModel(settings.costs)
        self.backtest = Backtest(
            self.costs, source.calendar, source.interval, settings.walk_forward.execution_lag
        )
        self.book: BacktestState | None = None
        self.reports: list[FoldReport] = []
        self._labels: Labels | None = None  # tracked clusters of bars _labels_from and later
        self._labels_from = 0
        self._net: list[NDArray[np.float64]] = []
        forget_peak_memory()

    @property
    def n_folds(self) -> int:
        """Folds there are."""
        return len(self.folds)

    @property
    def folds_done(self) -> int:
        """Folds trained, traded and written."""
        return len(self.reports)

    @property
    def done(self) -> bool:
        """Whether all folds are done."""
        return self.folds_done == self.n_folds

    def step(self) -> FoldReport:
        """Train and trade the next fold; writes its files."""
        began = self.clock.elapsed()
        fold = self.folds[self.folds_done]
        start = fold.train_start - self.settings.model.context_bars
        panel = self.source.window(start, fold.test_stop)
        inputs = self._prepare(panel, start)
        trained = self._train(panel, inputs, fold, start)
        with torch.no_grad():
            output = self.model(inputs)
        result = self._trade(panel, output, fold, start)
        self._net.append(result.net)
        self._write(panel, inputs, output, result, fold, start)
        report = self._report(fold, trained, result, panel.times, start, began)
        self.reports.append(report)
        return report

    def _prepare(self, panel: Panel, start: int) -> Inputs:
        first = start + self.settings.model.window - 1
        known = None if self._labels is None else self._labels[first - self._labels_from :]
        inputs = self.model.prepare(panel, known)
        if inputs.labels is not None:
            self._labels = inputs.labels.cpu().numpy().astype(np.int16)
            self._labels_from = first
        return inputs

    def _train(self, panel: Panel, inputs: Inputs, fold: Fold, start: int) -> TrainingResult:
        lag = self.settings.walk_forward.execution_lag
        stop = fold.train_stop + lag - start  # return bars: the last signal's is known by then
        if self.frozen or stop <= fold.train_start + lag - start:
            return TrainingResult(0, 0, math.nan, math.nan, ())
        if self.settings.model.centroids == "shape" and not self.reports:
            self.model.seed_shapes(inputs.features, fold.train_stop - start)
        span = Span.of(
            fold.train_start + lag - start, stop, self.settings.training.validation_fraction
        )
        past = panel.window(0, stop)
        outcome = make_outcome(
            past,
            self.bars_per_year,
            self.bars_per_session,
            self.device,
            self.settings.costs.delisting_return,
        )
        return FoldTraining(
            self.model,
            inputs.until(stop),
            outcome,
            span,
            self.costs,
            self.settings.training,
            self.bars_per_year,
            lag,
        ).run()

    def _trade(self, panel: Panel, output: ModelOutput, fold: Fold, start: int) -> BacktestResult:
        test = panel.window(fold.test_start - start, fold.test_stop - start)
        weights = output.weights[fold.test_start - start :].cpu().numpy().astype(np.float64)
        if self.book is None:
            self.book = self.backtest.warm_up(panel.window(0, fold.test_start - start))
        result, self.book = self.backtest.run(
            weights,
            test,
            self.book,
            last_bar=self.last_bar,
            first_bar=fold.test_start,
            liquidate=fold is self.folds[-1],
        )
        return result

    def _write(
        self,
        panel: Panel,
        inputs: Inputs,
        output: ModelOutput,
        result: BacktestResult,
        fold: Fold,
        start: int,
    ) -> None:
        rows = slice(fold.test_start - start, None)
        times = panel.times[rows].rename("time")
        columns = list(panel.names)
        weights = output.weights[rows].cpu().numpy()
        clusters = output.clusters(inputs.features.valid)[rows]
        frames = {
            "returns": result.frame().assign(fold=fold.index),
            "weights": pd.DataFrame(weights, times, columns),
            "clusters": pd.DataFrame(clusters, times, columns),
        }
        folder = self.out_dir / FOLDS / f"{fold.index:04d}"
        staging = folder.with_name(f".{folder.name}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name, frame in frames.items():
            frame.to_parquet(staging / f"{name}.parquet")
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)

    def _report(
        self,
        fold: Fold,
        trained: TrainingResult,
        result: BacktestResult,
        times: pd.DatetimeIndex,
        start: int,
        began: float,
    ) -> FoldReport:
        def stamp(bar: int) -> str:
            return str(times[bar - start].isoformat())

        year = self.bars_per_year
        return FoldReport(
            fold=fold.index,
            train_start=stamp(fold.train_start),
            train_stop=stamp(
                fold.train_stop - 1 if fold.train_stop > fold.train_start else fold.train_start
            ),
            test_start=stamp(fold.test_start),
            test_stop=stamp(fold.test_stop - 1),
            partial=fold.partial,
            epochs=trained.epochs,
            train_sharpe=trained.train_sharpe,
            validation_sharpe=trained.validation_sharpe,
            net_sharpe=sharpe_ratio(result.net, year),
            gross_sharpe=sharpe_ratio(result.gross, year),
            net_sharpe_so_far=sharpe_ratio(np.concatenate(self._net), year),
            turnover=float(result.turnover.mean()),
            cost=float((result.gross - result.net).mean()),
            average_gross=float(result.gross_exposure.mean()),
            seconds=self.clock.elapsed() - began,
            **self.model.learned(),
        )

    def save(self, folder: Path) -> None:
        """Everything the next fold depends on, into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, folder / "model", self.source.names)
        arrays: dict[str, Any] = {} if self.book is None else self.book.to_arrays()
        if self._labels is not None:
            arrays["labels"] = self._labels
        np.savez(folder / "state.npz", **arrays)
        progress = {
            "labels_from": self._labels_from,
            "reports": [asdict(report) for report in self.reports],
        }
        (folder / "progress.json").write_text(json.dumps(progress) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Go on from what :meth:`save` wrote; the folds done so far are in ``out_dir``."""
        self.model, names = load_model(folder / "model")
        if names != tuple(self.source.names) or self.model.config != self.settings.model:
            raise RunError(
                f"{folder}: the checkpoint belongs to other names or other model settings",
                "resume with the data and settings of the run",
            )
        self.model.to(self.device)
        try:
            progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            with (folder / "state.npz").open("rb") as file:
                arrays = dict(np.load(file, allow_pickle=False))
            self._labels = arrays.pop("labels", None)
            self._labels_from = progress["labels_from"]
            self.book = BacktestState.from_arrays(arrays) if arrays else None
            self.reports = [FoldReport(**report) for report in progress["reports"]]
            self._net = [
                pd.read_parquet(self._part(fold, "returns"), columns=["net"])["net"].to_numpy()
                for fold in self.folds[: self.folds_done]
            ]
        except (OSError, ValueError, LookupError, TypeError, BadZipFile) as e:
            raise RunError(
                f"{folder}: the checkpoint cannot be read ({type(e).__name__})",
                "delete the trial's directory: it starts anew",
            ) from e

    def _part(self, fold: Fold, name: str) -> Path:
        return self.out_dir / FOLDS / f"{fold.index:04d}" / f"{name}.parquet"

    def finish(self) -> dict[str, Any]:
        """Join the folds' files, write the model, and sum the trial up.

        Returns
        -------
        dict
            The trial's row of ``grid_search_results.csv``, less its name and parameters.
        """
        done = self.folds[: self.folds_done]
        for name in PARTS:
            join_parquet(
                [self._part(fold, name) for fold in done], self.out_dir / f"{name}.parquet"
            )
        frame = pd.DataFrame([asdict(report) for report in self.reports])
        frame.to_csv(self.out_dir / "folds.csv", index=False)
        save_model(
            self.model,
            self.out_dir / "checkpoint",
            self.source.names,
            {
                "calendar": self.source.calendar,
                "interval": self.source.interval,
                "settings": self.settings.model_dump(mode="json"),
                "seen_until": self.reports[-1].test_stop if self.reports else None,
            },
        )
        returns = pd.read_parquet(self.out_dir / "returns.parquet")
        summary = summarise_trial(returns, self.bars_per_year)
        return summary | {
            "folds": self.folds_done,
            "seconds": float(frame["seconds"].sum()),
            "peak_memory_mb": peak_memory_mb(),
        }


def join_parquet(parts: Sequence[Path], out: Path) -> None:
    """Join Parquet files of one schema, one row group a file, holding one at a time."""
    staging = out.with_name(f".{out.name}")
    schema: pa.Schema = pq.read_schema(parts[0])
    with pq.ParquetWriter(staging, schema) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part).cast(schema))
    staging.replace(out)


def forget_peak_memory() -> None:
    """Start the peak-memory count of this process anew (Linux; elsewhere it is left alone)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        try:
            clear.write_text("5")
        except OSError:  # not permitted in some containers: the peak is then the process's
            return


def peak_memory_mb() -> float:
    """Largest resident memory of this process since the count began, MiB.

    Pages of the object store are shared by all trials and not counted, where the system tells
    them apart (Linux).
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    peak, shared = (float(lines[name].split()[0]) for name in ("VmHWM", "RssShmem"))
    return (peak - shared) / 1024.0
