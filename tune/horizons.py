"""Multi-horizon predictors on Ray, from bars to a bundle: ``python tune/horizons.py --help``.

Wiring only: what is learned is dpa.horizons', what a run is and leaves is dpa.research's.
"""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import _fits
import _progress
import ray
from _fits import fit_all, make_dataset
from _session import check_shared, gpus_per_trial, session
from grid import positive, share, terminated_as_interrupted
from rich.console import Console

from dpa.cli import STORAGE, guarded
from dpa.clock import Clock, SystemClock
from dpa.config import HORIZON_SECTIONS, Settings
from dpa.errors import ConfigError, RunError
from dpa.market.fingerprints import panel_fingerprint
from dpa.options import (
    OneLineParser,
    add_resume,
    add_settings_options,
    refuse_settings,
    settings_from,
)
from dpa.research.history import History, ensure_shards, located, open_history, reopen_history
from dpa.research.horizon_closing import close_horizons
from dpa.research.horizon_plan import (
    HorizonPlan,
    dataset_folder,
    plan_horizons,
    prepare_cluster,
    run_directory,
)
from dpa.research.single import last_price_bars
from dpa.runs import RunDirectory, check_storage, check_unchanged, find_run
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from dpa.stores.places import Storage, plain_path
from dpa.telemetry.ids import about
from dpa.telemetry.logs import log_to_files

log = logging.getLogger("dpa.horizons")
PLANTED, PLANTED_SEED = "planted", 0
EXAMPLES = """examples:
  python tune/horizons.py
  python tune/horizons.py --data us_5min_bars.parquet --horizons 5m,30m,1d
  python tune/horizons.py --data shards --families ridge,gbdt --cluster absent
  python tune/horizons.py --data sample --start 2005-01-01 --train-sessions 750 --test-sessions 250
  python tune/horizons.py --config horizons.yaml --cluster latest --address auto
  python tune/horizons.py --resume latest
"""


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(
        prog="horizons.py",
        description="Walk-forward-train predictors of every horizon on Ray, and make a bundle of "
        "them. Without --data on an\ninvented market of 40 names whose truth is known "
        "('planted'); 'sample' is the packaged daily sample.",
        epilog=EXAMPLES,
    )
    run = parser.add_argument_group("the run")
    add_resume(run)
    run.add_argument(
        "--storage",
        type=plain_path,
        default=Path(STORAGE),
        metavar="PATH",
        help=f"where runs are kept; on a cluster a path all nodes share [{STORAGE}]",
    )
    run.add_argument(
        "--no-promote", action="store_true", help="do not make the bundle the promoted one"
    )
    cluster = parser.add_argument_group("Ray")
    cluster.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS") or None,
        help="running cluster: auto or host:port; none: start Ray on this machine",
    )
    cluster.add_argument("--num-cpus", type=positive, metavar="N", help="cores used here [all]")
    cluster.add_argument(
        "--gpus-per-fit", type=share, metavar="X", help="GPU share of an encoder [GPUs / cores]"
    )
    cluster.add_argument(
        "--no-dashboard", action="store_true", help="start Ray here without its dashboard"
    )
    add_settings_options(parser, HORIZON_SECTIONS)
    return parser


def read_history(settings: Settings, resumed: RunDirectory | None) -> History:
    """The bars: those of the settings, or of the run to be resumed."""
    if resumed is not None and Path(resumed.read_manifest().data.shards).is_dir():
        return reopen_history(settings.data, resumed.read_manifest().data)
    if settings.data.path not in (None, PLANTED):
        return open_history(settings.data)
    panel = simulate_bars(IntradayMarket(), PLANTED_SEED).panel
    return History(
        PLANTED,
        panel_fingerprint(panel),
        panel.times,
        last_price_bars(panel),
        panel.names,
        panel.interval,
        panel.calendar,
        panel=panel,
    )


def read_plan(arguments: argparse.Namespace) -> HorizonPlan:
    """What is to be done, checked; only shards of the data are written."""
    if arguments.address and arguments.num_cpus:
        raise ConfigError(
            f"--num-cpus {arguments.num_cpus}: a running cluster has the cores it has",
            "leave it out, or leave out --address",
        )
    resumed = None
    storage = arguments.storage.resolve()
    if arguments.resume:
        refuse_settings(arguments)
        resumed = find_run(arguments.resume, storage)
        manifest = resumed.read_manifest()
        if manifest.kind != "horizons":
            raise RunError(
                f"{resumed.path.name}: is a run of the grid", "resume it with tune/grid.py"
            )
        if not arguments.accept_changed_code:
            check_unchanged(manifest)
        settings, storage = manifest.settings, resumed.path.parent
    else:
        settings = located_of(settings_from(arguments))
    check_storage(storage)
    history = ensure_shards(read_history(settings, resumed), storage / ".cache" / "shards")
    return plan_horizons(settings, history, storage, resumed)


