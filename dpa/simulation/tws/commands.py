"""``dpa sim tws``: a gateway to connect to, with an invented or a recorded market behind it."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from dpa.clock import SystemClock
from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.options import OneLineParser
from dpa.simulation.tws.agenda import VenueClock
from dpa.simulation.tws.control import Control, write_token
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.markets import Book, Market, planted_market, replayed_market
from dpa.simulation.tws.requests import VERSIONS
from dpa.simulation.tws.script import Script, read_script
from dpa.simulation.tws.venue import BEFORE, SimVenue
from dpa.simulation.tws.words import Traits

HOST = "127.0.0.1"
PORT = 4002
ACCOUNT = "DU1234567"
MOST_ACCOUNTS = 100
EXAMPLES = """examples:
  dpa sim tws --planted 7
  dpa sim tws --planted 7 --names 100 --sessions 5 --stepped --faults faults.yaml
  dpa sim tws --replay us_5min_bars.parquet --start 2025-11-24 --history 20 --speed 60
  dpa sim tws --replay shards --symbols SPY,QQQ --accounts DU1234567,DU7654321

A fault script:
  seed: 7
  faults:
    - {do: reject, code: 201, when: order, count: 3}
    - {do: halt, symbol: N03, at: "10:15", seconds: 300}
    - {do: restart, at: "23:45", seconds: 120, ids_rolled_back: true}
