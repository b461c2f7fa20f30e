"""Walk-forward grid search of the cluster model on Ray: ``python tune/grid.py --help``.

Wiring only: which trials there are is dpa.research.grid's, what a trial does is
dpa.research.rolling's, what a run leaves on disk is dpa.runs'.
"""

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from _session import check_shared, gpus_per_trial, session
from _work import work_through
from rich.console import Console

from dpa.cli import STORAGE, guarded
from dpa.clock import Clock, SystemClock
from dpa.config import GRID_SECTIONS
from dpa.errors import ConfigError
from dpa.options import OneLineParser, add_resume, add_settings_options, read_axes, refuse_settings
from dpa.research.closing import close_run, closing_words
from dpa.research.grid import load_grid
from dpa.research.plan import (
    SAMPLE_START,
    Plan,
    directory_of,
    plan_new,
    plan_resumed,
    shards_kept,
)
from dpa.runs import RunDirectory
from dpa.stores.places import Storage
from dpa.telemetry.ids import about
from dpa.telemetry.logs import log_to_files

log = logging.getLogger("dpa.grid")
EXAMPLES = """examples:
  python tune/grid.py
  python tune/grid.py --data prices.parquet --start 2008-01-01 --end 2013-12-31
  python tune/grid.py --window 20,40 --n-clusters 10 --similarity-threshold 0.3,0.5 --epochs 50
  python tune/grid.py --config grid.yaml --storage /shared/runs --address auto
  python tune/grid.py --storage s3://bucket/runs --address auto
  python tune/grid.py --resume latest

grid.yaml may hold any part of the settings, and the axes:
  data: {path: prices.parquet}
  grid: {window: [30, 60], max_age: [10, 30, none]}
"""


def build_parser() -> OneLineParser:
    """The command line of the grid."""
    parser = OneLineParser(
        prog="grid.py",
        description="Walk-forward grid search of the cluster model on Ray. Without --data it runs "
        f"on the embedded sample\nfrom {SAMPLE_START} on (all of it: --start 1990-01-01); without "
        "axes over window 30,60,90 x\nn_clusters 5,10,20 x similarity_threshold 0.3,0.5,0.7.",
        epilog=EXAMPLES,
    )
    run = parser.add_argument_group("the run")
    add_resume(run)
    run.add_argument(
        "--storage",
        type=Storage.of,
        default=Storage.of(STORAGE),
        metavar="PLACE",
        help="where runs are kept: a path, on a cluster one that all nodes share, or "
        f"s3://bucket/prefix [{STORAGE}]",
    )
    cluster = parser.add_argument_group("Ray")
    cluster.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS") or None,
        help="running cluster: auto or host:port; none: start Ray on this machine",
    )
    cluster.add_argument("--num-cpus", type=positive, metavar="N", help="cores used here [all]")
    cluster.add_argument(
        "--gpus-per-trial", type=share, metavar="X", help="GPU share of a trial [GPUs / cores]"
    )
    cluster.add_argument(
        "--reuse-actors",
        action="store_true",
        help="run many trials in one process: a second or two less for each, but the dashboard "
        "shows a process by its first trial",
    )
    cluster.add_argument(
        "--no-dashboard", action="store_true", help="start Ray here without its dashboard"
    )
    add_settings_options(parser, GRID_SECTIONS, axes=True)
    return parser


def positive(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def share(text: str) -> float:
    """A number that is not negative."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return number


def read_plan(arguments: argparse.Namespace) -> Plan:
    """What is to be done, checked; nothing is written yet."""
    if arguments.address and arguments.num_cpus:
        raise ConfigError(
            f"--num-cpus {arguments.num_cpus}: a running cluster has the cores it has",
            "leave it out, or leave out --address",
        )
    if not arguments.resume:
        grid = load_grid(arguments.config, read_axes(arguments), os.environ)
        return plan_new(grid, arguments.storage)
    refuse_settings(arguments)
    return plan_resumed(arguments.resume, arguments.storage, arguments.accept_changed_code)


def run_grid(arguments: argparse.Namespace, console: Console, clock: Clock) -> int:
    """Run or resume a grid; the exit code."""
    plan = read_plan(arguments)
    run = plan.resumed
    try:
        with (
            session(arguments.address, arguments.num_cpus, not arguments.no_dashboard) as url,
            terminated_as_interrupted(),
        ):
            storage = arguments.storage.resolve() if run is None else run.storage
            check_shared(storage)
            plan = replace(plan, history=shards_kept(plan.history, storage))
            run = directory_of(plan, storage, clock)
            log_to_files(plan.grid.settings.logging, run.path.parent, "grid")
            with run.lock(), about(run_id=run.path.name):
                log.info("the run begins, or goes on: %d trials", len(plan.trials))
                run.set_status("running")
                run.refresh()
                announce(console, run, plan, url)
                gpus = arguments.gpus_per_trial
                work_through(
                    run,
                    plan.history,
                    plan.trials,
                    console,
                    clock,
                    gpus_per_trial() if gpus is None else gpus,
                    arguments.reuse_actors,
                )
    except KeyboardInterrupt:
        if run is None:
            raise
        command = shlex.join(["python", "tune/grid.py", "--resume", run.shown()])
        console.print(f"\ninterrupted; go on with: {command}", soft_wrap=True, highlight=False)
        finish(run, console, clock, interrupted=True)
        return 130
    return 0 if finish(run, console, clock, interrupted=False) else 1


def finish(run: RunDirectory, console: Console, clock: Clock, interrupted: bool) -> int:
    """Tables, promoted model, report and the closing words; the number of finished trials."""
    with run.lock():
        run.set_status("interrupted" if interrupted else "complete")
        done = close_run(run, clock)
    log.info("%d trials are done", done, extra={"run_id": run.path.name})
    console.print(closing_words(run), soft_wrap=True, highlight=False)
    return done


def announce(console: Console, run: RunDirectory, plan: Plan, url: str) -> None:
    """What starts, and where to look."""
    folds = sum(len(trial.folds) for trial in plan.trials)
    n_baselines = len(run.read_manifest().baselines)
    lines = [
        f"run        {run.shown()}",
        f"data       {plan.history.words}",
        f"grid       {len(plan.trials)} trials, {folds} folds, {n_baselines} baselines",
    ]
    if url:
        lines.append(f"dashboard  http://{url}/#/actors")
    if run.store is None:
        lines.append(f"curves     tensorboard --logdir {run.tune}")
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, which 'ray job stop' and 'kill' send, end the grid the way Ctrl-C does.

    Entered after Ray has started, because Ray installs a handler of its own.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    def action() -> int:
        arguments = build_parser().parse_args(argv)
        return run_grid(arguments, Console(), SystemClock())

    return guarded(action)


if __name__ == "__main__":
    sys.exit(main())
