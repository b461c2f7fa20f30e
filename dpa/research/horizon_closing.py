"""What a finished run of predictors ends in: tables, checks, the stacker, a bundle, a report.

Test windows are read one at a time, in order. The stacker and the calibration of each window learn
from earlier ones only; those of the bundle learn from all.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.clock import Clock
from dpa.errors import RunError
from dpa.horizons.bundle import (
    BundleManifest,
    BundleParts,
    write_bundle,
)
from dpa.horizons.calibration import Calibrator, Method, barrier_mean, calibrated
from dpa.horizons.dataset import Dataset
from dpa.horizons.evaluation import ForecastWindow, Scores
from dpa.horizons.families.protocol import family_class
from dpa.horizons.promotion import promote_bundle, read_pointer
from dpa.horizons.recipe import Recipe
from dpa.horizons.stacker import CrossHorizonStacker
from dpa.horizons.targets import centred
from dpa.horizons.training import FINAL, final_fold, load_final, read_forecast, read_summary
from dpa.horizons.types import BARRIERS
from dpa.research.horizon_checks import leakage_checks
from dpa.research.horizon_plan import HorizonPlan
from dpa.research.horizon_report import write_horizon_report
from dpa.runs import RunDirectory, write_atomically
from dpa.text import columns
from dpa.validation.splits import Fold

STACKED, CALIBRATED = "stacked", "calibrated"
MOST_ROWS = 2_000_000  # that the stacker learns from, evenly over the test windows
CALIBRATION_ROWS = 250_000  # about as many of them teach the two calibrators their two numbers


@dataclass(frozen=True, eq=False)
class _Sample:
    """All rows of evenly spaced bars of a test window, to learn stacking and calibration from.

    Parameters
    ----------
    bar : int64 ndarray (n_rows,)
    forecasts : float32 ndarray (n_horizons, n_families, n_rows)
    targets : float32 ndarray (n_horizons, n_rows)
    raw, labels : float32 ndarrays (n_rows, 2)
        Mean raw barrier probability, and what came of it.
    """

    bar: NDArray[np.int64]
    forecasts: NDArray[Any]
    targets: NDArray[Any]
    raw: NDArray[Any]
    labels: NDArray[Any]


@dataclass
class _Learned:
    """Samples of the windows read so far."""

    recipe: Recipe
    families: tuple[str, ...]
    rows_per_window: int
    samples: list[_Sample] = field(default_factory=list)

    def stacker(self, before: int) -> CrossHorizonStacker:
        """A stacker that has seen rows whose labels end before bar `before`."""
        settings = self.recipe.settings.stacking
        stacker = CrossHorizonStacker(self.recipe.horizons, self.families, settings)
        reach = self.recipe.purge.label_bars
        parts = [
            (s.forecasts, np.where(s.bar + reach < before, s.targets, np.nan)) for s in self.samples
        ]
        return stacker.fit_parts(parts) if parts else stacker

    def calibrators(self, before: int) -> tuple[Calibrator, ...]:
        """A calibrator of each barrier from rows whose labels end before bar `before`."""
        reach = self.recipe.lag - 1 + self.recipe.barrier_bars
        step = max(1, sum(len(sample.bar) for sample in self.samples) // CALIBRATION_ROWS)
        pairs = [
            (sample, _every(step, sample.bar) & (sample.bar + reach < before))
            for sample in self.samples
        ]
        nothing = np.zeros((0, len(BARRIERS)))
        raw = np.concatenate([nothing, *(sample.raw[chosen] for sample, chosen in pairs)])
        labels = np.concatenate([nothing, *(sample.labels[chosen] for sample, chosen in pairs)])
        method = self.recipe.settings.stacking.calibration
        return tuple(_fitted(method, raw[:, k], labels[:, k]) for k in range(len(BARRIERS)))


def _every(step: int, bar: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows of every `step`-th bar: all names of it, or none."""
    _, number = np.unique(bar, return_inverse=True)
    return np.asarray(number % step == 0)