def located_of(settings: Settings) -> Settings:
    """Absolute paths, so that a run can be resumed from anywhere; ``planted`` is no path.

    What stamps mark is told from the data, unless it is given.
    """
    plugins = tuple(
        str(Path(p).absolute()) if p.endswith(".py") else p for p in settings.horizons.plugins
    )
    horizons = settings.horizons.model_copy(update={"plugins": plugins})
    settings = settings.model_copy(update={"horizons": horizons})
    if "stamps" not in settings.data.model_fields_set:  # vendors of bars stamp either way
        data = settings.data.model_copy(update={"stamps": "auto"})
        settings = settings.model_copy(update={"data": data})
    if settings.data.path in (None, PLANTED):
        data = settings.data.model_copy(update={"path": PLANTED})
        return settings.model_copy(update={"data": data})
    return located(settings)


def run_horizons(arguments: argparse.Namespace, console: Console, clock: Clock) -> int:
    """Run or resume; the exit code."""
    plan = read_plan(arguments)
    run = plan.resumed
    storage = arguments.storage.resolve() if run is None else run.path.parent
    try:
        with (
            session(arguments.address, arguments.num_cpus, not arguments.no_dashboard) as url,
            terminated_as_interrupted(),
        ):
            for module in (_fits, _progress):
                ray.cloudpickle.register_pickle_by_value(module)
            check_shared(Storage(storage))
            run = run or run_directory(plan, _count(plan), storage, clock)
            log_to_files(plan.settings.logging, run.path.parent, "horizons")
            with run.lock(), about(run_id=run.path.name):
                log.info("the run of predictors begins, or goes on")
                run.set_status("running")
                announce(console, run, plan, url)
                share_of_gpu = arguments.gpus_per_fit
                gpus = gpus_per_trial() if share_of_gpu is None else share_of_gpu
                return work(plan, run, storage, gpus, not arguments.no_promote, console, clock)
    except KeyboardInterrupt:
        if run is None:
            raise
        run.set_status("interrupted")
        say_resume(console, run)
        return 130


def _count(plan: HorizonPlan) -> int:
    return len(plan.tasks(plan.without_features()))


def say_resume(console: Console, run: RunDirectory) -> None:
    """How to go on."""
    command = shlex.join(["python", "tune/horizons.py", "--resume", str(run.path)])
    console.print(f"\nstopped; go on with: {command}", soft_wrap=True, highlight=False)


def work(
    plan: HorizonPlan,
    run: RunDirectory,
    storage: Path,
    gpus: float,
    promote: bool,
    console: Console,
    clock: Clock,
) -> int:
    """Cluster model, features, fits, and what comes of them; the exit code."""
    if plan.trains_cluster and not run.cluster.is_dir():
        console.print("training the cluster model on the first training window")
    recipe = plan.recipe(prepare_cluster(plan, run))
    folder = dataset_folder(plan, recipe, storage)
    dataset, errors = make_dataset(plan.source, recipe, plan.spans(), folder, console, clock)
    if dataset is not None:
        if plan.settings.horizons.placebo:
            dataset = dataset.placebo(plan.settings.horizons.horizon_seed)
        tasks = plan.tasks(recipe)
        errors = fit_all(tasks, plan.folds, dataset, recipe, run.tasks, gpus, console, clock)
    if dataset is None or errors:
        for label, error in errors.items():
            console.print(f"failed: {label}: {error}", soft_wrap=True, highlight=False)
        run.set_status("interrupted")
        say_resume(console, run)
        return 1
    words = close_horizons(run, plan, recipe, dataset, storage, promote, clock)
    log.info("the run is complete")
    console.print(words, soft_wrap=True, highlight=False)
    return 0


def announce(console: Console, run: RunDirectory, plan: HorizonPlan, url: str) -> None:
    """What starts, and where to look."""
    horizons = [horizon.label for horizon in plan.horizons]
    first_test = plan.times[plan.folds[0].test_start]
    lines = [
        f"run        {run.path}",
        f"data       {plan.history.words}",
        f"forecasts  {', '.join(horizons)} by {', '.join(plan.families)}",
        f"folds      {len(plan.folds)}, tested from {first_test:%Y-%m-%d}",
    ]
    if url:
        lines.append(f"dashboard  http://{url}/#/jobs")
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    def action() -> int:
        arguments = build_parser().parse_args(argv)
        return run_horizons(arguments, Console(), SystemClock())

    return guarded(action)


if __name__ == "__main__":
    sys.exit(main())
