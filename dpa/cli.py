"""The ``dpa`` command: data, single steps by hand, runs, and settings."""

import argparse
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

import dpa
from dpa.config import GRID_SECTIONS, Settings
from dpa.errors import DpaError
from dpa.options import OneLineParser, add_resume, add_settings_options, settings_from
from dpa.stores.places import Storage, plain_path

STORAGE = "runs"
Command = Callable[[argparse.Namespace], int | None]  # a code, None for 0
EXAMPLES = """examples:
  dpa data check prices.parquet
  dpa rolling --data prices.parquet --window 60 --n-clusters 10
  dpa runs list
  dpa runs report latest
"""


def guarded(action: Callable[[], int]) -> int:
    """Exit code of `action`; the one place where errors become exit codes.

    A mistake the user can mend is one line on standard error and code 2, another error raised on
    purpose one line and code 1, an interruption code 130; a closed pipe is no error. Anything
    else is a defect of the program and keeps its traceback.
    """
    try:
        return action()
    except DpaError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader has gone; the interpreter would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The ``dpa`` command; returns its exit code."""

    def action() -> int:
        arguments = build_parser().parse_args(argv)
        run: Command | str = arguments.run
        command = pkgutil.resolve_name(run) if isinstance(run, str) else run
        code = command(arguments) or 0
        sys.stdout.flush()
        return code

    return guarded(action)


def build_parser() -> OneLineParser:
    """The parser of the whole command line."""
    parser = OneLineParser(
        prog="dpa",
        description="Deep potential arbitrage: research by hand, and what the grid left on disk.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"dpa {dpa.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_data(commands)
    _add_steps(commands)
    _add_runs(commands)
    _add_horizons(commands)
    _add_config(commands)
    _add_simulate(commands)
    _add_serve(commands)
    _add_trading(commands)
    _add_trace(commands)
    _add_mcp(commands)
    _add_cluster(commands)
    _add_metrics(commands)
    return parser


def add_command(
    commands: Any, name: str, run: Command | str, words: str, *examples: str
) -> OneLineParser:
    """A subcommand with its examples.

    `run` gets the parsed arguments; as ``"module:function"`` it is imported only when it is
    called, so that ``--help`` does not wait for torch.
    """
    parser: OneLineParser = commands.add_parser(
        name,
        help=words,
        description=words[0].upper() + words[1:] + ".",
        epilog="\n".join(["examples:", *(f"  dpa {example}" for example in examples)]),
    )
    parser.set_defaults(run=run)
    return parser


def _add_data(commands: Any) -> None:
    from dpa.market.commands import add_data_commands
    from dpa.trading.ibkr.commands import add_fetch_command

    add_fetch_command(add_data_commands(commands))


def _add_simulate(commands: Any) -> None:
    from dpa.simulation.commands import add_simulate_commands

    add_simulate_commands(commands)


def _add_serve(commands: Any) -> None:
    from dpa.serve_commands import add_serve_commands

    add_serve_commands(commands, add_command, STORAGE)


def _add_trading(commands: Any) -> None:
    from dpa.trading_commands import add_trading_commands

    add_trading_commands(commands, add_command, STORAGE)


def _add_cluster(commands: Any) -> None:
    from dpa.hosts.commands import add_cluster_commands

    add_cluster_commands(commands, add_command)


def _add_metrics(commands: Any) -> None:
    from dpa.telemetry.commands import add_metrics_commands

    add_metrics_commands(commands, add_command)


def _add_trace(commands: Any) -> None:
    from dpa.tracing.commands import add_trace_command

    add_trace_command(commands, add_command, STORAGE)


def _add_mcp(commands: Any) -> None:
    from dpa.mcp.commands import add_mcp_command

    add_mcp_command(commands, add_command, STORAGE)


def _add_horizons(commands: Any) -> None:
    from dpa.horizon_commands import add_horizon_commands

    add_horizon_commands(commands, add_command, STORAGE)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    words = f"where runs are kept [{STORAGE}]"
    parser.add_argument(
        "--storage", type=plain_path, default=Path(STORAGE), metavar="PATH", help=words
    )


def _add_steps(commands: Any) -> None:
    train = add_command(
        commands,
        "train",
        "dpa.step_commands:train",
        "train one model on all of the history given",
        "train --data prices.parquet --end 2012-12-31 --window 60 --out model",
    )
    train.add_argument("--out", type=Path, default=Path("model"), help="model folder [model]")
    backtest = add_command(
        commands,
        "backtest",
        "dpa.step_commands:backtest",
        "trade a trained model as it is",
        "backtest model --data prices.parquet --start 2013-01-01 --end 2013-12-31",
        "backtest runs/20260301-123005-1a2b3c4d/best --data later.parquet --half-spread-bps 8",
    )
    backtest.add_argument("model", metavar="MODEL", type=Path, help="model folder, or best/")
    backtest.add_argument(
        "--in-sample",
        action="store_true",
        help="allow bars the model was trained, tested or chosen on",
    )
    backtest.add_argument("--out", type=Path, default=Path("backtest"), help="folder [backtest]")
    rolling = add_command(
        commands,
        "rolling",
        "dpa.step_commands:rolling",
        "walk-forward train and trade one point, without Ray; writes a run",
        "rolling --data prices.parquet --window 60 --n-clusters 10 --similarity-threshold 0.5",
        "rolling --config mine.yaml --storage runs",
    )
    _add_storage(rolling)
    add_resume(rolling)
    add_settings_options(train, ("data", "model", "training", "walk_forward", "costs"))
    add_settings_options(backtest, ("data", "walk_forward", "costs"), positionals="MODEL")
    add_settings_options(rolling, GRID_SECTIONS)


def _add_runs(commands: Any) -> None:
    runs = commands.add_parser("runs", help="what grids left on disk: list, show, promote ...")
    inner = runs.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: str, words: str, *examples: str) -> argparse.ArgumentParser:
        parser = add_command(inner, name, run, words, *(f"runs {name} {e}" for e in examples))
        place = f"where runs are kept: a path, or s3://bucket/prefix [{STORAGE}]"
        parser.add_argument(
            "--storage",
            type=Storage.of,
            default=Storage.of(STORAGE),
            metavar="PLACE",
            help=place,
        )
        return parser

    add(
        "list",
        "dpa.run_commands:list_all",
        "one line a run, newest last",
        "",
        "--storage /shared/runs",
        "--storage s3://bucket/runs",
    )
    show = add("show", "dpa.run_commands:show", "settings, trials and baselines of a run", "latest")
    show.add_argument("--rows", type=int, default=10, help="trials shown, best first [10]")
    promotion = add(
        "promote",
        "dpa.run_commands:promote_trial",
        "make a trial's last model the run's best/",
        "latest",
        "latest window-60_n_clusters-10_similarity_threshold-0.5",
    )
    report = add("report", "dpa.run_commands:report", "write report.html again", "latest")
    reference = "a run: its id, the start of its id, its directory, or 'latest'"
    for parser in (show, promotion, report):
        parser.add_argument("run_name", metavar="RUN", help=reference)
    promotion.add_argument(
        "trial", metavar="TRIAL", nargs="?", help="none: the highest out-of-sample net Sharpe"
    )
    compare = add("compare", "dpa.run_commands:compare", "runs side by side", "20260301 latest")
    compare.add_argument("run_names", metavar="RUN", nargs="+", help=reference)


def _add_config(commands: Any) -> None:
    config = commands.add_parser("config", help="the settings: show, check, schema")
    inner = config.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = add_command(
        inner,
        "show",
        _show_settings,
        "the settings as they would be used, as YAML",
        "config show --config mine.yaml --window 90 > used.yaml",
    )
    add_settings_options(show, Settings.model_fields)
    check = add_command(
        inner, "check", _check_settings, "read a YAML file of settings", "config check grid.yaml"
    )
    check.add_argument("file", metavar="FILE", help="YAML file of settings, or of a grid")
    add_command(
        inner,
        "schema",
        _show_schema,
        "the JSON schema of the settings",
        "config schema > dpa.schema.json",
    )


def _show_settings(arguments: argparse.Namespace) -> None:
    tree = settings_from(arguments).model_dump(mode="json")
    print(yaml.safe_dump(tree, sort_keys=False), end="")


def _check_settings(arguments: argparse.Namespace) -> None:
    from dpa.research.grid import grid_points, load_grid  # torch, which the others do without

    points = grid_points(load_grid(arguments.file, {}, os.environ))
    print(f"{arguments.file}: good; as a grid it has {len(points)} points")


def _show_schema(arguments: argparse.Namespace) -> None:
    print(json.dumps(Settings.model_json_schema(), indent=2))


if __name__ == "__main__":
    sys.exit(main())
