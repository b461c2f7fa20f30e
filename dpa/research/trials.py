"""One trial of a run on disk: started or resumed by the same call, saved after every fold."""

import json
import random
import shutil
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpa.market.panel import BarSource
from dpa.research.baselines import run_baseline
from dpa.research.grid import Trial
from dpa.research.rolling import FOLDS, FoldReport, RollingTrainer
from dpa.runs import write_atomically

SUMMARY = "summary.json"  # written last: a trial that has it is finished
ERROR = "error.txt"
STATE = "state"


class TrialRun:
    """A rolling trainer bound to the trial's directory.

    Whatever ended an earlier attempt, a new one loads the newest whole state and goes on at the
    fold after it; the folds are deterministic, so the result is that of an undisturbed trial.

    Parameters
    ----------
    trial : Trial
        Parameters, settings and folds.
    source : BarSource
        The history.
    folder : Path
        The trial's directory; made when missing.
    last_bar : int ndarray (n_assets,)
        Bar number of each name's last price in the whole history.
    device : str
        torch device of the model.
    """

    def __init__(
        self,
        trial: Trial,
        source: BarSource,
        folder: Path,
        last_bar: NDArray[np.int64],
        device: str = "cpu",
    ) -> None:
        reset_process(trial.settings.training.seed)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "params.json", parameters_json(trial))
        (folder / ERROR).unlink(missing_ok=True)
        self.trainer = RollingTrainer(
            trial.settings, source, trial.folds, folder, last_bar, device=device
        )
        newest = newest_state(folder / STATE)
        if newest is not None:
            self.trainer.load(newest)

    @property
    def done(self) -> bool:
        """Whether the trial is finished and summed up."""
        return (self.folder / SUMMARY).is_file()

    @property
    def folds_done(self) -> int:
        """Folds trained, traded and saved."""
        return self.trainer.n_folds if self.done else self.trainer.folds_done

    def advance(self) -> FoldReport | None:
        """Do the next fold and save; after the last one write the summary.

        Returns
        -------
        FoldReport or None
            The fold's report; None when no fold was left to do.
        """
        if self.done:
            return None
        trainer = self.trainer
        report = None if trainer.done else trainer.step()
        save_state(trainer, self.folder / STATE)
        if trainer.done:
            summary = json.dumps(trainer.finish(), default=float)
            write_atomically(self.folder / SUMMARY, summary + "\n")
            for spent in (self.folder / STATE, self.folder / FOLDS):
                shutil.rmtree(spent)
        return report


def reset_process(seed: int) -> None:
    """One thread, and every global generator as in a fresh process started with `seed`."""
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


def save_state(trainer: RollingTrainer, folder: Path) -> None:
    """Save the trainer: written aside, renamed when whole, older states dropped after that."""
    name = f"{trainer.folds_done:05d}"
    staging = folder / f".{name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    trainer.save(staging)
    shutil.rmtree(folder / name, ignore_errors=True)
    staging.rename(folder / name)
    for other in folder.iterdir():
        if other.name != name:
            shutil.rmtree(other)


def newest_state(folder: Path) -> Path | None:
    """The newest whole state under `folder`, if there is one."""
    whole = list(folder.glob("[0-9]*")) if folder.is_dir() else []
    return max(whole, default=None, key=lambda path: path.name)


def record_failure(folder: Path, error: BaseException) -> None:
    """error.txt: the traceback, whose last line is the error itself."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ERROR, "".join(traceback.format_exception(error)))


def numbers(report: FoldReport | None) -> dict[str, Any]:
    """The numeric fields of a fold report, for curves and gauges."""
    fields = asdict(report) if report is not None else {}
    return {key: value for key, value in fields.items() if isinstance(value, (int, float))}


def finish_baseline(
    name: str, trial: Trial, source: BarSource, folder: Path, last_bar: NDArray[np.int64]
) -> None:
    """Run one baseline over the folds and with the settings of `trial`, unless it is done."""
    if (folder / SUMMARY).is_file():
        return
    reset_process(trial.settings.training.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    summary = run_baseline(name, trial.settings, source, trial.folds, folder, last_bar)
    write_atomically(folder / SUMMARY, json.dumps(summary, default=float) + "\n")
    shutil.rmtree(folder / FOLDS, ignore_errors=True)
