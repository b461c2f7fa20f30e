"""What a run will do, checked whole before anything is written: new, or the rest of an old one."""

from dataclasses import dataclass, replace
from pathlib import Path

from dpa.clock import Clock
from dpa.config import Settings
from dpa.market.sample import SAMPLE
from dpa.research.baselines import BASELINES
from dpa.research.grid import Grid, Trial, central_trial, grid_points, plan_trials
from dpa.research.history import (
    History,
    ensure_shards,
    located,
    open_history,
    reopen_history,
)
from dpa.runs import (
    DataDescription,
    RunDirectory,
    check_storage,
    check_unchanged,
    find_run,
    new_manifest,
)
from dpa.stores.mirror import Mirror
from dpa.stores.places import Storage

SHARDS = ".cache/shards"  # below the storage of runs
SAMPLE_START = "2014-01-01"  # eight of its 33 years: minutes, not an hour, for a first grid


@dataclass(frozen=True)
class Plan:
    """A run, checked.

    Parameters
    ----------
    grid : Grid
        Settings and axes.
    history : History
        What is read.
    trials : tuple of Trial
        Every point of the grid.
    resumed : RunDirectory, optional
        The run to finish; none: a new one.
    """

    grid: Grid
    history: History
    trials: tuple[Trial, ...]
    resumed: RunDirectory | None = None

    @property
    def central(self) -> Trial:
        """The point whose settings the baselines take."""
        return central_trial(self.trials)


def plan_new(grid: Grid, storage: Path | Storage) -> Plan:
    """A new run of `grid` under `storage`; reads the data, writes nothing.

    The sample is read from 2014 on unless ``data.start`` says otherwise.

    Raises
    ------
    UserError
        Whatever is wrong with settings, storage or data.
    """
    grid = replace(grid, settings=located(_recent_sample(grid.settings)))
    grid_points(grid)  # contradictions are told before the data is read
    check_storage(storage)
    history = open_history(grid.settings.data)
    return Plan(grid, history, tuple(plan_trials(grid, history.n_bars)))


def _recent_sample(settings: Settings) -> Settings:
    data = settings.data
    if data.path not in (None, SAMPLE) or data.start is not None:
        return settings
    return settings.model_copy(update={"data": data.model_copy(update={"start": SAMPLE_START})})


def plan_resumed(reference: str, storage: Path | Storage, accept_changed_code: bool) -> Plan:
    """The rest of the run that `reference` names.

    Raises
    ------
    RunError
        When there is no such run, or the program or the data changed since it began.
    """
    run = find_run(reference, storage)
    manifest = run.read_manifest()
    if not accept_changed_code:
        check_unchanged(manifest)
    if run.store is None:
        check_storage(run.path)
    else:
        run.store.check()
    grid = Grid(manifest.settings, manifest.axes)
    history = reopen_history(manifest.settings.data, shards_here(run, manifest.data))
    return Plan(grid, history, tuple(plan_trials(grid, history.n_bars)), run)


def shards_here(run: RunDirectory, data: DataDescription) -> DataDescription:
    """What a run read; the shards it made itself are got from its store, if it has one."""
    if run.store is None or not data.shards:
        return data
    name = f"{SHARDS}/{Path(data.shards).name}"
    kept = Mirror(run.path.parent / name, run.store.parent.below(name))
    if not kept.pull():
        return data
    return data.model_copy(update={"shards": str(kept.folder)})


def shards_kept(history: History, storage: Storage) -> History:
    """`history` as shards, written once for all runs of a storage and kept in its store."""
    made = ensure_shards(history, storage.path / SHARDS)
    if storage.store is not None and made is not history and made.selection is not None:
        folder = Path(made.selection.manifest.directory)
        Mirror(folder, storage.store.below(f"{SHARDS}/{folder.name}")).push()
    return made


def directory_of(plan: Plan, storage: Path | Storage, clock: Clock) -> RunDirectory:
    """The directory of the run: the old one, or a new one with its manifest."""
    if plan.resumed is not None:
        return plan.resumed
    manifest = new_manifest(
        plan.grid.settings,
        plan.grid.axes,
        plan.history.describe(),
        plan.history.fold_records(plan.central.folds),
        len(plan.trials),
        tuple(BASELINES),
        clock,
    )
    return RunDirectory.create(storage, manifest)
