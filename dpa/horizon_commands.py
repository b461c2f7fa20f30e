"""Arguments of ``dpa features``, ``dpa bundle`` and ``dpa transfer``; what they do is elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpa.options import OneLineParser, add_settings_options
from dpa.stores.places import Storage

Add = Callable[..., OneLineParser]
BUNDLE = (
    "a bundle: its folder, a run with one (id, start of the id, 'latest'), 'promoted', or the URI "
    "of one in a store"
)
TRANSFER_SECTIONS = ("data", "horizons", "families", "walk_forward")


def add_horizon_commands(commands: Any, add_command: Add, storage: str) -> None:
    """Add ``features``, ``bundle`` and ``transfer`` to `commands`.

    Parameters
    ----------
    commands : subparsers of the ``dpa`` parser
    add_command : callable
        :func:`dpa.cli.add_command`.
    storage : str
        Where runs are kept unless said otherwise.
    """
    _add_features(commands, add_command)
    _add_bundle(commands, add_command, storage)
    _add_transfer(commands, add_command)


def _add_features(commands: Any, add_command: Add) -> None:
    features = commands.add_parser("features", help="what predictors can learn from: list, show")
    inner = features.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = add_command(
        inner,
        "list",
        "dpa.predictor_commands:list_features",
        "the registry of features as a table",
        "features list",
        "features list --interval 1d --all",
        "features list --interval 5m --plugins my_features.py --json",
    )
    listing.add_argument("--all", action="store_true", help="also those that do not fit, and why")
    listing.add_argument("--json", action="store_true", help="print JSON")
    show = add_command(
        inner,
        "show",
        "dpa.predictor_commands:show_feature",
        "one feature with its source text",
        "features show momentum_60m",
        "features show my_feature_30m --plugins my_features.py",
    )
    show.add_argument("name", metavar="NAME", help="name, with its minutes")
    for parser in (listing, show):
        parser.add_argument("--interval", help="length of the bars, such as 5m [setting, else 5m]")
        parser.add_argument("--plugins", metavar="FILE[,FILE...]", help="features of your own")
        parser.add_argument("--config", metavar="FILE", help="YAML file of settings")


def _add_bundle(commands: Any, add_command: Add, storage: str) -> None:
    bundle = commands.add_parser(
        "bundle", help="predictors ready to serve: list, show, verify, predict ..."
    )
    inner = bundle.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, words: str, *examples: str) -> OneLineParser:
        typed = (f"bundle {name} {example}".rstrip() for example in examples)
        parser = add_command(inner, name, f"dpa.bundle_commands:{name}_command", words, *typed)
        parser.add_argument(
            "--storage",
            type=Storage.of,
            default=Storage.of(storage),
            metavar="PLACE",
            help=f"where runs are kept: a path, or s3://bucket/prefix [{storage}]",
        )
        return parser

    add("list", "one line a run that has a bundle, newest last", "", "--storage /shared/runs")
    show = add("show", "what a bundle forecasts, from what, and how well", "promoted", "latest")
    show.add_argument("--json", action="store_true", help="print its manifest")
    verify = add("verify", "check every file, feature and forecast of a bundle", "promoted")
    promotion = add(
        "promote",
        "make a bundle the one that is served",
        "latest",
        "saved/bundle --storage s3://bucket/runs",
    )
    compare = add("compare", "what differs between bundles", "promoted latest")
    predict = add(
        "predict",
        "forecast from the last bars of a file",
        "promoted --data us_5min_bars.parquet --stamps start",
        "latest --data shards --at '2026-03-02 11:30' --json",
    )
    predict.add_argument(
        "--at",
        metavar="TIME",
        help="forecast from the last bar known then; without a zone, the venue's time [the end]",
    )
    predict.add_argument("--json", action="store_true", help="print JSON")
    add_settings_options(predict, ("data",), positionals="REF --data FILE")
    for parser in (verify, promotion, predict):
        parser.add_argument(
            "--plugins", metavar="FILE[,FILE...]", help="features and families of your own; run"
        )
    for parser in (show, verify, promotion, predict):
        parser.add_argument("reference", metavar="REF", help=BUNDLE)
    compare.add_argument("references", metavar="REF", nargs="+", help=BUNDLE)


def _add_transfer(commands: Any, add_command: Add) -> None:
    transfer = add_command(
        commands,
        "transfer",
        "dpa.predictor_commands:transfer",
        "train on bars of one length, validate on bars of another",
        "transfer --train 5m --validate 1m --data us_1min_bars.parquet --stamps start",
        "transfer --train 5m --validate 1m --data bars_5m --validate-data bars_1m --family gbdt",
        "transfer --train 1m --validate 15m --data bars_1m --horizons 15m,60m --out transfer.csv",
    )
    transfer.add_argument("--train", required=True, metavar="LENGTH", help="bars learned from: 5m")
    transfer.add_argument("--validate", required=True, metavar="LENGTH", help="bars tested on: 1m")
    transfer.add_argument(
        "--validate-data",
        metavar="FILE",
        help="history in the bars tested on; none: that of --data, both made from it",
    )
    transfer.add_argument("--family", default="ridge", metavar="NAME", help="model family [ridge]")
    transfer.add_argument("--out", type=Path, metavar="FILE", help="write the table as CSV")
    add_settings_options(
        transfer, TRANSFER_SECTIONS, positionals="--train LENGTH --validate LENGTH --data FILE"
    )
