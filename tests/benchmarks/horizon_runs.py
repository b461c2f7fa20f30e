"""Runs of predictors in this process, without Ray, step by step, for the benchmarks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dpa.clock import FixedClock
from dpa.config import load_settings
from dpa.horizons.dataset import Dataset, make_block, write_block
from dpa.horizons.recipe import Recipe
from dpa.horizons.training import Task, run_task
from dpa.research.history import open_history
from dpa.research.horizon_closing import close_horizons
from dpa.research.horizon_plan import (
    HorizonPlan,
    dataset_folder,
    plan_horizons,
    prepare_cluster,
    run_directory,
)
from dpa.runs import RunDirectory, list_runs

CLOCK = FixedClock(datetime(2026, 1, 2, tzinfo=UTC))


@dataclass(frozen=True)
class Run:
    """A run of predictors over shards, as far as it has come."""

    plan: HorizonPlan
    run: RunDirectory
    recipe: Recipe
    storage: Path

    @classmethod
    def begin(cls, shards: Path, storage: Path, sections: Mapping[str, Any]) -> "Run":
        """Plan the run in `storage`, or go on with it, and train its cluster model, if any."""
        settings = load_settings(None, {"data": {"path": str(shards)}, **sections}, {})
        begun = list_runs(storage) if storage.is_dir() else []
        resumed = begun[0] if begun else None
        plan = plan_horizons(settings, open_history(settings.data), storage, resumed)
        run = run_directory(plan, 0, storage, CLOCK)
        return cls(plan, run, plan.recipe(prepare_cluster(plan, run)), storage)

    @property
    def features(self) -> Path:
        """Where the blocks of features lie."""
        return dataset_folder(self.plan, self.recipe, self.storage)

    def make_features(self) -> Dataset:
        """Every block, one after another."""
        self.features.mkdir(parents=True, exist_ok=True)
        for span in self.plan.spans():
            write_block(self.features, make_block(self.plan.source, self.recipe, span), span)
        return Dataset.finish(self.features, self.plan.spans())

    def tasks(self) -> Iterator[Task]:
        """Every fit of the run."""
        yield from self.plan.tasks(self.recipe)

    def fit(self, task: Task, dataset: Dataset) -> None:
        """One of them."""
        run_task(task, self.plan.folds, dataset, self.recipe, self.run.tasks)

    def close(self, dataset: Dataset) -> str:
        """Tables, checks, stacker, bundle and report; what it tells the user."""
        return close_horizons(self.run, self.plan, self.recipe, dataset, self.storage, False, CLOCK)
