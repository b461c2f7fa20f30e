"""``dpa trade``, ``dpa journal``, ``dpa kill`` and ``dpa alerts``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpa.options import OneLineParser, add_settings_options

Add = Callable[..., OneLineParser]
URL = "http://127.0.0.1:8000"


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
    for add in (_add_trade, _add_kill, _add_journal, _add_alerts):
        add(commands, add_command, storage)


def _add_trade(commands: Any, add_command: Add, storage: str) -> None:
    trade = commands.add_parser(
        "trade", help="the trader: start, status, pause, resume, adopt, flatten, stop, kill"
    )
    inner = trade.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, words: str, *examples: str, module: str = "dpa.trading.trade_commands"
    ) -> OneLineParser:
        typed = (f"trade {name} {example}".rstrip() for example in examples)
        parser = add_command(inner, name, f"{module}:{name}_command", words, *typed)
        _add_storage(parser, storage)
        return parser

    start = add(
        "start",
        "start the trader in the Ray cluster that serves decisions",
        "--broker ibkr",
        "--broker paper --session-end flatten",
        "--broker paper --replay us_5min_bars.parquet --from 2025-11-24 --speed 600",
        module="serve.trade_commands",
    )
    _add_start(start)
    status = add(
        "status",
        "level, positions, orders, profit, limits; from the files where nobody answers",
        "",
        "--watch",
        "--json",
    )
    status.add_argument("--watch", action="store_true", help="again every two seconds")
    status.add_argument("--json", action="store_true", help="JSON, as GET /v1/trading")
    status.add_argument("--url", default=URL, metavar="URL", help=f"of the service [{URL}]")
    pause = add("pause", "add no more risk; reductions go on", "", "--why 'news at noon'")
    flatten = add("flatten", "cancel what works and close everything", "", "--by Ada")
    resume = add(
        "resume",
        "trade again after a pause, a flattening or a halt; shows from what",
        "--by Ada",
        "--by Ada --why 'prices are right again' --yes",
    )
    adopt = add(
        "adopt",
        "where the books differ from the broker's, take over what it holds; shows both, and asks",
        "--by Ada",
        "--by Ada --why 'a split' --yes",
    )
    adopt.add_argument("--url", default=URL, metavar="URL", help=f"of the service [{URL}]")
    for parser in (resume, adopt):
        parser.add_argument("--by", required=True, metavar="NAME", help="who says so")
        parser.add_argument("--why", metavar="WORDS", help="reason, kept with it")
        parser.add_argument("--yes", action="store_true", help="do not ask")
    stop = add(
        "stop", "cancel what works and end the trader; positions stay", "",
        module="serve.trade_commands",
    )  # fmt: skip
    kill = add("kill", KILL, "", "--storage runs/paper")
    for parser in (start, stop):
        parser.add_argument("--ray", metavar="ADDRESS", help="of the cluster [RAY_ADDRESS, auto]")
    for parser in (pause, flatten):
        _add_who(parser)
    _add_killing(kill)


def _add_start(parser: OneLineParser) -> None:
    parser.add_argument("--url", default=URL, metavar="URL", help=f"of the decisions [{URL}]")
    parser.add_argument("--symbols", metavar="A,B", help="only these of the bundle [all]")
    parser.add_argument(
        "--replay", type=Path, metavar="PATH", help="trade bars of the past on paper"
    )
    parser.add_argument("--from", dest="first", metavar="DATE", help="first day of the replay")
    parser.add_argument("--until", dest="last", metavar="DATE", help="last day of the replay")
    parser.add_argument(
        "--speed", type=float, default=0.0, metavar="X",
        help="of the replay, seconds a second; 0: as fast as it goes [0]",
    )  # fmt: skip
    add_settings_options(parser, ("costs", "risk", "trading", "ibkr", "alerts", "logging"))


KILL = "halt durably, then cancel everything at the broker; needs no cluster and asks nothing"


def _add_kill(commands: Any, add_command: Add, storage: str) -> None:
    run = "dpa.trading.trade_commands:kill_command"
    parser = add_command(commands, "kill", run, KILL, "kill", "kill --storage runs/paper --by Ada")
    _add_storage(parser, storage)
    _add_killing(parser)


def _add_killing(parser: OneLineParser) -> None:
    _add_who(parser)
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="N",
        help="how long to look whether orders are gone [30]",
    )  # fmt: skip
    add_settings_options(parser, ("trading", "ibkr"))


def _add_alerts(commands: Any, add_command: Add, storage: str) -> None:
    alerts = commands.add_parser("alerts", help="who is told of what: test")
    inner = alerts.add_subparsers(title="commands", required=True, metavar="COMMAND")
    test = add_command(
        inner,
        "test",
        "dpa.trading.trade_commands:alerts_test_command",
        "send a test through every channel; leaves with 1 where one failed",
        "alerts test",
        "alerts test --alert-webhook https://example.org/hook",
    )
    add_settings_options(test, ("alerts",))


def _add_who(parser: OneLineParser) -> None:
    parser.add_argument("--by", metavar="NAME", help="who says so [the user]")
    parser.add_argument("--why", metavar="WORDS", help="reason, kept with it")


def _add_storage(parser: OneLineParser, storage: str) -> None:
    parser.add_argument(
        "--storage",
        type=Path,
        default=Path(storage),
        metavar="PATH",
        help=f"where its folder 'trading' is [{storage}]",
    )


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
