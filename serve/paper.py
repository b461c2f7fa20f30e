"""Paper trading on this machine, from nothing: ``python serve/paper.py --help``.

Starts a gateway that speaks the protocol of TWS (in a process of its own), Ray, the decision graph
and the trader; trades days of a market through an unmodified client library and a socket, in
virtual time; and looks at the end whether the books agree with the gateway's.
"""

import argparse
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from dpa.cli import STORAGE, guarded
from dpa.config import TRADING_SECTIONS, DataConfig, Settings
from dpa.errors import ConfigError, DataError, DpaError
from dpa.horizons.promotion import find_bundle
from dpa.hosts.token import ensure_token
from dpa.market.calendars import TradingCalendar, as_date
from dpa.options import OneLineParser, add_settings_options, read_overrides, settings_from
from dpa.runs import write_atomically
from dpa.serving.client import Client, read_token
from dpa.trading.books_compared import differences
from dpa.trading.journal import Journal, JournalReader
from dpa.trading.lease import Lease
from dpa.trading.places import Keeper, Places, Start
from dpa.trading.report import SessionReport, lines, read_facts, write_report
from serve.run import DEMO, prepare_demo

PAPER = "paper"
DEMO_SETTINGS: dict[str, dict[str, Any]] = {
    "costs": {"half_spread_bps": 0.5, "commission_bps": 0.5},  # as the gateway's, for its prices
}
PATIENCE: dict[str, dict[str, Any]] = {  # time waits for answers here
    "serving": {"topology": "fused", "request_seconds": 120.0, "family_ms": 60_000.0},
    "ibkr": {"history_requests": 1000},
}
GATEWAY_SECONDS = 120.0  # to start: it reads the bars
LOOK_SECONDS = 0.2
NO_LIMIT = 1_000_000  # messages a second: time stands still while many are sent
EXAMPLES = """examples:
  python serve/paper.py
  python serve/paper.py --sessions 3 --names 20 --no-end-flat
  python serve/paper.py --replay us_5min_bars.parquet --storage runs --bundle promoted \\
      --start 2025-11-24
  python serve/paper.py --fresh --speed 600 --style market
"""


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(
        prog="paper.py",
        description="Trade paper money on this machine through a simulated TWS gateway, in virtual "
        "time. Without --replay on an\ninvented market, of which a small bundle is trained first "
        "(minutes, once). A second run goes on with the next day.",
        epilog=EXAMPLES,
    )
    run = parser.add_argument_group("what is traded")
    run.add_argument(
        "--storage", type=Path, metavar="PATH", help=f"journal, reports, record [{STORAGE}/{PAPER}]"
    )
    run.add_argument(
        "--bundle", metavar="BUNDLE", help="folder, run, or promoted of the storage [the demo's]"
    )
    run.add_argument(
        "--replay", type=Path, metavar="PATH", help="recorded bars to trade [an invented market]"
    )
    run.add_argument(
        "--start", metavar="DATE", help="first session traded [the one after the newest bar known]"
    )
    run.add_argument("--sessions", type=int, default=1, metavar="N", help="days to trade [1]")
    run.add_argument("--names", type=int, metavar="N", help="the first N of the bundle [all]")
    run.add_argument(
        "--end-flat",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="close everything before the end of each session [yes]",
    )
    run.add_argument(
        "--speed", type=float, metavar="X", help="seconds a second [as fast as it goes]"
    )
    run.add_argument("--faults", type=Path, metavar="FILE", help="what goes wrong at the gateway")
    run.add_argument("--cash", default="1000000", metavar="USD", help="to begin with [1000000]")
    run.add_argument(
        "--fresh", action="store_true", help="forget journal, positions and record kept there"
    )
    run.add_argument("--num-cpus", type=int, metavar="N", help="cores Ray may use here [all]")
    run.add_argument("--dashboard", action="store_true", help="with Ray's dashboard")
    add_settings_options(parser, TRADING_SECTIONS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


@dataclass
class Plan:
    """What is to be run.

    Parameters
    ----------
    arguments : Namespace
    settings : Settings
    storage : Path
    bundle : str
    bars : Path
        What the gateway trades.
    """

    arguments: argparse.Namespace
    settings: Settings
    storage: Path
    bundle: str
    bars: Path
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        self.places = Places(self.storage)


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    plan = _plan(arguments)
    if Lease.is_locked(plan.places.lease):
        raise ConfigError(
            f"a trader runs already: {Lease.holder(plan.places.lease)}",
            "stop it with 'dpa trade stop'",
        )
    if arguments.fresh:
        for folder in (plan.places.folder, plan.storage / "serving"):
            shutil.rmtree(folder, ignore_errors=True)
    plan.places.make()
    with served(plan) as url:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own there
        return _trade(plan, url)


def _check(arguments: argparse.Namespace) -> None:
    for flag, value in (("--sessions", arguments.sessions), ("--names", arguments.names),
                        ("--num-cpus", arguments.num_cpus)):  # fmt: skip
        if value is not None and value < 1:
            raise ConfigError(f"{flag} {value}", "give 1 or more")
    if arguments.speed is not None and not arguments.speed > 0:
        raise ConfigError(f"--speed {arguments.speed:g}", "give more than 0")
    if arguments.replay is not None and arguments.bundle is None:
        raise ConfigError(
            "--replay: which bundle trades it is not said",
            "train one with 'make horizons', then give --storage and --bundle promoted",
        )
    if arguments.replay is not None and not arguments.replay.exists():
        raise ConfigError(f"--replay {arguments.replay}: there is no such file", "check the path")


def _plan(arguments: argparse.Namespace) -> Plan:
    settings = settings_from(arguments)
    given = read_overrides(arguments)
    storage = (arguments.storage or Path(STORAGE) / PAPER).resolve()
    data: dict[str, Any] = {}
    wanted: dict[str, dict[str, Any]] = {name: dict(part) for name, part in PATIENCE.items()}
    if arguments.bundle is None:
        demo = (Path(STORAGE) / DEMO).resolve()
        bars, until = prepare_demo(demo)
        bundle, data = str(find_bundle("promoted", demo)), {"path": str(bars), "end": until}
        for name, part in DEMO_SETTINGS.items():
            wanted[name] = {**wanted.get(name, {}), **part}
    else:
        bundle, bars = arguments.bundle, arguments.replay
        if bars is None or arguments.start is None:
            raise ConfigError(
                "--bundle: a bundle of your own needs bars and a day",
                "give --replay and --start; the bars before that day are its history",
            )
        if bundle != "promoted" and Path(bundle).exists():
            bundle = str(Path(bundle).resolve())
        day = as_date(arguments.start, "--start") - pd.Timedelta(1, "D")
        data = {"path": str(bars.resolve()), "end": f"{day:%Y-%m-%d}"}
    wanted["trading"] = {"broker": "ibkr", "bar_wait_seconds": 0.0}
    if arguments.end_flat:
        wanted["trading"]["session_end"] = "flatten"
    tree = settings.model_dump(mode="json")
    for name, part in ({"data": data} | wanted).items():
        tree[name] |= {k: v for k, v in part.items() if k not in given.get(name, {})}
    return Plan(arguments, Settings.model_validate(tree), storage, bundle, bars.resolve())


# the graph


@contextmanager
def served(plan: Plan) -> Iterator[str]:
    """Ray and the graph, until the end; its address."""
    os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")  # read when Ray starts
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _say("starting Ray and the decision graph")
    import ray
    from ray import serve

    from serve.app import Arguments, app

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sections = set(TRADING_SECTIONS[:-3]) | {"data"}
    tree = plan.settings.model_dump(mode="json", include=sections)
    bound = app(Arguments(storage=str(plan.storage), bundle=plan.bundle, settings=tree))
    ensure_token()  # Ray would leave it readable by everybody
    ray.init(
        address="local",
        namespace="dpa",
        num_cpus=plan.arguments.num_cpus,
        include_dashboard=plan.arguments.dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        serving = plan.settings.serving
        serve.start(http_options={"host": serving.http_host, "port": serving.http_port})
        serve.run(bound, name="dpa", route_prefix="/")
        yield f"http://{serving.http_host}:{serving.http_port}"
    finally:
        ray.shutdown()  # with all of Serve; the graph has its state on the disk at every moment


# the gateway


@dataclass
class GatewayProcess:
    """The gateway, in a process of its own.

    Parameters
    ----------
    process : Popen
    port, control_port : int
    token_file : Path
    """

    process: "subprocess.Popen[str]"
    port: int
    control_port: int
    token_file: Path

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """An op of the control channel; its answer.

        Raises
        ------
        DpaError
            When the gateway has gone, or refuses.
        """
        lines = [
            {"token": self.token_file.read_text(encoding="utf-8").strip()},
            {"op": op} | fields,
        ]
        try:
            with socket.create_connection(("127.0.0.1", self.control_port), 60.0) as connection:
                connection.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
                answer = connection.makefile("rb").readline()
        except OSError as e:
            raise DpaError(f"the gateway does not answer ({e})") from e
        said: dict[str, Any] = json.loads(answer or b"{}")
        if not said.get("ok"):
            raise DpaError(f"the gateway refuses {op}: {said.get('error', 'it has gone')}")
        return said

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def gateway(plan: Plan, names: Sequence[str], first: str) -> Iterator[GatewayProcess]:
    """A gateway that trades from session `first` on, until the end."""
    token_file = plan.places.folder / "gateway.token"
    command = [
        sys.executable,
        "-m",
        "dpa.cli",
        "sim",
        "tws",
        f"--replay={plan.bars}",
        f"--symbols={','.join(names)}",
        f"--start={first}",
        f"--sessions={plan.arguments.sessions}",
        *_data_options(plan.settings.data),
        f"--half-spread-bps={plan.settings.costs.half_spread_bps}",
        f"--lines={3 * len(names)}",
        f"--cash={plan.arguments.cash}",
        f"--token-file={token_file}",
        "--stepped",
        "--end-with-input",
        "--port=0",
    ]
    if (books := _books(plan)) is not None:
        command.append(f"--books={books}")
    if plan.arguments.faults is not None:
        command.append(f"--faults={plan.arguments.faults}")
    with (plan.places.folder / "gateway.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # it ends when this one is killed
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        ports = _announced(process, plan)
        started = GatewayProcess(process, *ports, token_file)
        # time stands still while the trader subscribes: a second has no end for a limiter then
        started.ask("fault", fault={"do": "limits", "messages_per_second": NO_LIMIT,
                                    "history_requests": NO_LIMIT})  # fmt: skip
        yield started
    finally:
        GatewayProcess(process, 0, 0, token_file).end()


def _data_options(data: DataConfig) -> Iterator[str]:
    """How the bars are read, as the settings say."""
    for name in ("calendar", "stamps", "interval", "time_zone"):
        value = getattr(data, name)
        if value is not None:
            yield f"--{name.replace('_', '-')}={value}"


def _announced(process: "subprocess.Popen[str]", plan: Plan) -> tuple[int, int]:
    """Ports of the API and of the control channel, as the gateway prints them."""
    assert process.stdout is not None
    timer = threading.Timer(GATEWAY_SECONDS, process.kill)
    timer.start()
    ports: dict[str, int] = {}
    try:
        for line in process.stdout:
            if found := re.match(r"(API|control) on [^:]+:(\d+)", line):
                ports[found[1]] = int(found[2])
            elif not line.startswith("Ctrl-C"):
                _say(f"gateway: {line.strip()}")
            if len(ports) == 2:
                return ports["API"], ports["control"]
    finally:
        timer.cancel()
    words = (plan.places.folder / "gateway.log").read_text(encoding="utf-8").strip()
    raise DpaError(f"the gateway did not start: {words.splitlines()[-1] if words else 'silent'}")


# trading


def _trade(plan: Plan, url: str) -> int:
    from serve.trader import start_trader, stop_trader

    token = read_token(plan.storage / "serving" / "token")
    with Client(url, token, retry_seconds=60.0) as client:
        about = client.bundle()
    names = list(about["names"])[: plan.arguments.names]
    first = _next_session(plan, about["newest_bar"])
    _say(f"serving at {url}/ ({len(names)} names, {', '.join(about['families'])})")
    with gateway(plan, names, first) as running:
        start = _start(plan, url, names, running)
        begun = running.ask("state")["state"]["now"]
        handle, status = start_trader(start)
        if status["state"] == "waiting":
            _say(f"the trader waits: {status['why']}")
        _say(f"trading from {first}; the page is {url}/")
        if status["level"] != "RUNNING":
            _say(f"trading is {status['level']} ({status['level_by']}: {status['level_why']}); "
                 f"'dpa trade resume --storage {plan.storage}' ends that")  # fmt: skip
        interrupted = False
        try:
            try:
                status = _follow(handle, begun)
            except KeyboardInterrupt:
                _say("stopping")
                interrupted = True
                status = stop_trader(handle) or status
            truth = running.ask("state")["state"] | {"begun": begun}
        finally:
            stop_trader(handle)
    return _conclude(plan, status, truth, interrupted)


def _start(plan: Plan, url: str, names: list[str], running: GatewayProcess) -> Start:
    ibkr = plan.settings.ibkr.model_copy(
        update={
            "ibkr_host": "127.0.0.1",
            "ibkr_port": running.port,
            "market_data_lines": 2 * len(names) + 2,
        }
    )
    return Start(
        settings=plan.settings.model_copy(update={"ibkr": ibkr}),
        storage=plan.storage,
        url=url,
        names=tuple(names),
        speed=plan.arguments.speed or 0.0,
        keeper=Keeper(host="127.0.0.1", port=running.control_port, token_file=running.token_file),
    )


def _next_session(plan: Plan, newest: str | None) -> str:
    """Date of the first session of the bars after the newest bar that the graph knows."""
    from dpa.market.last_bars import last_bars

    data = plan.settings.data
    config = DataConfig(
        path=str(plan.bars), calendar=data.calendar, interval=data.interval, stamps=data.stamps,
        time_zone=data.time_zone, drop_empty_names=True,
    )  # fmt: skip
    times = last_bars(config, 10**9).times
    zone = TradingCalendar(data.calendar).time_zone
    dates = times.tz_convert(zone).strftime("%Y-%m-%d").unique()
    known = "" if newest is None else pd.Timestamp(newest).tz_convert(zone).strftime("%Y-%m-%d")
    later = [date for date in dates if date > known]
    if plan.arguments.start is not None:
        later = [date for date in later if date >= plan.arguments.start]
    if len(later) < plan.arguments.sessions:
        raise DataError(
            f"{plan.bars}: {len(later)} sessions after {known}, {plan.arguments.sessions} wanted",
            "begin anew with --fresh, or give --sessions",
        )
    return str(later[0])


def _books(plan: Plan) -> Path | None:
    """Cash and positions as the journal has them, for the gateway; none: it has nothing yet."""
    if not plan.places.journal.exists():
        return None
    with Journal.reader(plan.places.journal) as journal:
        account = journal.value("account")
        if account is None or journal.baseline(account) is None:
            return None
        ledger = journal.ledger(account)
    held = {
        symbol: {"shares": str(position.shares), "average_cost": str(position.average_cost)}
        for symbol, position in ledger.positions.items()
    }
    path = plan.places.folder / "gateway.json"
    books = {"accounts": {account: {"cash": str(ledger.cash), "positions": held}}}
    path.write_text(json.dumps(books), encoding="utf-8")
    return path


def _follow(handle: Any, begun: str) -> dict[str, Any]:
    """Print a line a bar until the market has ended; the last status."""
    import ray
    from ray.exceptions import RayActorError

    from serve.trader_link import find_trader

    shown = None
    told: set[tuple[str, str]] = set()
    status: dict[str, Any] = {}
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            status = ray.get(handle.status.remote(), timeout=60.0)
        except RayActorError:
            if find_trader() is None:
                _say("the trader was stopped")
                return {**status, "state": "stopped"}
            _say("the trader died and is started again")
            continue
        for alert in status["alerts"]:
            earlier = pd.Timestamp(alert["at"]) < pd.Timestamp(begun)
            if not earlier and (alert["at"], alert["what"]) not in told:
                told.add((alert["at"], alert["what"]))
                _say(f"  {alert['severity']}: {alert['what']}")
        if status.get("bar") and status["bar"] != shown:
            shown = status["bar"]
            _say(_line(status))
        if status["state"] in ("ended", "refused", "stopped"):
            return status


def _line(status: Mapping[str, Any]) -> str:
    at = pd.Timestamp(status["bar"]).tz_convert("America/New_York")
    gross = next(limit["value"] for limit in status["limits"] if limit["name"] == "gross exposure")
    return (
        f"{at:%Y-%m-%d %H:%M}  {status['level'].lower():<10} {len(status['positions']):>3} held"
        f"  {len(status['orders']):>3} working  {status['fills']:>5} fills"
        f"  gross {gross or 0.0:6.1%}  NAV {status['nav'] or float('nan'):>14,.2f}"
        f"  today {status['pnl_today'] or 0.0:>+11,.2f} USD"
    )


def _conclude(
    plan: Plan, status: Mapping[str, Any], truth: Mapping[str, Any], interrupted: bool
) -> int:
    """Compare the books with the gateway's, and write the report."""
    _keep_truth(plan, truth)
    with Journal.reader(plan.places.journal) as journal:
        account = journal.value("account")
        damage = [str(finding) for finding in journal.verify()]
        found = differences(journal, truth, account)
        for text in _report(plan, journal, account, truth):
            _say(text)
    for problem in (*damage, *found):
        _say(f"differs: {problem}")
    if status["state"] == "refused":
        _say(f"the trader gave up: {status['why']}")
    if not (damage or found):
        n = len(truth["executions"])
        _say(f"the journal and the gateway agree: {n} fills, every position, cash to the cent")
    if damage or found or status["state"] == "refused":
        return 1
    return 130 if interrupted else 0


def _keep_truth(plan: Plan, truth: Mapping[str, Any]) -> None:
    """Keep the gateway's own record of orders and fills beside the report, for ``dpa trace``."""
    record = {name: truth[name] for name in ("now", "orders", "executions")}
    folder = plan.places.reports / f"{pd.Timestamp(truth['begun']):%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "gateway.json", json.dumps(record) + "\n")


def _report(
    plan: Plan, journal: JournalReader, account: str, truth: Mapping[str, Any]
) -> Iterator[str]:
    """Write the report of what was traded in this run; its text."""
    ended = pd.Timestamp(truth["now"]).to_pydatetime() + timedelta(seconds=1)
    begun = pd.Timestamp(truth["begun"]).to_pydatetime()
    report = SessionReport.of(read_facts(journal, account, begun, ended), plan.settings)
    folder = plan.places.reports / f"{begun:%Y-%m-%d}"
    document, page = write_report(report, folder)
    text = lines(report)
    write_atomically(folder / "report.txt", "\n".join(text) + "\n")
    yield ""
    yield from text
    yield ""
    yield f"report  {page}"
    yield f"        {document}"
    yield f"journal {plan.places.journal}"


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
