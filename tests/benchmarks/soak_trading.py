"""Weeks of sessions in one process: does it stay as large, and do the books stay right?

    python tests/benchmarks/soak_trading.py

Engine, dealer, journal, IbkrFeed, IbkrBroker and ib_insync in one process; the project's gateway,
which keeps time and goes down every night, its order numbers rolled back, in another, so that its
record of all orders is not counted. A stand-in decides: random targets from a seed. After each
session the journal is compared with the gateway's books, and memory, tasks of the event loop and
open files are counted. Exit code 1 where anything differs, halts or grows.
"""

from trading_runs import NEWEST, NO_LIMIT, machine  # noqa: I001

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dpa.config import Settings
from dpa.simulation.tws.control import Control
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.markets import Book, planted_market
from dpa.simulation.tws.script import Script, read_fault
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from dpa.trading.books_compared import differences
from dpa.trading.bus import Bus
from dpa.trading.clocks import VirtualClock
from dpa.trading.dealer import Dealer
from dpa.trading.engine import Engine
from dpa.trading.events import Alert, Severity
from dpa.trading.ibkr.broker import IbkrBroker
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.feed import IbkrFeed
from dpa.trading.journal import Journal
from dpa.trading.recorder import KINDS, Recorder
from dpa.trading.runner import Moment, MomentFeed, Runner, TimeKeeper
from dpa.trading.switch import Level, Switch

INTERVAL, CALENDAR = "30m", "XNYS"
ACCOUNT, TOKEN = "DU1234567", "t0ken"
AFTER_CLOSE = timedelta(minutes=5)
WARM = 5  # sessions before growth is looked at
MOST_MB = 0.5  # a session
PAGE = os.sysconf("SC_PAGE_SIZE")


def give_back(journal: Journal) -> None:
    """Give what is free back to the system, so that only what is used is counted.

    SQLite gives its page cache back, too: it is 2 MB at most, and fills while the file grows.
    """
    gc.collect()
    journal._db.execute("PRAGMA shrink_memory")
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such thing
        ctypes.CDLL(None).malloc_trim(0)