def _fitted(method: Method, raw: NDArray[Any], labels: NDArray[Any]) -> Calibrator:
    """A calibrator, or the identity where nothing is known."""
    known = np.isfinite(raw) & np.isfinite(labels)
    return (
        Calibrator.fit(method, raw[known], labels[known]) if known.any() else Calibrator("identity")
    )


@dataclass(frozen=True, eq=False)
class _Window:
    """One test window as read from disk, arrays (n_bars, n_assets, ...)."""

    fold: Fold
    forecasts: dict[str, NDArray[Any]]
    raw: dict[str, NDArray[Any]]
    targets: NDArray[Any]
    labels: NDArray[Any]

    def columns(self) -> NDArray[Any]:
        """Forecasts as (n_horizons, n_families, n_bars * n_assets)."""
        stacked = np.stack(list(self.forecasts.values()))  # (n_families, bars, assets, horizons)
        flat = stacked.reshape(len(stacked), -1, stacked.shape[-1])
        return np.ascontiguousarray(flat.transpose(2, 0, 1))


def read_windows(
    run: RunDirectory, plan: HorizonPlan, recipe: Recipe, dataset: Dataset
) -> Iterator[_Window]:
    """The test windows in time order, one in memory at a time."""
    schema = recipe.schema()
    for fold in plan.folds:
        said = {
            name: read_forecast(run.tasks, f"{fold.index:03d}", name, schema)
            for name in plan.families
        }
        relative = recipe.settings.horizons.target == "excess"
        yield _Window(
            fold,
            {name: _returns(f.returns, relative) for name, f in said.items()},
            {n: f.barriers.astype(np.float32) for n, f in said.items() if f.barriers is not None},
            dataset.dense("targets", fold.test_start, fold.test_stop),
            dataset.dense("barriers", fold.test_start, fold.test_stop),
        )


