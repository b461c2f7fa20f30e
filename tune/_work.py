"""Runs what a run still lacks: trials by Ray Tune, the baselines as Ray tasks beside them."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _trial
import ray
from _meters import ray_meters
from _progress import Board, ProgressCallback, showing
from _trial import RollingTrial, Work, baseline_task
from ray import tune
from ray.exceptions import RayError
from rich.console import Console

from dpa.clock import Clock
from dpa.errors import RunError
from dpa.market.shards import ShardStoreSource, start_shard_store
from dpa.research.grid import Trial, central_trial
from dpa.research.history import History
from dpa.research.trials import ERROR, SUMMARY, record_failure
from dpa.runs import RunDirectory
from dpa.telemetry.meters import NO_METERS, Meters

DEATHS_FORGIVEN = 3  # times the process of one trial may die before the trial is given up


def work_through(
    run: RunDirectory,
    history: History,
    trials: Sequence[Trial],
    console: Console,
    clock: Clock,
    gpus: float,
    reuse_actors: bool,
) -> None:
    """Run every trial and baseline of `run` that is not finished.

    Parameters
    ----------
    run : RunDirectory
        Held by the caller.
    history : History
        Its shards are streamed once, for all trials.
    trials : sequence of Trial
        The whole grid; finished ones are only counted.
    console, clock
        Where progress is shown, and what measures the time left.
    gpus : float
        Share of a GPU for each trial.
    reuse_actors : bool
        Run many trials in one process.
    """
    ray.cloudpickle.register_pickle_by_value(_trial)  # workers elsewhere do not have tune/
    ended = {t.trial_id: "done" for t in trials if (run.trial(t.trial_id) / SUMMARY).is_file()}
    missing = [trial for trial in trials if trial.trial_id not in ended]
    waiting = [
        name
        for name in run.read_manifest().baselines
        if not (run.baseline(name) / SUMMARY).is_file()
    ]
    if not (missing or waiting):
        return
    meters = ray_meters()
    source = open_source(history, meters)
    work = Work(run, source, history.last_bar, {t.trial_id: t for t in trials}, meters)
    central, shared = central_trial(trials), ray.put(work)
    answers = {name: baseline_task.remote(name, shared, central) for name in waiting}
    board = Board(
        {t.trial_id: t.label for t in trials}, {t.trial_id: len(t.folds) for t in trials}, clock
    )
    board.restore(ended)
    if missing:
        with showing(board, console) as callback:
            record_lost(run, fit(work, missing, callback, gpus, reuse_actors))
    await_baselines(run, answers, console)


def open_source(history: History, meters: Meters = NO_METERS) -> ShardStoreSource:
    """The shards of `history`, read once by one actor for all trials and baselines."""
    if history.selection is None:
        raise RunError(f"{history.origin}: there are no shards", "write them first")
    store = start_shard_store(history.selection, meters=meters)
    return ShardStoreSource(store, history.selection)


def fit(
    work: Work,
    trials: Sequence[Trial],
    callback: ProgressCallback,
    gpus: float,
    reuse_actors: bool,
) -> tune.ResultGrid:
    """Run `trials` with Ray Tune until each has ended, one way or another."""
    quieten()
    points = [{"trial_id": t.trial_id, **t.parameters} for t in trials]
    trainable = tune.with_parameters(RollingTrial, work=work)
    trainable.__name__ = trainable.__qualname__ = RollingTrial.__name__  # for the dashboard
    tuner = tune.Tuner(
        trainable,
        param_space={"point": tune.grid_search(points), "gpus_per_trial": gpus},
        tune_config=tune.TuneConfig(
            reuse_actors=reuse_actors,
            trial_dirname_creator=lambda trial: trial.config["point"]["trial_id"],
        ),
        run_config=tune.RunConfig(
            **tune_storage(work.run),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # see TrialRun
            failure_config=tune.FailureConfig(max_failures=DEATHS_FORGIVEN),
            callbacks=[callback],
            verbose=0,
        ),
    )
    return tuner.fit()


def tune_storage(run: RunDirectory) -> dict[str, Any]:
    """Where Tune keeps its own files, the curves among them; a folder for each session of a run."""
    if run.store is None:
        run.tune.mkdir(exist_ok=True)
        earlier, where = sum(1 for _ in run.tune.iterdir()), {"storage_path": str(run.tune)}
    else:
        place = run.store.below(run.tune.name)
        earlier = len(run.store.folders(run.tune.name))
        where = {"storage_path": place.root, "storage_filesystem": place.files}
    return {"name": f"session-{1 + earlier:03d}", **where}


def quieten() -> None:
    """Leave Ctrl-C to this program, and the terminal to the progress display."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the old one is silent at verbose=0, the new one not
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def record_lost(run: RunDirectory, results: tune.ResultGrid) -> None:
    """Write the error of every trial that Tune gave up, so that it becomes a row."""
    if any(result.error is not None for result in results):
        run.refresh()
    for result in results:
        if result.error is not None:
            name = Path(result.path).name  # a trial that never reported has no config
            folder = run.trial(name)
            if not (folder / SUMMARY).is_file() and not (folder / ERROR).is_file():
                record_failure(folder, result.error)
                run.mirror(f"trials/{name}").push([ERROR])


def await_baselines(run: RunDirectory, answers: Mapping[str, Any], console: Console) -> None:
    """Wait for the baselines; one that fails is a row, and said."""
    for name, answer in answers.items():
        try:
            error = ray.get(answer)
        except RayError as lost:
            record_failure(run.baseline(name), lost)
            run.mirror(f"baselines/{name}").push([ERROR])
            error = str(lost).splitlines()[0]
        if error is not None:
            console.print(f"baseline {name} failed: {error}", soft_wrap=True, highlight=False)
