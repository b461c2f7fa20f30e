"""A trial of the grid as a Ray Tune trainable: one rolling trainer, resumed from its own files.

Starting and recovering are the same path: a trial looks for the newest state in its directory
and goes on from there, whoever or whatever ended it.
"""

import json
import random
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from dpa.research.baselines import run_baseline
from ray import tune
from ray.exceptions import RayError
from ray.tune import PlacementGroupFactory
from ray.util.metrics import Gauge

from dpa.config import Settings
from dpa.market.panel import BarSource
from dpa.research.grid import Trial
from dpa.research.rolling import RollingTrainer
from dpa.runs import RunDirectory, write_atomically

SUMMARY = "summary.json"
ERROR = "error.txt"
STATE = "state"
WORTH_RETRYING = (OSError, RayError)  # a lost node or a slow disk; everything else would repeat


@dataclass(frozen=True)
class Work:
    """What every trial of a run needs; put into the object store once."""

    run: RunDirectory
    source: BarSource
    last_bar: np.ndarray
    trials: Mapping[str, Trial]


class RollingTrial(tune.Trainable):
    """One grid point, one fold a step; shown in the dashboard by its parameters."""

    def setup(self, config: dict[str, Any], work: Work) -> None:
        """Remember which trial this is; the first step starts it, so that its errors are rows."""
        self._work = work
        self._begin(config["trial_id"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process."""
        self._begin(new_config["trial_id"])
        return True

    def _begin(self, trial_id: str) -> None:
        self._device = "cuda" if self.config.get("gpus_per_trial") else "cpu"
        self._trial = self._work.trials[trial_id]
        self._folder = self._work.run.trial(trial_id)
        self._trainer: RollingTrainer | None = None
        self._gauges = trial_gauges(self._work.run.path.name, self._trial.label)

    def __repr__(self) -> str:
        return f"RollingTrainer | {self._trial.label}"

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """One core, and the share of a GPU that the driver found."""
        share = config.get("gpus_per_trial", 0.0)
        return PlacementGroupFactory([{"CPU": 1.0} | ({"GPU": share} if share else {})])

    def step(self) -> dict[str, Any]:
        """Train and test one fold, save the state; the last fold also writes the summary."""
        try:
            return self._advance()
        except WORTH_RETRYING:
            raise
        except Exception as error:  # the edge of the process: the trial becomes a row
            record_failure(self._folder, error)
            return {"done": True, "status": "failed", "trial": self._trial.trial_id}

    def _advance(self) -> dict[str, Any]:
        if self._trainer is None:
            self._trainer = self._start()
        trainer = self._trainer
        report = {} if trainer.done else scalars(asdict(trainer.step()))
        if trainer.done:
            summary = trainer.finish()
            write_atomically(self._folder / SUMMARY, json.dumps(summary, default=float) + "\n")
            shutil.rmtree(self._folder / STATE, ignore_errors=True)
        else:
            save_state(trainer, self._folder / STATE)
        self._gauges["folds"].set(trainer.folds_done)
        self._gauges["sharpe"].set(report.get("net_sharpe_so_far", float("nan")))
        return report | {
            "done": trainer.done,
            "status": "done" if trainer.done else "running",
            "trial": self._trial.trial_id,
            "folds_done": trainer.folds_done,
            "timesteps_total": trainer.folds_done,
        }

    def _start(self) -> RollingTrainer:
        settings = self._trial.settings
        reset_process(settings.training.seed)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / "params.json", parameters_json(self._trial))
        (self._folder / ERROR).unlink(missing_ok=True)
        trainer = RollingTrainer(
            settings,
            self._work.source,
            self._trial.folds,
            self._folder,
            self._work.last_bar,
            device=self._device,
        )
        newest = newest_state(self._folder / STATE)
        if newest is not None:
            trainer.load(newest)
        return trainer


def reset_process(seed: int) -> None:
    """One thread, and every global generator as in a fresh process."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def parameters_json(trial: Trial) -> str:
    """params.json of a trial: its parameters and all its settings."""
    content = {
        "trial_id": trial.trial_id,
        "parameters": dict(trial.parameters),
        "settings": trial.settings.model_dump(mode="json"),
    }
    return json.dumps(content, indent=2) + "\n"


def scalars(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a fold report, as TensorBoard takes them."""
    return {
        key: float(value)
        for key, value in report.items()
        if isinstance(value, (bool, int, float)) and value is not None
    }


def save_state(trainer: RollingTrainer, folder: Path) -> None:
    """Save after a fold: written aside, renamed when whole, the older states dropped after."""
    name = f"{trainer.folds_done:05d}"
    staging = folder / f".{name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    trainer.save(staging)
    shutil.rmtree(folder / name, ignore_errors=True)
    staging.rename(folder / name)
    for older in folder.iterdir():
        if older.name < name:
            shutil.rmtree(older)


def newest_state(folder: Path) -> Path | None:
    """The newest whole state, if there is one."""
    whole = list(folder.glob("[0-9]*")) if folder.is_dir() else []
    return max(whole, default=None, key=lambda path: path.name)


def record_failure(folder: Path, error: BaseException) -> None:
    """error.txt: the traceback, its last line being the error itself."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(traceback.format_exception(error))
    write_atomically(folder / ERROR, text)


def trial_gauges(run: str, trial: str) -> dict[str, Gauge]:
    """Gauges of one trial, on Ray's metrics page as ray_dpa_trial_*."""
    keys = ("run", "trial")
    gauges = {
        "folds": Gauge("dpa_trial_folds_done", "Folds trained and tested.", keys),
        "sharpe": Gauge("dpa_trial_net_sharpe", "Running out-of-sample net Sharpe.", keys),
    }
    for gauge in gauges.values():
        gauge.set_default_tags({"run": run, "trial": trial})
    return gauges


@ray.remote(num_cpus=1, max_retries=2)
def baseline_task(name: str, work: Work, settings: Settings, folds: list[Any]) -> str | None:
    """Run one baseline over the folds; None, or the error that became its row."""
    folder = work.run.baseline(name)
    try:
        reset_process(settings.training.seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).unlink(missing_ok=True)
        summary = run_baseline(name, settings, work.source, folds, folder)
        write_atomically(folder / SUMMARY, json.dumps(summary, default=float) + "\n")
    except WORTH_RETRYING:
        raise
    except Exception as error:  # the edge of the process, as for a trial
        record_failure(folder, error)
        return str(error)
    return None
