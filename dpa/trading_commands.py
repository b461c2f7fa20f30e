"""``dpa trade``, ``dpa journal``, ``dpa kill`` and ``dpa alerts``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpa.options import OneLineParser

Add = Callable[..., OneLineParser]


def add_trading_commands(commands: Any, add_command: Add, storage: str) -> None:
    """Add what belongs to trading to `commands`.

    Parameters
    ----------
    commands : subparsers of the ``dpa`` parser
    add_command : callable
        :func:`dpa.cli.add_command`.
    storage : str
        Where runs are kept unless said otherwise; journals are in its folder ``trading``.
    """
    for add in (_add_journal,):
        add(commands, add_command, storage)


def _add_journal(commands: Any, add_command: Add, storage: str) -> None:
    journal = commands.add_parser(
        "journal", help="what was decided, sent, filled: show, verify, export"
    )
    inner = journal.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, words: str, *examples: str) -> OneLineParser:
        typed = (f"journal {name} {example}".rstrip() for example in examples)
        run = f"dpa.trading.journal_commands:{name}_command"
        parser = add_command(inner, name, run, words, *typed)
        _add_place(parser, storage)
        return parser

    show = add(
        "show",
        "orders, fills, positions and profit, also while a trader runs",
        "",
        "--session 2026-03-02 --symbol AAPL",
        "--live --account DU1234567",
        "--json > journal.json",
    )
    add("verify", "look for damage; leaves with 1 and says what, where there is any", "")
    export = add(
        "export",
        "write fills, orders or events to a file",
        "--out fills.parquet",
        "--what events --out events.jsonl",
        "--what orders --session 2026-03-02 --out orders.csv",
    )
    export.add_argument(
        "--what", choices=("fills", "orders", "events"), default="fills", help="rows [fills]"
    )
    export.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".parquet, .csv or .jsonl; written whole or not at all",
    )
    for parser in (show, export):
        parser.add_argument(
            "--session", metavar="DATE", help="of one session, its date in New York, or 'latest'"
        )
        parser.add_argument("--symbol", metavar="NAME", help="of one symbol")
    show.add_argument("--live", action="store_true", help="orders that may still be filled only")
    show.add_argument("--json", action="store_true", help="JSON, exact numbers as text")


def _add_place(parser: OneLineParser, storage: str) -> None:
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="the journal itself [found in the storage]"
    )
    parser.add_argument(
        "--storage",
        type=Path,
        default=Path(storage),
        metavar="PATH",
        help=f"where its folder 'trading' is [{storage}]",
    )
    parser.add_argument("--account", metavar="NAME", help="of one account")
