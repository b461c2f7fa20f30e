"""A trial of the grid as a Ray Tune trainable, and a baseline as a Ray task."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import PlacementGroupFactory

from dpa.clock import SystemClock
from dpa.errors import TransientError
from dpa.market.panel import BarSource
from dpa.research.grid import Trial
from dpa.research.trials import ERROR, TrialRun, finish_baseline, numbers, record_failure
from dpa.runs import RunDirectory
from dpa.stores.mirror import Mirror
from dpa.telemetry import catalogue
from dpa.telemetry.ids import about
from dpa.telemetry.logs import log_to_files
from dpa.telemetry.meters import NO_METERS, Meters

log = logging.getLogger("dpa.trials")
# a lost node or a slow disk; anything else would only happen again
WORTH_RETRYING = (OSError, RayError, TransientError)


@dataclass(frozen=True)
class Work:
    """What every trial of a run needs; put into the object store once."""

    run: RunDirectory
    source: BarSource
    last_bar: np.ndarray
    trials: Mapping[str, Trial]
    meters: Meters = NO_METERS


class RollingTrial(tune.Trainable):
    """One grid point, one fold a step; shown in the dashboard by its parameters."""

    def setup(self, config: dict[str, Any], work: Work) -> None:
        """Remember which trial this is; the first step starts it, so that its errors are rows."""
        self._work = work
        self._begin(config)
        log_to_files(self._trial.settings.logging, work.run.path.parent, "trial")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial = self._work.trials[config["point"]["trial_id"]]
        self._device = "cuda" if config.get("gpus_per_trial") else "cpu"
        self._running: TrialRun | None = None
        self._kept = self._mirror()
        self._meters = self._work.meters
        self._tags = {"run": self._work.run.path.name, "trial": self._trial.label}

    def _mirror(self) -> Mirror:
        """The trial's folder; of a run in a store in Ray's scratch space on this node."""
        run, name = self._work.run, f"trials/{self._trial.trial_id}"
        return run.mirror(name, None if run.store is None else Path(self.logdir, "scratch", name))

    def __repr__(self) -> str:
        return f"RollingTrainer | {self._trial.label}"

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """One core, and a share of a GPU where there is one."""
        share = config.get("gpus_per_trial", 0.0)
        return PlacementGroupFactory([{"CPU": 1.0} | ({"GPU": share} if share else {})])

    def step(self) -> dict[str, Any]:
        """Train and test one fold; an error of the trial itself ends it and becomes its row."""
        with about(run_id=self._work.run.path.name, trial=self._trial.trial_id):
            return self._step()

    def _step(self) -> dict[str, Any]:
        try:
            return self._advance()
        except WORTH_RETRYING:
            raise  # Tune starts the trial again, and it goes on at the fold it lost
        except Exception as error:  # the edge of the process: the traceback goes to error.txt
            record_failure(self._kept.folder, error)
            log.error("the trial failed: %s", error)
            self._kept.push([ERROR])
            self._meters.count(catalogue.TRIALS_ENDED, outcome="failed")
            return {"done": True, "status": "failed"}

    def _advance(self) -> dict[str, Any]:
        if self._running is None:
            self._kept.pull()
            self._running = TrialRun(
                self._trial, self._work.source, self._kept.folder, self._work.last_bar, self._device
            )
            if self._running.folds_done:
                self._meters.count(catalogue.TRIAL_RESTARTS)
        clock = SystemClock()
        begun = clock.elapsed()
        measures = numbers(self._running.advance())
        folds_done, done = self._running.folds_done, self._running.done
        self._kept.push()  # before it is reported: what is reported is kept
        log.info("%d of %d folds done", folds_done, len(self._trial.folds))
        self._meters.observe(catalogue.FOLD_SECONDS, clock.elapsed() - begun)
        self._meters.gauge(catalogue.TRIAL_FOLDS_DONE, folds_done, **self._tags)
        sharpe = measures.get("net_sharpe_so_far")
        self._meters.gauge(catalogue.TRIAL_NET_SHARPE, sharpe, **self._tags)
        if done:
            self._kept.discard()
            self._meters.count(catalogue.TRIALS_ENDED, outcome="done")
        return measures | {
            "done": done,
            "status": "done" if done else "running",
            "folds_done": folds_done,
            "timesteps_total": folds_done,  # the axis of the curves, resumed or not
        }


@ray.remote(num_cpus=1, max_retries=2)
def baseline_task(name: str, work: Work, trial: Trial) -> str | None:
    """Run one baseline beside the trials; None, or the error that became its row."""
    with tempfile.TemporaryDirectory(prefix="dpa-baseline.") as scratch:
        kept = work.run.mirror(f"baselines/{name}", Path(scratch, name))
        try:
            log_to_files(trial.settings.logging, work.run.path.parent, "baseline")
            with about(run_id=work.run.path.name, trial=name):
                finish_baseline(name, trial, work.source, kept.folder, work.last_bar)
                log.info("the baseline is done")
            kept.push()
        except WORTH_RETRYING:
            raise
        except Exception as error:  # the edge of the process, as for a trial
            record_failure(kept.folder, error)
            kept.push([ERROR])
            return str(error)
    return None