"""


def add_tws_command(actions: Any) -> None:
    """Add ``tws`` to `actions`, the subparsers of ``dpa sim``."""
    words = "a gateway that speaks the protocol of TWS, with paper accounts and faults as told"
    parser: OneLineParser = actions.add_parser(
        "tws", help=words, description=words[0].upper() + words[1:] + ".", epilog=EXAMPLES
    )
    parser.usage = "dpa sim tws (--planted SEED | --replay PATH) [options]"
    parser.set_defaults(run=run_tws)
    _add_market(parser.add_argument_group("market"))
    _add_venue(parser.add_argument_group("venue"))
    _add_time(parser.add_argument_group("time"))
    _add_sockets(parser.add_argument_group("sockets"))


def _add_market(group: Any) -> None:
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--planted", type=int, metavar="SEED", help="an invented market")
    source.add_argument(
        "--replay", metavar="PATH", help="recorded bars: a wide or long file, or shards"
    )
    group.add_argument("--names", type=int, metavar="N", help="names of an invented market [40]")
    group.add_argument("--symbols", metavar="A,B", help="only these names of recorded bars")
    group.add_argument(
        "--sessions", type=int, metavar="N", help="sessions traded [planted: 1; replay: all]"
    )
    group.add_argument(
        "--history", type=int, default=0, metavar="N", help="sessions before them, as history [0]"
    )
    group.add_argument(
        "--start",
        metavar="DATE",
        help="first date: of an invented market its history's, of recorded bars the first traded",
    )
    group.add_argument("--end", metavar="DATE", help="last date of recorded bars")
    group.add_argument("--interval", metavar="LENGTH", help="of bars [planted: 5m; replay: told]")
    group.add_argument(
        "--stamps",
        choices=("auto", "start", "close"),
        default="auto",
        help="what time stamps of recorded bars mark [auto]",
    )
    group.add_argument("--calendar", default="XNYS", metavar="CODE", help="venue [XNYS]")
    group.add_argument("--time-zone", metavar="NAME", help="of naive time stamps [the venue's]")


def _add_venue(group: Any) -> None:
    group.add_argument("--accounts", default=ACCOUNT, metavar="DU..,..", help=f"[{ACCOUNT}]")
    group.add_argument("--cash", default="1000000", metavar="USD", help="of each [1000000]")
    group.add_argument(
        "--books", metavar="FILE", help="accounts begin as an earlier --truth says they ended"
    )
    group.add_argument("--faults", metavar="FILE", help="YAML of what goes wrong, and when")
    group.add_argument(
        "--lines", type=int, default=100, metavar="N", help="market data lines a client has [100]"
    )
    group.add_argument(
        "--messages-per-second",
        type=int,
        default=50,
        metavar="N",
        help="a client may send [50]",
    )
    group.add_argument(
        "--half-spread-bps", type=float, default=1.0, metavar="BPS", help="of quotes [1.0]"
    )
    group.add_argument("--truth", metavar="FILE", help="JSON of orders, fills and books at the end")


def _add_time(group: Any) -> None:
    time = group.add_mutually_exclusive_group()
    time.add_argument(
        "--stepped",
        action="store_true",
        help="time goes on where a client of the control channel attends or steps, only then",
    )
    time.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="seconds a second; nights pass [1]"
    )


def _add_sockets(group: Any) -> None:
    low, high = VERSIONS
    group.add_argument("--port", type=int, default=PORT, help=f"of the API; 0: any [{PORT}]")
    group.add_argument("--control-port", type=int, default=0, metavar="N", help="0: any [0]")
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="of the control channel [in the temporary folder]",
    )
    group.add_argument(
        "--end-with-input",
        action="store_true",
        help="end when standard input ends, as it does with the program that started this one",
    )
    group.add_argument(
        "--server-version",
        type=int,
        default=high,
        metavar="N",
        help=f"newest version spoken, {low} to {high} [{high}]",
    )


def run_tws(arguments: argparse.Namespace) -> int:
    """Run a gateway until Ctrl-C; see ``dpa sim tws --help``."""
    for option in ("port", "control_port"):
        _within(f"--{option.replace('_', '-')}", getattr(arguments, option), 0, 65535)
    _within("--server-version", arguments.server_version, *VERSIONS)
    _within("--lines", arguments.lines, 0, 100_000)
    _within("--messages-per-second", arguments.messages_per_second, 1, 1_000_000)
    if not 0 < arguments.speed <= 1e6:
        raise ConfigError(f"--speed: {arguments.speed:g}", "give a number above 0, at most 1e6")
    script = Script() if arguments.faults is None else read_script(arguments.faults)
    traits = Traits(
        accounts=accounts_from(arguments.accounts),
        lines=arguments.lines,
        messages_per_second=arguments.messages_per_second,
    )
    deposit, market = _money(arguments.cash), market_from(arguments)
    speed = 0.0 if arguments.stepped else arguments.speed
    clock = VenueClock(market.starts_at - BEFORE, SystemClock(), speed)
    series = int(f"{market.starts_at:%Y%m%d}")  # fills of another day have other ids
    venue = SimVenue(market, traits, deposit, script=script, clock=clock, series=series)
    if arguments.books is not None:
        venue.take_over(_read_books(Path(arguments.books)))
    asyncio.run(_serve(venue, arguments))
    return 0


def _read_books(path: Path) -> dict[str, Any]:
    """Accounts of a truth."""
    try:
        books: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["accounts"]
        return books
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"--books {path}: cannot be read ({e!r})", "give a --truth") from e


async def _serve(venue: SimVenue, arguments: argparse.Namespace) -> None:
    versions = VERSIONS[0], arguments.server_version
    gateway = Gateway(venue, HOST, arguments.port, versions)
    token_file = arguments.token_file
    async with gateway:
        if token_file is None:
            folder = Path(tempfile.gettempdir())
            token_file = folder / f"dpa-sim-tws-{gateway.port}.token"
        path = Path(token_file)
        token = write_token(path)
        control = Control(
            venue, token, gateway.settled, arguments.stepped, HOST, arguments.control_port
        )
        try:
            await control.start()
            _stop_on_signals(control.stop)
            if arguments.end_with_input:
                _stop_on_end(control.stop)
            print(_announcement(venue, gateway.port, control.port, path), flush=True)
            await control.run()
        finally:
            await control.close()
            path.unlink(missing_ok=True)
    if arguments.truth is not None:
        _write_truth(venue, Path(arguments.truth))


def _announcement(venue: SimVenue, port: int, control_port: int, token_file: Path) -> str:
    market = venue.market
    return (
        f"{market.panel.n_assets} names, {market.starts_at:%Y-%m-%d %H:%M} to "
        f"{market.ends_at:%Y-%m-%d %H:%M} UTC, accounts {', '.join(venue.accounts.by_name)}\n"
        f"API on {HOST}:{port}\n"
        f"control on {HOST}:{control_port}, token in {token_file}\n"
        "Ctrl-C ends it"
    )


def _stop_on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _stop_on_end(stop: Callable[[], None]) -> None:
    def look() -> None:
        if not os.read(source, 4096):
            loop.remove_reader(source)
            stop()

    loop, source = asyncio.get_running_loop(), sys.stdin.fileno()
    try:
        loop.add_reader(source, look)
    except PermissionError as e:
        what = "--end-with-input: standard input is no pipe and no terminal"
        raise ConfigError(what, "leave it out, or start it from a program with a pipe") from e


def _write_truth(venue: SimVenue, path: Path) -> None:
    try:
        path.write_text(json.dumps(venue.truth(), indent=1) + "\n", encoding="utf-8")
    except OSError as e:
        raise DataError(f"{path}: cannot be written ({e.strerror})", "choose another file") from e


def market_from(arguments: argparse.Namespace) -> Market:
    """The market that the options name."""
    if not 0 <= arguments.half_spread_bps <= 1000:
        raise ConfigError(
            f"--half-spread-bps: {arguments.half_spread_bps:g}", "give 0 to 1000 basis points"
        )
    book = Book(half_spread_bps=arguments.half_spread_bps)
    sessions, history = arguments.sessions, arguments.history
    _within("--history", history, 0, 10_000)
    if sessions is not None:
        _within("--sessions", sessions, 1, 10_000)
    if arguments.replay is None:
        _refuse_options(arguments, "--planted", "symbols", "end", "time_zone")
        names = 40 if arguments.names is None else arguments.names
        _within("--names", names, 1, 10_000)
        return planted_market(
            arguments.planted,
            names,
            sessions or 1,
            history,
            arguments.interval or "5m",
            arguments.start or "2024-06-17",
            book,
            arguments.calendar,
        )
    _refuse_options(arguments, "--replay", "names")
    symbols = arguments.symbols
    data = DataConfig(
        path=arguments.replay,
        calendar=arguments.calendar,
        interval=arguments.interval,
        stamps=arguments.stamps,
        time_zone=arguments.time_zone,
        start=arguments.start,
        end=arguments.end,
        names=None if symbols is None else tuple(s.strip() for s in symbols.split(",")),
        drop_empty_names=True,
    )
    return replayed_market(data, history, sessions, book)


def _refuse_options(arguments: argparse.Namespace, mode: str, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} means nothing with {mode}", "leave it out")


def accounts_from(text: str) -> tuple[str, ...]:
    """Names of accounts, separated by commas."""
    names = tuple(name.strip() for name in text.split(","))
    good = all(name.isalnum() and name.isascii() for name in names)
    if not good or len(set(names)) < len(names) or len(names) > MOST_ACCOUNTS:
        raise ConfigError(f"--accounts: {text!r}", "write names such as DU1234567, each once")
    return names


def _money(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation as e:
        raise ConfigError(f"--cash: {text!r} is not a number", "give USD, such as 1000000") from e
    if not amount.is_finite() or amount < 0:
        raise ConfigError(f"--cash: {text!r}", "give 0 or more")
    return amount


def _within(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag}: {value}", f"give {low} to {high}")
