"""Fitting as tasks: one family (or one of its targets) on one fold, each with files of its own.

A task writes its folder whole or not at all, so a run is resumed by doing what is not there.
"""

import json
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import dpa.horizons.families  # noqa: F401  registers the families that come with dpa
from dpa.errors import DataError, RunError
from dpa.horizons.dataset import Dataset
from dpa.horizons.families.protocol import BARRIER_TARGET, Family, family_class
from dpa.horizons.plugins import load_plugins
from dpa.horizons.recipe import Recipe
from dpa.horizons.types import Forecast, Rows, RowSchema, Singles
from dpa.runs import stable_hash
from dpa.validation.purge import holdout
from dpa.validation.splits import Fold

FINAL = "final"  # the fold whose models go into the bundle; it has no test window
SUMMARY, FORECAST = "summary.json", "forecast.safetensors"
_LEAST_ROWS = 100
_PREDICT_ROWS = 100_000  # at a time


@dataclass(frozen=True)
class Task:
    """One fit.

    Parameters
    ----------
    fold : str
        Number of the fold, or ``final``.
    family : str
        Name of the family.
    target : str, optional
        Horizon label or ``barriers`` for a family that splits by target; none: all at once.
    """

    fold: str
    family: str
    target: str | None = None

    @property
    def key(self) -> str:
        """Folder of the task below the run's ``tasks/``: ``003/gbdt/5m``."""
        return f"{self.fold}/{self.family}/{self.target or 'all'}"

    @property
    def label(self) -> str:
        """For people."""
        where = "final" if self.fold == FINAL else f"fold {int(self.fold)}"
        return f"{self.family} {self.target or ''}".strip() + f", {where}"