class Random:
    """Wants random shares of some symbols at every bar."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    async def decide(self, request: Any) -> Mapping[str, Any]:
        """The decision as the graph gives it, as far as the engine reads it."""
        records = []
        for k, symbol in enumerate(request.names):
            target = float(request.shares[k])
            if self._random.random() < 0.4:
                target = float(self._random.integers(-4, 5) * 50)
            records.append({"symbol": symbol, "target_shares": target, "action": "none",
                            "reason": None})  # fmt: skip
        return {
            "id": f"d-{request.time.isoformat()}",
            "account": request.account,
            "time": request.time.isoformat(),
            "risk": {"level": "NORMAL", "why": ""},
            "symbols": records,
        }


class Watched(TimeKeeper):
    """Calls somebody at every moment, before anything is done."""

    look: Callable[[datetime], None] | None = None

    async def moment(self) -> Moment:
        """See :class:`TimeKeeper`."""
        found = await super().moment()
        if self.look is not None:
            self.look(found.now)
        return found


@dataclass
class Session:
    """What was counted after a session."""

    date: str
    orders: int
    fills: int
    held: int
    restarts: int
    differences: tuple[str, ...]
    halts: int
    megabytes: float
    simulator: float
    journal: float
    tasks: int
    files: int
    threads: int
    cpu: float
    wall: float


@dataclass
class Soak:
    """Counts after each session; `due` are the moments at which they end."""

    venue: "VenueProcess"
    journal: Journal
    switch: Switch
    found: list[Session] = field(default_factory=list)
    alerts: dict[str, int] = field(default_factory=dict)
    critical: list[str] = field(default_factory=list)
    halts: int = 0
    begun: float = field(default_factory=time.perf_counter)
    used: float = field(default_factory=time.process_time)

    def __post_init__(self) -> None:
        self.due = list(self.venue.due)

    def hear(self, event: Any) -> None:
        """Count what went wrong."""
        if isinstance(event, Alert) and event.severity >= Severity.WARNING:
            self.alerts[event.kind] = self.alerts.get(event.kind, 0) + 1
            if event.severity is Severity.CRITICAL and len(self.critical) < 20:
                self.critical.append(f"{event.at}: {event.what}")

    def look(self, now: datetime) -> None:
        """Count, where a session has just ended."""
        if self.due and now >= self.due[0]:
            self.due.pop(0)
            self.count(now)

    def count(self, now: datetime) -> None:
        """Compare and count; a halt is counted, and resumed as a person would."""
        truth, restarts, simulator = self.venue.ask("state")
        wrong = differences(self.journal, truth, ACCOUNT)
        orders, fills = len(truth["orders"]), len(truth["executions"])
        halted = int(self.switch.level is not Level.RUNNING)
        if halted:
            self.critical.append(f"{now}: {self.switch.read().why}")
            self.switch.resume("Ada", "the soak goes on")
        self.halts += halted
        del truth
        give_back(self.journal)
        wall, cpu = time.perf_counter(), time.process_time()
        self.found.append(
            Session(
                f"{now:%Y-%m-%d}",
                orders - sum(s.orders for s in self.found),
                fills - sum(s.fills for s in self.found),
                len(self.journal.ledger(ACCOUNT).positions),
                restarts,
                wrong,
                halted,
                resident(),
                simulator,
                self.journal.path.stat().st_size / 1e6,
                len(asyncio.all_tasks()),
                len(os.listdir("/proc/self/fd")),
                len(os.listdir("/proc/self/task")),
                cpu - self.used,
                wall - self.begun,
            )
        )
        self.begun, self.used = wall, cpu
        print(row(self.found[-1]), flush=True)


COLUMNS = (
    *("session", "orders", "fills", "held", "restarts so far", "differences", "halts"),
    *("RSS, MB", "gateway's RSS, MB", "journal, MB", "tasks", "files", "threads"),
    *("CPU, s", "wall, s"),
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def row(s: Session) -> str:
    """A row of the table."""
    counts = f"{s.tasks} | {s.files} | {s.threads}"
    return (
        f"| {s.date} | {s.orders} | {s.fills} | {s.held} | {s.restarts} | {len(s.differences)} "
        f"| {s.halts} | {s.megabytes:.1f} | {s.simulator:.1f} | {s.journal:.1f} | {counts} "
        f"| {s.cpu:.1f} | {s.wall:.1f} |"
    )


class VenueProcess:
    """The gateway in a process of its own.

    Parameters
    ----------
    names, sessions : int
    """

    def __init__(self, names: int, sessions: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, names, sessions), daemon=True)
        self._process.start()
        theirs.close()
        about = self._ours.recv()
        self.port, self.control, self.now, self.names, self.due = about

    def ask(self, what: str) -> Any:
        """Ask for `what`; the answer."""
        self._ours.send(what)
        return self._ours.recv()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def _serve(pipe: Connection, names: int, sessions: int) -> None:
    asyncio.run(_serving(pipe, names, sessions))


async def _serving(pipe: Connection, names: int, sessions: int) -> None:
    market = planted_market(
        seed=11, names=names, sessions=sessions, history=2, interval=INTERVAL,
        start="2024-06-17", book=Book(quote_seconds=20),
    )  # fmt: skip
    night = read_fault({"do": "restart", "at": "23:45", "seconds": 120, "ids_rolled_back": True})
    venue = SimVenue(
        market,
        Traits(lines=4 * names, messages_per_second=NO_LIMIT, history_requests=NO_LIMIT),
        script=Script(faults=(night,)),
    )
    opens = market.opens[market.live_from]
    due = [c + AFTER_CLOSE for c in venue.hours.closes]
    due = [c for c in due if opens < c < venue.ends_at]
    async with Gateway(venue, versions=(157, NEWEST)) as gateway:
        control = Control(venue, TOKEN, gateway.settled)
        await control.start()
        gone = asyncio.Event()

        def heard() -> None:
            try:
                what = pipe.recv()
            except EOFError:
                gone.set()
                return
            answers = {
                "state": lambda: (venue.truth(), venue.faults.begun.get("restart", 0), resident()),
                "troubles": lambda: list(gateway.troubles),
            }
            pipe.send(answers[what]())

        asyncio.get_running_loop().add_reader(pipe.fileno(), heard)
        pipe.send((gateway.port, control.port, venue.clock.now(), market.panel.names, due))
        keeping = asyncio.create_task(control.run())
        await gone.wait()
        keeping.cancel()


async def trade(venue: VenueProcess, folder: Path) -> tuple[Soak, list[str]]:
    """All sessions; what was counted, and what was wrong besides."""
    settings = Settings.model_validate(
        {
            "trading": {"reconcile_minutes": 15},
            "risk": {"max_gross": 10.0, "max_net": 10.0, "max_name_weight": 1.0},
            "ibkr": {"heartbeat_seconds": 600},  # by the venue's time: nights pass quickly
        }
    )
    problems: list[str] = []
    clock = VirtualClock(venue.now)
    config = settings.ibkr.model_copy(update={"ibkr_port": venue.port})
    broker = IbkrBroker(config, clock, TwsClient(config, clock, 0))
    switch, bus = Switch(folder / "switch.json", clock), Bus(clock)
    keeper = await Watched.connect("127.0.0.1", venue.control, TOKEN)
    try:
        with Journal(folder / "journal.sqlite", clock) as journal:
            soak = Soak(venue, journal, switch)
            bus.subscribe(soak.hear)
            bus.subscribe(Recorder(journal).take, KINDS, on_order_path=True)
            await broker.connect()
            instruments = await broker.instruments(venue.names)
            dealer = Dealer(broker, journal, switch, clock, settings, bus.publish, instruments)
            await dealer.start()
            feed = MomentFeed(
                IbkrFeed(broker.client, broker.contracts, config, INTERVAL, CALENDAR, 2.0, clock),
                clock,
            )
            await feed.start(sorted(instruments))
            engine = Engine(
                feed, Random(3), dealer, instruments, switch, journal, clock, settings,
                INTERVAL, CALENDAR, bus.publish, feed_kind="aggregated", patient=True,
            )  # fmt: skip
            runner = Runner(engine, dealer, broker, switch, clock, settings, bus.publish,
                            uniform=lambda low, high: high)  # fmt: skip
            keeper.look = soak.look
            await runner.run_virtual(clock, keeper, asyncio.Event())
            if soak.due:
                problems.append(f"{len(soak.due)} sessions were not looked at")
            if runner.failures:
                problems.append(f"{runner.failures} steps failed")
            problems += [f"journal: {finding}" for finding in journal.verify()]
    finally:
        await keeper.close()
        await broker.close()
    if broker.client.unreadable:
        problems.append(f"{broker.client.unreadable} messages could not be read")
    problems += [f"gateway: {trouble}" for trouble in venue.ask("troubles")]
    return soak, problems


def slope(values: list[float]) -> float:
    """Growth from one to the next, by a line fitted."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def judge(soak: Soak, problems: list[str]) -> int:
    """Print the sums; 1 where anything is wrong."""
    found = soak.found
    problems += [f"{s.date}: {d}" for s in found for d in s.differences]
    problems += [f"halted: {why}" for why in soak.critical] if soak.halts else []
    warm = found[WARM:] if len(found) > WARM + 2 else found
    own, simulator = (slope([getattr(s, n) for s in warm]) for n in ("megabytes", "simulator"))
    for name in ("tasks", "files", "threads"):
        counts = [getattr(s, name) for s in warm]
        if max(counts) > counts[0] + 2 or counts[-1] > counts[0] + 1:
            problems.append(f"{name} grow: {counts}")
    if own > MOST_MB:
        problems.append(f"memory grows by {own:.2f} MB a session, most {MOST_MB}")
    print(f"\n{sum(s.orders for s in found)} orders, {sum(s.fills for s in found)} fills, "
          f"{found[-1].restarts} restarts, {soak.halts} halts, "
          f"{sum(len(s.differences) for s in found)} differences")  # fmt: skip
    print(
        f"memory: {own:+.3f} MB a session over the last {len(warm)} (fitted); "
        f"that of the simulator, which keeps all orders, {simulator:+.3f}"
    )
    print(f"warnings: {soak.alerts or 'none'}")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--names", type=int, default=8)
    given = parser.parse_args()
    for name in ("dpa", "ib_insync"):  # a gateway that is away is no news here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    print(f"## {given.sessions} sessions with a restart every night\n\n{given.names} names, "
          f"bars of {INTERVAL}; {machine()}\n\n{HEAD}", flush=True)  # fmt: skip
    began, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="dpa-soak-") as scratch:
        venue = VenueProcess(given.names, given.sessions)
        try:
            soak, problems = asyncio.run(trade(venue, Path(scratch)))
        finally:
            venue.close()
    code = judge(soak, problems)
    print(f"{time.perf_counter() - began:.0f} s, CPU {time.process_time() - used:.0f} s; "
          f"{machine()}")  # fmt: skip
    return code


if __name__ == "__main__":
    sys.exit(main())
