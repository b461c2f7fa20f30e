"""What a run of predictors will do, checked whole before anything is written."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dpa.clock import Clock
from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import read_model_manifest
from dpa.config import Settings
from dpa.errors import ConfigError, RunError
from dpa.horizons.clusters import ClusterReader
from dpa.horizons.dataset import BlockSpan, plan_blocks, session_of
from dpa.horizons.families.protocol import family_class
from dpa.horizons.feature_set import choose_features
from dpa.horizons.plugins import load_plugins
from dpa.horizons.recipe import Recipe, make_recipe, open_reader
from dpa.horizons.stacker import CrossHorizonStacker
from dpa.horizons.threads import one_thread
from dpa.horizons.training import Task, plan_tasks
from dpa.market.interval_specs import Horizon
from dpa.market.session_grid import GridSource
from dpa.research.history import History
from dpa.research.single import train_once
from dpa.runs import (
    RunDirectory,
    code_hash,
    find_run,
    library_versions,
    list_runs,
    new_manifest,
    stable_hash,
)
from dpa.validation.purge import session_folds
from dpa.validation.splits import Fold

TRAIN, ABSENT = "train", "absent"  # values of horizons.cluster beside a model
ROW_SETTINGS = (
    "horizons",
    "sigma_minutes",
    "coverage",
    "min_features",
    "target",
    "barrier_minutes",
    "barrier_width",
    "sessions_per_block",
)  # of section horizons: what decides rows
DATASETS = ".cache/features"  # below the storage of runs


@dataclass(frozen=True)
class HorizonPlan:
    """A run of predictors, checked.

    Parameters
    ----------
    settings : Settings
    history : History
        As shards.
    source : GridSource
        The history on its session grid; every bar number below counts its bars.
    folds : tuple of Fold
    families : tuple of str
    cluster : Path, optional
        Given model; none: it is trained, or absent, as the settings say.
    resumed : RunDirectory, optional
        The run to finish; none: a new one.
    """

    settings: Settings
    history: History
    source: GridSource
    folds: tuple[Fold, ...]
    families: tuple[str, ...]
    cluster: Path | None = None
    resumed: RunDirectory | None = None

    @property
    def times(self) -> pd.DatetimeIndex:
        """Closes of the bars of the grid, UTC."""
        return self.source.times()

    @property
    def trains_cluster(self) -> bool:
        """Whether a cluster model is to be trained on the first training window."""
        return self.settings.horizons.cluster == TRAIN

    def tasks(self, recipe: Recipe) -> list[Task]:
        """Every fit of the run."""
        labels = [horizon.label for horizon in recipe.horizons]
        return plan_tasks(len(self.folds), self.families, labels)

    def spans(self) -> list[BlockSpan]:
        """The blocks of features."""
        source = self.source
        session = session_of(self.times, source.interval, source.calendar)
        return plan_blocks(session, self.without_features().sessions_per_block)

    @property
    def horizons(self) -> tuple[Horizon, ...]:
        """The horizons forecast, shortest first."""
        return self.without_features().horizons

    def recipe(self, cluster: Path | None) -> Recipe:
        """What rows are made of, with the cluster model in `cluster`."""
        source = self.source
        extras = tuple(self.history.extras)
        names, interval, calendar = source.names, source.interval, source.calendar
        dates = _dates(source)
        return make_recipe(self.settings, names, interval, calendar, extras, cluster, dates)

    def without_features(self) -> Recipe:
        """The recipe as far as it is known before there is a cluster model."""
        source = self.source
        where = source.names, source.interval, source.calendar
        extras = tuple(self.history.extras)
        return Recipe(self.settings, *where, extras, (), None, _dates(source))

    def bars_identity(self) -> str:
        """Hash of the bars that are used: content, names, dates and the rules of the universe."""
        data = self.settings.data.model_dump(mode="json", exclude={"path", "dollar_volume_path"})
        source, times = self.source, self.times
        span = [times[0].isoformat(), times[-1].isoformat(), source.n_bars]
        named = [source.names, source.interval, source.calendar]
        return stable_hash([self.history.fingerprint, data, *named, *span])


def _dates(source: GridSource) -> tuple[str, str]:
    times = source.times()
    return times[0].date().isoformat(), times[-1].date().isoformat()


def plan_horizons(
    settings: Settings, history: History, storage: Path, resumed: RunDirectory | None = None
) -> HorizonPlan:
    """Check settings and data, and cut the history.

    Parameters
    ----------
    settings : Settings
    history : History
        As shards.
    storage : Path
        Of runs, where a cluster model may be named by its run.
    resumed : RunDirectory, optional

    Raises
    ------
    UserError
        Whatever is wrong, one line with its cure.
    """
    load_plugins(settings.horizons.plugins)
    for name in settings.horizons.families:
        family_class(name)
    if history.selection is None:
        raise RunError(f"{history.origin}: there are no shards", "write them first")
    source = GridSource(history.selection)
    families, given = settings.horizons.families, None
    if settings.horizons.cluster == ABSENT:
        families = tuple(name for name in families if name != "cluster")
        if not families:
            raise ConfigError(
                "horizons.families: cluster needs a cluster model", "leave out --cluster absent"
            )
    elif settings.horizons.cluster != TRAIN:
        given = _given_model(settings.horizons.cluster, storage)
        open_reader(given, source.interval)  # refuses one of other bars
        model = settings.model.model_validate(read_model_manifest(given)["config"])
        horizons = settings.horizons.model_copy(update={"cluster": str(given)})
        # its look-backs count, and a resumed run must find the same one
        settings = settings.model_copy(update={"model": model, "horizons": horizons})
    plan = HorizonPlan(settings, history, source, (), families, given, resumed)
    reader = None
    if settings.horizons.cluster != ABSENT:
        reader = ClusterReader(ClusterModel(settings.model, settings.training.seed))
    recipe = plan.without_features()
    _ = recipe.spec, recipe.primary, recipe.barrier_bars  # contradictions are told now
    chosen = choose_features(
        recipe.spec, frozenset(history.extras), settings.horizons, source.calendar, reader
    )
    schema = chosen.schema(recipe.horizons, recipe.primary)
    for name in families:
        family_class(name)(schema, settings.families)
    CrossHorizonStacker(recipe.horizons, families, settings.stacking)
    folds = session_folds(
        session_of(plan.times, source.interval, source.calendar),
        settings.horizons.train_sessions,
        settings.horizons.test_sessions,
        recipe.purge,
        chosen.reach,
    )
    if given is not None:
        _check_unseen(given, plan.times[folds[0].test_start])
    return replace(plan, folds=tuple(folds))


def _given_model(reference: str, storage: Path) -> Path:
    """The folder of a model: itself, or the promoted one of a run of the grid."""
    folder = Path(reference)
    if (folder / "model.safetensors").is_file():
        return folder.resolve()
    if reference == "latest":
        grids = [run for run in list_runs(storage) if run.best.is_dir()]
        if not grids:
            raise RunError(f"no run under {storage} has a promoted model", "run tune/grid.py first")
        return grids[-1].best.resolve()
    run = find_run(reference, storage)
    if not run.best.is_dir():
        raise RunError(f"{run.path.name}: has no promoted model", "give a finished run of the grid")
    return run.best.resolve()


def _check_unseen(model: Path, first_test: pd.Timestamp) -> None:
    """A model trained, tested or chosen on bars that are to be tested would be a look-ahead."""
    seen = read_model_manifest(model).get("seen_until")
    if seen is None:
        raise RunError(f"{model}: does not say which bars it has seen", "train it again")
    seen_until = pd.Timestamp(seen).tz_convert("UTC")
    if seen_until >= first_test:
        raise RunError(
            f"{model}: was trained, tested or chosen on bars until {seen_until.date()}, but the "
            f"first bar tested is of {first_test.date()}",
            "give a model of an earlier period, later data, or leave --cluster out to train one "
            "on the first training window",
        )


def prepare_cluster(plan: HorizonPlan, run: RunDirectory) -> Path | None:
    """The cluster model of the run: given, trained once on the first training window, or none.

    It is frozen for all folds: nothing in it has seen a bar that is tested.
    """
    if plan.settings.horizons.cluster == ABSENT:
        return None
    if plan.cluster is not None:
        return plan.cluster
    if not (run.cluster / "manifest.json").is_file():
        first = plan.folds[0]
        start = max(0, first.train_start - plan.settings.model.context_bars)
        panel = plan.source.window(start, first.train_stop)
        with tempfile.TemporaryDirectory(dir=run.path, prefix=".cluster.") as scratch:
            fresh = Path(scratch, "cluster")
            with one_thread():
                train_once(_for_predictors(plan.settings), panel, fresh)
            if run.cluster.exists():
                shutil.rmtree(run.cluster)
            fresh.rename(run.cluster)
    return run.cluster


def _for_predictors(settings: Settings) -> Settings:
    """Settings of a cluster model that is an input and does not trade.

    It is trained on returns before costs: charged for every 5-minute trade it would learn not to
    trade at all, close its gate, and say nothing. What costs is charged later, once. Where things
    lie is left out: equal runs elsewhere make equal models.
    """
    free = {"half_spread_bps": 0.0, "commission_bps": 0.0, "impact_coefficient": 0.0}
    updates = {
        "costs": settings.costs.model_copy(update={**free, "borrow_bps_per_year": 0.0}),
        "training": settings.training.model_copy(update={"turnover_penalty": 0.0}),
        "data": settings.data.model_copy(update={"path": None, "dollar_volume_path": None}),
        "horizons": settings.horizons.model_copy(update={"plugins": ()}),
    }
    return settings.model_copy(update=updates)


def dataset_folder(plan: HorizonPlan, recipe: Recipe, storage: Path) -> Path:
    """Where the features of the run lie: shared by runs of equal bars, recipe and code."""
    horizons = plan.settings.horizons.model_dump(mode="json", include=set(ROW_SETTINGS))
    model = None
    if recipe.cluster is not None:
        manifest = read_model_manifest(Path(recipe.cluster))
        model = [manifest["sha256"], manifest["config"], manifest["seed"]]
    identity = [plan.bars_identity(), horizons, recipe.features, recipe.lag, model]
    identity += [recipe.feature_set().fingerprints, code_hash(), library_versions()]
    return storage / DATASETS / stable_hash(identity)[:16]


def run_directory(plan: HorizonPlan, n_tasks: int, storage: Path, clock: Clock) -> RunDirectory:
    """The directory of the run: the old one, or a new one with its manifest."""
    if plan.resumed is not None:
        return plan.resumed
    times = plan.times
    records = replace(plan.history, times=times).fold_records(plan.folds)
    manifest = new_manifest(
        plan.settings, {}, plan.history.describe(), records, n_tasks, (), clock, "horizons"
    )
    return RunDirectory.create(storage, manifest)