@dataclass(frozen=True)
class TaskSummary:
    """What came of a task; ``summary.json``.

    Parameters
    ----------
    seconds, cpu_seconds : float
        Wall time and processor time.
    peak_mib : float
        Peak memory of the process, MiB.
    n_fit, n_validation, n_test : int
        Rows.
    fingerprint : str
        Of the fitted model.
    curves, notes, importance
        See :class:`~dpa.horizons.families.protocol.FitLog`.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    n_fit: int
    n_validation: int
    n_test: int
    fingerprint: str
    curves: dict[str, list[float]]
    notes: dict[str, float]
    importance: dict[str, float]


def plan_tasks(n_folds: int, families: Sequence[str], labels: Sequence[str]) -> list[Task]:
    """Every task of a run, folds in time order and the final fit last.

    Parameters
    ----------
    n_folds : int
    families : sequence of str
    labels : sequence of str
        Of the horizons.
    """
    tasks = []
    for fold in [*(f"{number:03d}" for number in range(n_folds)), FINAL]:
        for name in families:
            family = family_class(name)
            targets: list[str | None] = [None]
            if family.splits_by_target:
                targets = [*labels, *([BARRIER_TARGET] if family.has_barriers else [])]
            tasks += [Task(fold, name, target) for target in targets]
    return tasks


def task_seed(task: Task, root: int) -> int:
    """Seed of a task: a function of the root seed and the family, the same in every fold."""
    return int(stable_hash([task.family, task.target, root])[:8], 16) % 2**31


def run_task(task: Task, folds: Sequence[Fold], dataset: Dataset, recipe: Recipe, to: Path) -> None:
    """Fit one task and write its folder; nothing happens when it is there already.

    Parameters
    ----------
    task : Task
    folds : sequence of Fold
        Of the run; the final fit trains on the window that ends with the history.
    dataset : Dataset
    recipe : Recipe
    to : Path
        The run's ``tasks/``.

    Raises
    ------
    DataError
        When a training window has too few usable rows.
    """
    folder = to / task.key
    if (folder / SUMMARY).is_file():
        return
    load_plugins(recipe.settings.horizons.plugins)
    began, cpu = time.perf_counter(), time.process_time()
    settings, schema = recipe.settings.horizons, recipe.schema()
    fold = final_fold(folds, dataset) if task.fold == FINAL else folds[int(task.fold)]
    fit_stop, validation_start = holdout(
        fold.train_start, fold.train_stop, settings.holdout, recipe.purge
    )
    fit = clipped(dataset.rows(fold.train_start, fit_stop), settings.target_clip)
    validation = clipped(dataset.rows(validation_start, fold.train_stop), settings.target_clip)
    seed = task_seed(task, settings.horizon_seed)
    if len(fit) < _LEAST_ROWS:
        raise DataError(
            f"{task.label}: {len(fit)} usable rows in the training window",
            "give more history, or lengthen horizons.train_sessions",
        )
    family = family_class(task.family)(schema, recipe.settings.families)
    log = family.fit(fit, validation, seed, None if task.target is None else (task.target,))
    counts = len(fit), len(validation)
    del fit, validation
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to, prefix=".task.") as scratch:
        fresh = Path(scratch, "task")
        family.save(fresh / "model")
        tested = 0
        if task.fold != FINAL:
            tested = write_forecast(fresh, family, dataset, fold, schema)
        summary = TaskSummary(
            time.perf_counter() - began,
            time.process_time() - cpu,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            *counts,
            tested,
            family.fingerprint(),
            {name: list(map(float, values)) for name, values in log.curves.items()},
            {name: float(value) for name, value in log.notes.items()},
            {name: float(value) for name, value in family.importance().items()},
        )
        (fresh / SUMMARY).write_text(json.dumps(asdict(summary), indent=1) + "\n", "utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)


def final_fold(folds: Sequence[Fold], dataset: Dataset) -> Fold:
    """The training window that ends with the history, as long as the others."""
    last = folds[-1]
    length = last.test_start - last.train_start
    n_bars = dataset.n_bars
    return Fold(len(folds), n_bars - length, n_bars, n_bars, n_bars, False)


def clipped(rows: Rows, limit: float) -> Rows:
    """Rows with scaled returns cut to ``+- limit``."""
    targets = np.clip(rows.targets, -limit, limit)
    return Rows(rows.features, targets, rows.barriers, rows.bar, rows.asset)


def write_forecast(
    folder: Path, family: Family, dataset: Dataset, fold: Fold, schema: RowSchema
) -> int:
    """Forecast the test window of a fold; the number of rows forecast.

    The file holds ``returns`` (n_bars, n_assets, n_horizons) and, where the family has barrier
    heads, ``barriers`` (n_bars, n_assets, 2), both float32, NaN where nothing is said.
    """
    arrays: dict[str, Singles] = {}
    tested = 0
    for block in dataset.blocks(fold.test_start, fold.test_stop, ("features", "usable")):
        first = int(block["start"])
        low, high = max(fold.test_start - first, 0), fold.test_stop - first
        usable: Any = block["usable"][low:high]
        features: Any = block["features"][low:high]
        bar, asset = np.nonzero(usable)
        said = predict_rows(family, features[bar, asset])
        place = bar + first + low - fold.test_start
        for name, values in (("returns", said.returns), ("barriers", said.barriers)):
            if values is None:
                continue
            shape = (fold.test_stop - fold.test_start, usable.shape[1], values.shape[1])
            dense = arrays.setdefault(name, np.full(shape, np.nan, np.float32))
            dense[place, asset] = values
        tested += len(bar)
    if not arrays:
        shape = (fold.test_stop - fold.test_start, 1, len(schema.horizons))
        arrays["returns"] = np.full(shape, np.nan, np.float32)
    save_file(arrays, folder / FORECAST)
    return tested


def predict_rows(family: Family, features: Singles) -> Forecast:
    """:meth:`Family.predict` a hundred thousand rows at a time."""
    if len(features) <= _PREDICT_ROWS:
        return family.predict(features)
    parts = [
        family.predict(features[start : start + _PREDICT_ROWS])
        for start in range(0, len(features), _PREDICT_ROWS)
    ]
    barriers = [part.barriers for part in parts if part.barriers is not None]
    returns = np.concatenate([part.returns for part in parts])
    return Forecast(returns, np.concatenate(barriers) if barriers else None)


def read_summary(folder: Path) -> TaskSummary | None:
    """The summary of a finished task; none when it is not finished."""
    try:
        return TaskSummary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as e:
        raise RunError(f"{folder / SUMMARY}: cannot be read", "delete its folder, resume") from e


def read_forecast(tasks: Path, fold: str, family: str, schema: RowSchema) -> Forecast:
    """What a family said about the test window of a fold, its targets put together.

    Returns
    -------
    Forecast
        ``returns`` (n_bars, n_assets, n_horizons), ``barriers`` (n_bars, n_assets, 2) or none.

    Raises
    ------
    RunError
        When a file is missing or damaged.
    """
    folder = tasks / fold / family
    returns: NDArray[np.float64] | None = None
    barriers: NDArray[np.float64] | None = None
    for target in sorted(path.name for path in folder.glob("*/")):
        path = folder / target / FORECAST
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as e:
            raise RunError(f"{path}: cannot be read ({e})", "delete its folder, resume") from e
        said = arrays["returns"].astype(np.float64)
        if returns is None:
            returns = np.full(said.shape, np.nan)
        mine = slice(None) if target == "all" else _place(target, schema)
        if mine is not None:
            returns[:, :, mine] = said[:, :, mine]
        if "barriers" in arrays and target in ("all", BARRIER_TARGET):
            barriers = arrays["barriers"].astype(np.float64)
    if returns is None:
        raise RunError(f"{folder}: holds no forecast", "resume the run")
    return Forecast(returns, barriers)


def _place(target: str, schema: RowSchema) -> int | None:
    return schema.labels.index(target) if target in schema.labels else None


def load_final(tasks: Path, name: str, recipe: Recipe, into: Path) -> Family:
    """Put the final models of a family together in one folder, and read them from there."""
    for part in sorted(path for path in (tasks / FINAL / name).iterdir() if path.is_dir()):
        shutil.copytree(part / "model", into, dirs_exist_ok=True)
    return family_class(name).load(into, recipe.schema(), recipe.settings.families)
