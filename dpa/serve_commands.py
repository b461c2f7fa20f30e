"""``dpa serve``: replay bars, see and explain what was decided, make a request, halt and resume."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpa.errors import ConfigError, DataError
from dpa.options import OneLineParser, add_settings_options, settings_from

if TYPE_CHECKING:
    import pandas as pd

    from dpa.config import Settings
    from dpa.market.panel import Panel
    from dpa.serving.client import Client
    from dpa.serving.replay import Bars, NaiveAccount, Summary

Add = Callable[..., OneLineParser]
URL = "http://127.0.0.1:8000"
TOKEN_VARIABLE = "DPA_SERVE_TOKEN"
PATIENCE_SECONDS = 30.0  # of a replay, while the service is away
HISTORY_SECONDS = 600.0  # for a history to be taken in
SHOWN_EVERY = 0.2, 60.0  # seconds between lines of progress, on a terminal and elsewhere


def add_serve_commands(commands: Any, add_command: Add, storage: str) -> None:
    """Add ``serve`` to `commands`.

    Parameters
    ----------
    commands : subparsers of the ``dpa`` parser
    add_command : callable
        :func:`dpa.cli.add_command`.
    storage : str
        Where runs are kept unless said otherwise.
    """
    serve = commands.add_parser(
        "serve", help="ask the decision service: status, explain, request, replay, halt, resume"
    )
    inner = serve.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, words: str, *examples: str) -> OneLineParser:
        typed = (f"serve {name} {example}".rstrip() for example in examples)
        parser = add_command(inner, name, f"dpa.serve_commands:{name}_command", words, *typed)
        _add_service(parser, storage)
        return parser

    status = add("status", "whether the service is ready, its bundle and newest decision", "")
    explain = add(
        "explain",
        "every number behind the newest decision on a symbol",
        "AAPL",
        "AAPL --account me",
    )
    explain.add_argument("symbol", metavar="SYMBOL")
    for parser in (status, explain):
        parser.add_argument("--account", metavar="NAME", help="whose decision [the newest of any]")
    request = add(
        "request",
        "write the body of POST /v1/decide for a bar of a file",
        "--data us_5min_bars.parquet > snapshot.json",
        "--data shards --at '2026-03-02 11:30' > snapshot.json",
    )
    request.add_argument(
        "--at",
        metavar="TIME",
        help="the last bar known then; without a zone, the venue's time [the bar after the newest "
        "that the service knows]",
    )
    replay = add(
        "replay",
        "send bars of the past one by one, as an engine would; a demonstration, not trading",
        "--data us_5min_bars.parquet --speed 2",
        "--data shards --start 2026-03-02 --history 1000 --account demo",
    )
    replay.add_argument(
        "--speed", type=_positive, metavar="X", help="bars a second [as fast as answers come]"
    )
    replay.add_argument(
        "--history",
        type=_positive_integer,
        metavar="N",
        help="first send so many bars as the history, which replaces the bars on record",
    )
    replay.add_argument("--json", action="store_true", help="send JSON instead of Arrow")
    for parser in (request, replay):
        parser.add_argument(
            "--account", default="replay", metavar="NAME", help="whose money [replay]"
        )
        parser.add_argument(
            "--nav", type=_positive, default=1e6, metavar="USD", help="to begin with [1000000]"
        )
        add_settings_options(parser, ("data", "costs"), positionals="--data FILE")
    halt = add("halt", "stop trading an account until a person resumes it", HALTED)
    resume = add("resume", "let an account trade again", RESUMED)
    resume.add_argument("--yes", action="store_true", help="do not ask")
    for parser in (halt, resume):
        parser.add_argument("account", metavar="ACCOUNT")
        parser.add_argument("--by", required=True, metavar="NAME", help="who says so")
        parser.add_argument("--why", required=True, metavar="WORDS", help="reason, kept with it")


HALTED = "default --by Ada --why 'prices look wrong'"
RESUMED = "default --by Ada --why 'prices are right again' --yes"


def _add_service(parser: argparse.ArgumentParser, storage: str) -> None:
    parser.add_argument("--url", default=URL, metavar="URL", help=f"of the service [{URL}]")
    parser.add_argument(
        "--storage",
        type=Path,
        default=Path(storage),
        metavar="PATH",
        help=f"of the service, where its token is [{storage}]",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file with the token [{TOKEN_VARIABLE}, else serving/token of the storage]",
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


_positive.__name__ = "number above 0"  # as argparse names it


def _positive_integer(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


_positive_integer.__name__ = "whole number above 0"


def _client(
    arguments: argparse.Namespace, timeout_seconds: float = 10.0, retry_seconds: float = 5.0
) -> "Client":
    from dpa.serving.client import Client

    return Client(
        arguments.url,
        _token(arguments),
        timeout_seconds=timeout_seconds,
        retry_seconds=retry_seconds,
    )


def _token(arguments: argparse.Namespace) -> str | None:
    """The token of ``--token-file``, else of the environment, else of the storage; or none."""
    from dpa.serving.client import read_token

    given: Path | None = arguments.token_file
    if given is None and os.environ.get(TOKEN_VARIABLE):
        return os.environ[TOKEN_VARIABLE].strip()
    token = read_token(given or arguments.storage / "serving" / "token")
    if given is not None and token is None:
        raise ConfigError(f"--token-file {given}: there is no such file", "check the path")
    return token


def status_command(arguments: argparse.Namespace) -> int:
    """What the service is and decided last; code 1 while it is not ready."""
    from dpa.serving.types import RequestError
    from dpa.serving.words import status_words

    with _client(arguments) as client:
        ready = client.ready()
        bundle: dict[str, Any] | None = None
        latest: dict[str, Any] | None = None
        try:
            bundle, latest = client.bundle(), client.latest(arguments.account)
        except RequestError:
            if ready["ready"]:
                raise
    print(status_words(ready, bundle, latest))
    return 0 if ready["ready"] else 1


def explain_command(arguments: argparse.Namespace) -> None:
    """Every number behind the newest decision on one symbol."""
    from dpa.serving.words import explain_words

    with _client(arguments) as client:
        latest = client.latest(arguments.account)
    if latest is None:
        of = f" of account {arguments.account!r}" if arguments.account else ""
        raise DataError(f"{arguments.url}: there is no decision{of} yet", "ask for one first")
    print(explain_words(latest, arguments.symbol))


def halt_command(arguments: argparse.Namespace) -> None:
    """Halt an account."""
    with _client(arguments) as client:
        _print_risk(arguments.account, client.halt(arguments.account, arguments.by, arguments.why))


def resume_command(arguments: argparse.Namespace) -> None:
    """Let an account trade again, after asking."""
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise ConfigError("resuming asks first, and there is no terminal", "give --yes")
        print(f"let account {arguments.account} trade again? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ConfigError(f"account {arguments.account} is left as it is")
    with _client(arguments) as client:
        state = client.resume(arguments.account, arguments.by, arguments.why)
    _print_risk(arguments.account, state)


def _print_risk(account: str, state: Mapping[str, Any]) -> None:
    from dpa.decision.types import RiskLevel

    level = state["level"]
    name = RiskLevel(level).name if isinstance(level, int) else str(level)
    words = f" ({state['why']})" if state.get("why") else ""
    print(f"account {account}: {name}{words}")


def request_command(arguments: argparse.Namespace) -> None:
    """Write an example request as JSON."""
    from dpa.serving.replay import NaiveAccount, bars_of, first_row
    from dpa.serving.wire import request_json

    settings = settings_from(arguments)
    panel = _bars(settings)
    if arguments.at is not None:
        moment = _moment(arguments.at, panel.calendar)
        row = int(panel.times.searchsorted(moment, side="right")) - 1
        if row < 0:
            raise DataError(
                f"--at {arguments.at}: no bar is known then, the first is {panel.times[0]}",
                "give a later time",
            )
        names = panel.names
    else:
        with _client(arguments) as client:
            bundle = client.bundle()
        row, names = first_row(panel, bundle["newest_bar"]), bundle["names"]
        _check_left(panel, row, bundle["newest_bar"])
    half_spread = settings.costs.half_spread_bps
    bars = bars_of(panel.window(0, row + 1), names, half_spread)
    account = NaiveAccount(arguments.account, bars.panel.n_assets, arguments.nav, half_spread)
    sys.stdout.write(request_json(bars.request(row, account)).decode() + "\n")


def replay_command(arguments: argparse.Namespace) -> int:
    """Send bars one by one and say what came of it."""
    from dpa.clock import SystemClock
    from dpa.serving.replay import bars_of, first_row, replay

    settings = settings_from(arguments)
    panel = _bars(settings)
    if arguments.history is not None:
        panel = _send_history(arguments, panel)
    with _client(arguments, retry_seconds=PATIENCE_SECONDS) as client:
        bundle = client.bundle()
        newest, half_spread = bundle["newest_bar"], settings.costs.half_spread_bps
        bars = bars_of(panel, bundle["names"], half_spread)
        first = first_row(bars.panel, newest)
        _check_left(bars.panel, first, newest)
        account = _account(arguments, client, bars, newest)
        clock = SystemClock()
        _say(f"a demonstration, not trading: {bars.panel.n_bars - first} bars of "
             f"{bars.panel.n_assets} names to {arguments.url}")  # fmt: skip
        summary = replay(
            bars,
            client,
            clock,
            first=first,
            account=account,
            speed=arguments.speed,
            form="json" if arguments.json else "arrow",
            sleep=time.sleep,
            progress=_progress(clock.elapsed, bars.panel.n_bars - first),
        )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print("\n".join(summary.lines()), flush=True)
    return 130 if summary.interrupted else 0


def _send_history(arguments: argparse.Namespace, panel: "Panel") -> "Panel":
    """Send the first bars as the history; the whole panel again, for its traded values."""
    if arguments.history >= panel.n_bars:
        raise ConfigError(
            f"--history {arguments.history}: the data hold {panel.n_bars} bars", "give fewer"
        )
    with _client(arguments, timeout_seconds=HISTORY_SECONDS) as client:
        _say(f"sending {arguments.history} bars as the history")
        client.history(panel.window(0, arguments.history))
    return panel


def _account(
    arguments: argparse.Namespace, client: "Client", bars: "Bars", newest: str | None
) -> "NaiveAccount":
    """Flat, or as the newest decision on the newest bar left it."""
    import pandas as pd

    from dpa.serving.replay import NaiveAccount

    account = NaiveAccount(
        arguments.account, bars.panel.n_assets, arguments.nav, bars.half_spread_bps
    )
    latest = client.latest(arguments.account)
    if latest and newest and pd.Timestamp(latest["time"]) == pd.Timestamp(newest):
        account.take_over(latest, bars.panel.names)
    return account


def _check_left(panel: "Panel", row: int, newest: str | None) -> None:
    from dpa.serving.words import time_words

    if row >= panel.n_bars:
        raise DataError(
            f"nothing to send: the service knows the bar of {time_words(newest)}, the data end "
            f"{panel.times[-1]:%Y-%m-%d %H:%M} UTC",
            "give later bars, or --history to begin anew",
        )


def _progress(
    elapsed: Callable[[], float], n_bars: int
) -> "Callable[[Summary, Mapping[str, Any] | None], None]":
    """Writes a line now and then; on a terminal it is always the same one."""
    terminal = sys.stderr.isatty()
    every = SHOWN_EVERY[0 if terminal else 1]
    shown = elapsed()

    def write(summary: "Summary", decision: Mapping[str, Any] | None) -> None:
        nonlocal shown
        if elapsed() - shown < every:
            return
        shown = elapsed()
        line = (
            f"{summary.n_bars}/{n_bars} bars, {summary.newest:%Y-%m-%d %H:%M} UTC, "
            f"{summary.n_trades} trades, NAV {summary.nav_usd:,.0f} USD"
        )
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    return write


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _bars(settings: "Settings") -> "Panel":
    """The bars of the data, those left out in which nothing has a price."""
    import numpy as np

    from dpa.market.readers import load_wide_data
    from dpa.market.selections import select_shards

    config = settings.data
    if config.path is None:
        raise ConfigError("--data: is missing", "give the bars to send")
    shards = Path(config.path).is_dir()
    panel = select_shards(config.path, config).panel() if shards else load_wide_data(config)
    priced = np.isfinite(panel.prices).any(axis=1)
    if not priced.any():
        raise DataError(f"{config.path}: no bar has a price", "check --start, --end and --names")
    return panel if priced.all() else _only_rows(panel, priced)


def _only_rows(panel: "Panel", chosen: Any) -> "Panel":
    from dpa.market.panel import Panel

    return Panel(
        panel.times[chosen],
        panel.names,
        panel.prices[chosen],
        panel.mask[chosen],
        panel.interval,
        panel.calendar,
        **{name: array[chosen] for name, array in panel.extras().items()},
    )


def _moment(text: str, calendar: str) -> "pd.Timestamp":
    """A time, UTC; without a zone it is the venue's."""
    import pandas as pd

    from dpa.market.calendars import TradingCalendar

    try:
        moment = pd.Timestamp(text)
        if moment.tzinfo is None:
            moment = moment.tz_localize(TradingCalendar(calendar).time_zone)
        known = moment.tz_convert("UTC")
    except (ValueError, TypeError) as e:
        raise ConfigError(f"--at: {text!r} is not a time", "write 2026-03-02 11:30") from e
    if not isinstance(known, pd.Timestamp):
        raise ConfigError(f"--at: {text!r} is not a time", "write 2026-03-02 11:30")
    return known