def _returns(forecasts: NDArray[np.float64], relative: bool) -> NDArray[np.float32]:
    """Forecasts (n_bars, n_assets, n_horizons), relative to each bar's mean if asked."""
    if relative:
        forecasts = centred(forecasts.transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.ascontiguousarray(forecasts, np.float32)


def _sample(window: _Window, rows: int, limit: float) -> _Sample:
    shape = window.targets.shape
    said = np.any([np.isfinite(f).any(axis=2) for f in window.forecasts.values()], axis=0)
    step = max(1, -(-int(said.sum()) // rows))
    kept = np.zeros_like(said)
    kept[::step] = said[::step]  # whole bars: every name is among them
    bar, asset = np.nonzero(kept)
    forecasts = np.stack([f[bar, asset].T for f in window.forecasts.values()], axis=1)
    mean = barrier_mean([raw.astype(np.float64) for raw in window.raw.values()])
    raw = np.full((len(bar), len(BARRIERS)), np.nan) if mean is None else mean[bar, asset]
    if not len(bar):
        forecasts = np.zeros((shape[2], len(window.forecasts), 0), np.float32)
    return _Sample(
        bar + window.fold.test_start,
        forecasts,
        np.clip(window.targets[bar, asset].T, -limit, limit),
        raw.astype(np.float32),
        window.labels[bar, asset],
    )


def close_horizons(
    run: RunDirectory,
    plan: HorizonPlan,
    recipe: Recipe,
    dataset: Dataset,
    storage: Path,
    promote: bool,
    clock: Clock,
) -> str:
    """Tables, checks, bundle and report of a run whose fits are all there.

    Parameters
    ----------
    run : RunDirectory
        Held by the caller.
    plan : HorizonPlan
    recipe : Recipe
    dataset : Dataset
    storage : Path
        Where the promoted bundle is named.
    promote : bool
        Make the bundle the promoted one, unless a person chose another.
    clock : Clock

    Returns
    -------
    str
        What to tell the user.
    """
    scores, learned = score_windows(run, plan, recipe, dataset)
    run.tables.mkdir(exist_ok=True)
    table = scores.ic_table()
    tables = {
        "ic": table,
        "stacker_against_best": scores.against_best(STACKED),
        "decay": scores.decay_table(),
        "months": scores.month_table(),
        "correlations": scores.family_correlations(),
        "barriers": scores.barrier_table(),
        "reliability": scores.reliability_table().rename(columns={"lower": "low", "upper": "high"}),
        "checks": leakage_checks(plan, recipe, dataset),
        **fit_tables(run, plan, recipe),
    }
    stacker = learned.stacker(dataset.n_bars + recipe.purge.label_bars)
    tables["stacker"] = stacker_table(stacker)
    for name, frame in tables.items():
        write_atomically(run.tables / f"{name}.csv", frame.to_csv(index=False))
    failed = tables["checks"].loc[~tables["checks"]["passed"], "check"].tolist()
    if failed:
        shutil.rmtree(run.bundle, ignore_errors=True)  # of an earlier closing
        words = f"no bundle: the check {failed[0]!r} failed, so no figure here can be trusted"
    elif plan.settings.horizons.placebo:
        words = "placebo: names held the labels of others, so there is no bundle"
    else:
        manifest = make_bundle(run, plan, recipe, dataset, stacker, learned, table, clock)
        words = f"bundle     {run.bundle} ({manifest.short})\n"
        words += _promotion(run, storage, promote, clock)
    run.set_status("complete")  # as the report is to say
    report = write_horizon_report(run.path)
    note = (
        "stacked is scored from the second test window on; beside the best family over the same\n"
        f"bars: {run.tables / 'stacker_against_best.csv'}"
    )
    return f"{ic_words(table)}\n\n{note}\n\n{words}\nreport     {report}"


def score_windows(
    run: RunDirectory, plan: HorizonPlan, recipe: Recipe, dataset: Dataset
) -> tuple[Scores, _Learned]:
    """Score every window, stacked and calibrated by what earlier ones taught."""
    scores = Scores(recipe.horizons, recipe.lag)
    per_window = max(1, MOST_ROWS // len(plan.folds))
    learned = _Learned(recipe, plan.families, per_window)
    for window in read_windows(run, plan, recipe, dataset):
        start = window.fold.test_start
        shape = window.targets.shape
        stacker = learned.stacker(start)
        stacked = np.full(shape, np.nan, np.float32)
        if stacker.n_rows.any():  # before that it is the prior alone, and not scored
            stacked[:] = stacker.predict(window.columns()).forecast.T.reshape(shape)
        probabilities = dict(window.raw)
        mean = barrier_mean([raw.astype(np.float64) for raw in window.raw.values()])
        if mean is not None:
            likely = calibrated(learned.calibrators(start), mean)
            probabilities[CALIBRATED] = likely.astype(np.float32)
        scores.add(
            ForecastWindow(
                plan.times[start : window.fold.test_stop],
                start,
                window.forecasts | {STACKED: stacked},
                window.targets,
                probabilities,
                window.labels,
            )
        )
        limit = recipe.settings.horizons.target_clip
        learned.samples.append(_sample(window, per_window, limit))
    return scores, learned


def fit_tables(run: RunDirectory, plan: HorizonPlan, recipe: Recipe) -> dict[str, pd.DataFrame]:
    """Tables of the fits themselves: cost, curves, importance."""
    fits, curves, importance = [], [], []
    for task in plan.tasks(recipe):
        summary = read_summary(run.tasks / task.key)
        if summary is None:
            raise RunError(f"{task.label}: is not there", "resume the run")
        target = task.target or "all"
        numbers = asdict(summary)
        kept = ("seconds", "cpu_seconds", "peak_mib", "n_fit", "n_validation", "n_test")
        fits.append((task.fold, task.family, target, *(numbers[name] for name in kept)))
        for curve, values in summary.curves.items():
            for step, value in enumerate(values):
                curves.append((task.family, target, task.fold, curve, step, value))
        if task.fold != FINAL:
            for name, value in summary.importance.items():
                importance.append((task.family, name, value))
    columns_of = {
        "fits": ("fold", "family", "target", *kept),
        "curves": ("family", "target", "fold", "curve", "step", "value"),
        "importance": ("family", "feature", "importance"),
    }
    rows: dict[str, list[Any]] = {"fits": fits, "curves": curves, "importance": importance}
    frames = {name: pd.DataFrame(rows[name], columns=list(columns_of[name])) for name in rows}
    mean = frames["importance"].groupby(["family", "feature"], sort=False)["importance"].mean()
    frames["importance"] = mean.reset_index()
    return frames


def stacker_table(stacker: CrossHorizonStacker) -> pd.DataFrame:
    """Weights of the bundle's stacker, one row a target, horizon and family."""
    labels = [horizon.label for horizon in stacker.horizons]
    rows = [
        (labels[target], labels[horizon], stacker.families[family], float(weight))
        for (target, horizon, family), weight in np.ndenumerate(stacker.weights)
    ]
    return pd.DataFrame(rows, columns=["target", "horizon", "family", "weight"])


def make_bundle(
    run: RunDirectory,
    plan: HorizonPlan,
    recipe: Recipe,
    dataset: Dataset,
    stacker: CrossHorizonStacker,
    learned: _Learned,
    table: pd.DataFrame,
    clock: Clock,
) -> BundleManifest:
    """The bundle of the final fits."""
    final = final_fold(plan.folds, dataset)
    last = dataset.spans[-1]
    tail = max(0, dataset.n_bars - recipe.feature_set().reach - 1)
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".final.") as scratch:
        folders = {}
        for name in plan.families:
            folders[name] = Path(scratch, name)
            load_final(run.tasks, name, recipe, folders[name])
        has_barriers = any(family_class(name).has_barriers for name in plan.families)
        parts = BundleParts(
            recipe,
            folders,
            stacker,
            learned.calibrators(dataset.n_bars + recipe.barrier_bars) if has_barriers else (),
            dataset.rows(last.start, last.stop),
            plan.source.window(tail, dataset.n_bars),
            run.path.name,
            plan.bars_identity(),
            plan.times[final.train_start].to_pydatetime(),
            plan.times[-1].to_pydatetime(),
            {
                f"{family} {horizon}": float(ic)
                for family, horizon, ic in zip(
                    table["family"], table["horizon"], table["ic"], strict=True
                )
                if np.isfinite(ic)  # of one test window the stacker is not scored
            },
        )
        return write_bundle(run.bundle, parts, clock)


def _promotion(run: RunDirectory, storage: Path, promote: bool, clock: Clock) -> str:
    if not promote:
        return "promoted   no, as asked"
    pointer = read_pointer(storage)
    if pointer is not None and pointer["promoted_by"] == "hand":
        return f"promoted   no: {pointer['bundle']} was promoted by hand"
    return f"promoted   {promote_bundle(run.bundle, storage, clock, 'run')}"


def ic_words(table: pd.DataFrame) -> str:
    """The table of ICs for a terminal: a row a family, a column a horizon, with standard errors."""
    horizons = list(dict.fromkeys(table["horizon"]))
    rows = []
    for family, part in table.groupby("family", sort=False):
        cells = part.set_index("horizon")
        rows.append(
            (
                str(family),
                *(f"{cells.loc[h, 'ic']:+.4f} ± {cells.loc[h, 'se']:.4f}" for h in horizons),
            )
        )
    head = "out-of-sample IC (mean cross-sectional rank correlation ± standard error)\n\n"
    return head + columns(("family", *horizons), rows)
