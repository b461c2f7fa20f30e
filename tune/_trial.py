"""A trial of the grid as a Ray Tune trainable, and a baseline as a Ray task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import PlacementGroupFactory
from ray.util.metrics import Gauge

from dpa.errors import TransientError
from dpa.market.panel import BarSource
from dpa.research.grid import Trial
from dpa.research.trials import TrialRun, finish_baseline, numbers, record_failure
from dpa.runs import RunDirectory

# a lost node or a slow disk; anything else would only happen again
WORTH_RETRYING = (OSError, RayError, TransientError)


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
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial = self._work.trials[config["point"]["trial_id"]]
        self._device = "cuda" if config.get("gpus_per_trial") else "cpu"
        self._running: TrialRun | None = None
        self._gauges = trial_gauges(self._work.run.path.name, self._trial.label)

    def __repr__(self) -> str:
        return f"RollingTrainer | {self._trial.label}"

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """One core, and a share of a GPU where there is one."""
        share = config.get("gpus_per_trial", 0.0)
        return PlacementGroupFactory([{"CPU": 1.0} | ({"GPU": share} if share else {})])

    def step(self) -> dict[str, Any]:
        """Train and test one fold; an error of the trial itself ends it and becomes its row."""
        try:
            return self._advance()
        except WORTH_RETRYING:
            raise  # Tune starts the trial again, and it goes on at the fold it lost
        except Exception as error:  # the edge of the process: the traceback goes to error.txt
            record_failure(self._work.run.trial(self._trial.trial_id), error)
            return {"done": True, "status": "failed"}

    def _advance(self) -> dict[str, Any]:
        if self._running is None:
            folder = self._work.run.trial(self._trial.trial_id)
            self._running = TrialRun(
                self._trial, self._work.source, folder, self._work.last_bar, self._device
            )
        measures = numbers(self._running.advance())
        folds_done = self._running.folds_done
        self._gauges["folds"].set(folds_done)
        if "net_sharpe_so_far" in measures:
            self._gauges["sharpe"].set(measures["net_sharpe_so_far"])
        return measures | {
            "done": self._running.done,
            "status": "done" if self._running.done else "running",
            "folds_done": folds_done,
            "timesteps_total": folds_done,  # the axis of the curves, resumed or not
        }


def trial_gauges(run: str, trial: str) -> dict[str, Gauge]:
    """Gauges of one trial, on Ray's metrics page as ray_dpa_trial_folds_done and so on."""
    keys = ("run", "trial")
    gauges = {
        "folds": Gauge("dpa_trial_folds_done", "Folds trained and tested.", keys),
        "sharpe": Gauge("dpa_trial_net_sharpe", "Running out-of-sample net Sharpe ratio.", keys),
    }
    for gauge in gauges.values():
        gauge.set_default_tags({"run": run, "trial": trial})
    return gauges


@ray.remote(num_cpus=1, max_retries=2)
def baseline_task(name: str, work: Work, trial: Trial) -> str | None:
    """Run one baseline beside the trials; None, or the error that became its row."""
    folder = work.run.baseline(name)
    try:
        finish_baseline(name, trial, work.source, folder, work.last_bar)
    except WORTH_RETRYING:
        raise
    except Exception as error:  # the edge of the process, as for a trial
        record_failure(folder, error)
        return str(error)
    return None
