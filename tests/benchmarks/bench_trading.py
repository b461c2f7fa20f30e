"""From a bar's close to orders on the wire, bursts, the kill switch, and the journal.

    python tests/benchmarks/bench_trading.py

Engine, dealer, journal (``synchronous=FULL``), IbkrBroker and ib_insync are the product's and run
in this process; TWS is the project's simulated gateway in another process, on a socket of loopback.
Stand-ins: a feed that has the bar of all symbols at its close and sound quotes, and a decider that
answers at once with targets of all symbols. Nothing fills while it is timed, but 500 positions are
held. Moments are those of the machine's monotonic clock, which both processes share.
"""

from trading_runs import (  # noqa: I001
    CALENDAR, CANCEL, GLOBAL_CANCEL, INTERVAL, NO_LIMIT, PLACE, Desk, GatewayProcess, ShiftedClock,
    StandInDecider, bench_settings, default_settings, desk, gateway_process, machine,
)  # fmt: skip

import argparse
import asyncio
import functools
import inspect
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from dpa.clock import SystemClock
from dpa.config import IbkrConfig, Settings
from dpa.errors import UserError
from dpa.market.calendars import TradingCalendar
from dpa.trading.dealer import Dealer
from dpa.trading.engine import Engine
from dpa.trading.ibkr.broker import IbkrBroker
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.contracts import Contracts
from dpa.trading.ibkr.words import write_order
from dpa.trading.identity import intent_id
from dpa.trading.journal import Journal
from dpa.trading.live_orders import LiveOrders
from dpa.trading.places import Places, Start
from dpa.trading.sender import Sender
from dpa.trading.switch import Level, Switch
from dpa.trading.throttle import Throttle
from dpa.trading.types import (
    Commission, Execution, Intent, Order, OrderState, Purpose, Side, Style,
)  # fmt: skip

TEN_CENTS = Decimal("0.10")
LAW, PACE = 50, 45  # messages a second: what TWS takes, and what is sent
AHEAD = timedelta(seconds=0.25)  # of a close, when the clock arrives there


def quantiles(seconds: Sequence[float], *of: float) -> str:
    """Milliseconds, as cells of a table; nothing where there is nothing."""
    if not seconds:
        return " | ".join("" for _ in of)
    return " | ".join(f"{1e3 * float(np.quantile(seconds, q)):.1f}" for q in of)


# where the time goes


class Parts:
    """Seconds of some methods, what they call among them left out."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._stack: list[list[float]] = []

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        self._stack.append([0.0])
        try:
            yield
        finally:
            took = time.perf_counter() - began
            inner = self._stack.pop()[0]
            self.spent[name] = self.spent.get(name, 0.0) + took - inner
            if self._stack:
                self._stack[-1][0] += took

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def later(*args: Any, **kwargs: Any) -> Any:
                with self._timed(name):
                    return await method(*args, **kwargs)

            return later

        @functools.wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self._timed(name):
                return method(*args, **kwargs)

        return watched

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time them until the end."""
        places: list[tuple[str, type, str]] = [
            ("bar, worth of the account, snapshot", Engine, "_take"),
            ("decision (stand-in)", StandInDecider, "decide"),
            ("targets of the decision", Engine, "_decided"),
            ("intents", Engine, "_intent"),
            ("checks of all, exposure", Dealer, "_sort"),
            ("commit of intents and orders, one fsync", Journal, "commit_intents"),
            ("first limits, queue", Dealer, "_commit"),
            ("second look at each", Sender, "_look"),
            ("limit of the moment", Sender, "_priced"),
            ("commit of 'sent', one fsync", LiveOrders, "keep"),
            ("switch read again before each", Sender, "allowed"),
            ("IbkrBroker, ib_insync, socket", IbkrBroker, "place"),
        ]
        with ExitStack() as stack:
            for name, owner, method in places:
                watched = self._watched(name, getattr(owner, method))
                stack.enter_context(patch.object(owner, method, watched))
            yield


# bar close to orders on the wire


class Bars:
    """What was measured bar by bar."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.last: list[float] = []
        self.cpu: list[float] = []
        self.orders: list[int] = []
        self.parts: dict[str, list[float]] = {}
        self.seconds: list[float] = []  # on the wire, of the last bar

    def row(self, name: str) -> str:
        """A row of the table."""
        sent = f"{min(self.orders)}" if min(self.orders) == max(self.orders) else (
            f"{min(self.orders)} to {max(self.orders)}")  # fmt: skip
        return (
            f"| {name} | {len(self.orders)} | {sent} | {quantiles(self.first, 0.5, 0.99)} "
            f"| {quantiles(self.last, 0.5, 0.99)} | {1e3 * float(np.mean(self.cpu)):.0f} |"
        )


def closes_of(clock: ShiftedClock) -> list[datetime]:
    """Closes of the session's bars to come, the last half hour left out."""
    day = pd.Timestamp(clock.now()).tz_convert("America/New_York").normalize().tz_localize(None)
    times = TradingCalendar(CALENDAR).bar_closes(INTERVAL, day, day)
    now = clock.now() + 2 * AHEAD
    return [t.to_pydatetime() for t in times[:-6] if t.to_pydatetime() > now]


async def run_bar(d: Desk, closes: datetime) -> float:
    """Let a bar close; the moment it closed."""
    d.clock.jump(closes - AHEAD)
    d.feed.renew()
    d.feed.closes = closes
    d.engine.wake.set()
    await asyncio.sleep(AHEAD.total_seconds() / 2)
    d.sent.clear()
    return d.clock.monotonic_at(closes)


async def bars(gateway: GatewayProcess, folder: Path, n_bars: int, pace: int,
               profile: bool = False, settings: Settings | None = None) -> Bars:  # fmt: skip
    """Let `n_bars` bars close, each with an order of every symbol; none is filled."""
    found, parts = Bars(), Parts()
    settings = settings or bench_settings(messages_per_second=pace or 1000)
    n_names = len(gateway.quotes)
    async with desk(gateway, folder, settings, pace) as d:
        closes = closes_of(d.clock)
        for _ in range(40):  # at a pace, not all are bought at the first bar
            if len(d.dealer.positions) == n_names:
                break
            await buy_once(d, closes.pop(0))
        assert len(d.dealer.positions) == n_names, len(d.dealer.positions)
        with parts.watching() if profile else ExitStack():
            for k in range(n_bars + 1):  # the first one warms up
                await one_bar(d, closes.pop(0), 200.0 if k % 2 else 0.0, n_names, found, parts)
                if k == 0:
                    found = Bars()
        assert not [a for a in d.alerts if a.severity >= 2], d.alerts
    return found


async def buy_once(d: Desk, closes: datetime) -> None:
    """Buy what is not held yet."""
    d.feed.raised, d.decider.target = Decimal("1.01"), 100.0
    await run_bar(d, closes)
    await asyncio.sleep(0.5)
    await d.until(lambda: not d.dealer.live_orders and not d.engine.state.targets, 90)
    d.feed.raised = Decimal(1)
    d.feed.renew()
    await d.quiet()


async def one_bar(d: Desk, closes: datetime, target: float, n_names: int, found: Bars,
                  parts: Parts) -> None:  # fmt: skip
    """A bar, and what was measured of it."""
    d.decider.target = target
    closed = await run_bar(d, closes)
    parts.spent.clear()
    used = time.process_time()

    def placed() -> list[float]:
        return [at for at, kind in d.sent if kind == PLACE]

    def over() -> bool:
        if time.monotonic() < closed + 0.05:
            return False
        waits = len(d.dealer._sender.queue) or d.dealer._turn.locked()
        return len(placed()) >= n_names or (bool(placed()) and not waits)

    await d.until(over, 120)
    found.cpu.append(time.process_time() - used)
    moments = placed()[:n_names]
    found.first.append(moments[0] - closed)
    found.last.append(moments[-1] - closed)
    found.orders.append(len(moments))
    found.seconds = [at - closed for at in moments]
    for name, seconds in parts.spent.items():
        found.parts.setdefault(name, []).append(seconds)
    d.decider.target = 100.0  # nothing more to do
    await d.quiet()


async def bare(gateway: GatewayProcess, n_names: int, rounds: int) -> tuple[list[float], float]:
    """The same orders through the client alone: seconds from the first call to the last, CPU."""
    clock = ShiftedClock(gateway.now)
    config = IbkrConfig(ibkr_port=gateway.port, client_id=99)
    client = TwsClient(config, clock, 0)
    await client.open()
    contracts = Contracts(client)
    names = sorted(gateway.quotes)[:n_names]
    await contracts.learn(names)
    now = clock.now()
    orders = []
    for k, symbol in enumerate(names):
        bid = gateway.quotes[symbol][0]
        intent = make_intent("DU1234567", symbol, f"bare {k}", now, Side.BUY, 100, bid)
        order = write_order(client.library.order, intent, bid - TEN_CENTS)
        orders.append((contracts.contract(symbol), order))
    took, used = [], 0.0
    for _ in range(rounds):
        first = client.next_order_id
        began, cpu = time.monotonic(), time.process_time()
        for k, (contract, order) in enumerate(orders):
            order.orderId = first + k
            client.call("placeOrder", first + k, contract, order)
        took.append(time.monotonic() - began)
        used += time.process_time() - cpu
        client.raise_order_id(first + len(orders))
        assert await client.round_trip(30)
        client.call("reqGlobalCancel")
        assert await client.round_trip(30)
        assert gateway.live == 0
    client.close()
    return took, used / rounds


def make_intent(account: str, symbol: str, decision: str, now: datetime, side: Side, shares: int,
                price: Decimal, seconds: float = 600.0) -> Intent:  # fmt: skip
    """To enter ten cents below `price`, the bid: nothing of it is filled."""
    return Intent(
        id=intent_id(account, decision, symbol, side, Purpose.ENTER),
        account=account,
        decision=decision,
        symbol=symbol,
        side=side,
        shares=shares,
        style=Style.LIMIT,
        purpose=Purpose.ENTER,
        decided_at=now,
        expires_at=now + timedelta(seconds=seconds),
        reference=price,
        limit=price - TEN_CENTS,
    )


def resting(d: Desk, symbols: Sequence[str], decision: str) -> list[Intent]:
    """Intents to buy that rest."""
    now, account = d.clock.now(), d.broker.account
    return [
        make_intent(account, s, decision, now, Side.BUY, 100, d.feed.prices[s][0]) for s in symbols
    ]


async def print_bars(given: argparse.Namespace, scratch: Path) -> None:
    """The tables of bar close to wire."""
    print(f"### Bar close to orders on the wire, {given.names} symbols\n")
    with gateway_process(given.names) as gateway:
        free = await bars(gateway, scratch / "free", given.bars, 0)
    with gateway_process(given.names) as gateway:
        told = await bars(gateway, scratch / "parts", max(given.bars // 2, 5), 0, profile=True)
    with gateway_process(given.names) as gateway:
        floor, cpu = await bare(gateway, given.names, given.bars)
    print(f"{machine()}\n")
    print("| messages a second | bars | orders sent | first order p50, ms | p99 "
          "| last order p50, ms | p99 | CPU a bar, ms |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    print(free.row("no limit"))
    print(f"| the client alone, no limit | {len(floor)} | {given.names} | | "
          f"| {quantiles(floor, 0.5, 0.99)} | {1e3 * cpu:.0f} |")  # fmt: skip
    sys.stdout.flush()
    if given.paced_bars:
        settings = default_settings()
        assert settings.trading.messages_per_second == PACE
        with gateway_process(given.names) as gateway:
            gateway.limit(LAW)
            held = await bars(gateway, scratch / "paced", given.paced_bars, PACE, settings=settings)
            most, refused = max(m[2] for m in gateway.messages()), gateway.refusals()
        limits = f"queue_seconds {settings.trading.queue_seconds:g}, "
        limits += f"max_orders_per_minute {settings.risk.max_orders_per_minute}"
        print(held.row(f"{PACE}, all defaults: {limits}"), flush=True)
        print(f"  (gateway: most messages in a second {most}, refused {refused})")
        assert most <= LAW
        assert not refused
    print("\n| where the time goes, no limit, mean ms a bar | |\n|---|---|")
    whole = float(np.mean(told.last))
    means = {name: float(np.mean(seconds)) for name, seconds in told.parts.items()}
    for name, seconds in means.items():
        print(f"| {name} | {1e3 * seconds:.1f} |")
    rest = whole - sum(means.values())
    print(f"| the rest: event loop, waking, answers read | {1e3 * rest:.1f} |")
    print(f"| whole, last order | {1e3 * whole:.1f} |")
    print("\n(The parts are timed in other bars; timing them makes these slower.)\n", flush=True)


# bursts


async def print_burst(given: argparse.Namespace, scratch: Path) -> None:
    """1,000 orders at once, and cancels in the middle."""
    n_orders, n_cancels = given.burst, given.burst // 10
    with gateway_process(n_orders) as gateway:
        settings = bench_settings(queue_seconds=600, order_seconds=3600, most_working=2 * n_orders,
                                  messages_per_second=PACE)  # fmt: skip
        gateway.limit(LAW)
        async with desk(gateway, scratch / "burst", settings, PACE) as d:
            await asyncio.sleep(1.1)
            gateway.messages()
            began, used = time.monotonic(), time.process_time()
            intents = resting(d, d.feed.symbols, "burst")
            sending = asyncio.create_task(d.dealer.submit(intents, d.feed.quotes()))
            await d.until(lambda: sum(k == PLACE for _, k in d.sent) > n_orders * 0.4, 120)
            working = [o for o in d.dealer.live_orders if o.state is OrderState.WORKING]
            asked = time.monotonic()
            await d.dealer.cancel(working[:n_cancels])
            refusals = await sending
            assert refusals == (), [refusal.what for refusal in refusals[:3]]
            await d.until(lambda: sum(k == PLACE for _, k in d.sent) >= n_orders, 120)
            took, used = time.monotonic() - began, time.process_time() - used
            await asyncio.sleep(0.2)
            messages = gateway.messages()
            refused = gateway.refusals()
            gateway.limit(NO_LIMIT)
            await d.dealer.kill("bench", "the burst is over")
    after = [kind for at, kind, _ in messages if at >= asked and kind in (PLACE, CANCEL)]
    cancels = [k for k, kind in enumerate(after) if kind == CANCEL]
    at_cancels = [at for at, kind, _ in messages if at >= asked and kind == CANCEL]
    most = max(count for _, _, count in messages)
    passed = sum(kind == PLACE for kind in after[cancels[0] : cancels[-1]])
    print(f"### {n_orders} orders at once, {n_cancels} cancels asked for in the middle\n")
    print(f"{machine()}\n\n| | |\n|---|---|")
    print(f"| sent | {took:.1f} s, {n_orders / took:.1f} orders a second; CPU {used:.2f} s |")
    print(f"| most messages in any second, as the gateway counted (law {LAW}) | {most} |")
    print(f"| refused by the gateway | {refused} |")
    print(f"| orders that went between the request and the first cancel | {cancels[0]} |")
    print(f"| orders between the first and the last cancel | {passed} |")
    print(f"| request to first cancel, to last of {len(cancels)} | {at_cancels[0] - asked:.2f} s, "
          f"{at_cancels[-1] - asked:.2f} s |\n", flush=True)  # fmt: skip
    assert most <= LAW
    assert not refused
    assert len(cancels) == n_cancels


# the kill switch


def pace_of(d: Desk, messages_per_second: int) -> None:
    """Send so fast from now on; 0: no limit."""
    config = d.broker.settings
    d.broker.client.pace = TwsClient(config, d.clock, messages_per_second).pace
    trading = d.dealer._settings.trading
    d.dealer._sender.queue = Throttle(messages_per_second or 1000, trading.queue_seconds,
                                      trading.most_working)  # fmt: skip


async def have_working(d: Desk, symbols: Sequence[str], decision: str) -> None:
    """Orders that rest, sent and heard of as fast as it goes: nothing is timed here."""
    pace_of(d, 0)
    assert await d.dealer.submit(resting(d, symbols, decision), d.feed.quotes()) == ()
    await d.until(lambda: sum(o.state is OrderState.WORKING for o in d.dealer.live_orders)
                  == len(symbols), awake=True)  # fmt: skip
    pace_of(d, PACE)
    d.gateway.endings()
    d.sent.clear()


async def kill_trial(d: Desk, n_orders: int, more: int, name: str) -> dict[str, float]:
    """A kill, from the request on; `more` orders are being sent meanwhile."""
    await have_working(d, d.feed.symbols[:n_orders], name)
    sending = None
    if more:
        others = resting(d, d.feed.symbols[n_orders : n_orders + more], name)
        sending = asyncio.create_task(d.dealer.submit(others, d.feed.quotes()))
        await d.until(lambda: len(d.sent) >= PACE // 2)
        d.sent.clear()
    asked = time.monotonic()
    killed = await d.dealer.kill("bench", name)
    handed = [at for at, kind in d.sent if kind in (CANCEL, GLOBAL_CANCEL)]
    everything = next(at for at, kind in d.sent if kind == GLOBAL_CANCEL)
    late = [at for at, kind in d.sent if kind == PLACE and at > everything]
    if sending is not None:
        await sending
    await d.until(lambda: not d.dealer.live_orders)
    assert await d.broker.alive(10)
    cancels = [at for at, kind in d.sent if kind in (CANCEL, GLOBAL_CANCEL)]
    assert d.switch.level is Level.HALTED
    assert d.gateway.live == 0
    assert not late, "an order left after everything was cancelled"
    found = {
        "everything": everything - asked,
        "kill": handed[-1] - asked,
        "last": cancels[-1] - asked,
        "ended": d.gateway.endings()[-1] - asked,
        "cancels": len(cancels),
        "seconds": killed.seconds,
        "verified": float(killed.verified),
    }
    d.switch.read()
    d.switch.resume("Ada", "the trial is over")
    return found


async def print_kill(given: argparse.Namespace, scratch: Path) -> None:
    """Kills from within and from outside, and what holds afterwards."""
    storage = scratch / "killed"
    places = Places(storage)
    places.make()
    n_orders = given.working
    settings = bench_settings(messages_per_second=PACE, queue_seconds=600, order_seconds=3600)
    print(f"### Kill switch, {n_orders} live orders, {PACE} messages a second\n")
    with gateway_process(n_orders + 100) as gateway:
        async with desk(gateway, places.folder, settings, 0) as d:
            d.dealer.halt("is it kept?")
        await holds(gateway, places, settings)  # first: later every order of the trials is told
        print("| request to | | trials | p50, ms | p99 | max |\n|---|---|---|---|---|---|")
        async with desk(gateway, places.folder, settings, 0) as d:
            used = time.process_time()
            half = -(-given.kills // 2)
            rows = (0, given.kills, "at rest"), (100, half, "while 100 more are sent")
            for more, count, words in rows:
                trials = [
                    await kill_trial(d, n_orders, more, f"kill {more} {k}") for k in range(count)
                ]
                for key, what in (("everything", "'cancel everything' on the wire"),
                                  ("ended", "the gateway has ended the last order"),
                                  ("kill", "last cancel that went at once"),
                                  ("last", "last cancel sent, those that waited too")):  # fmt: skip
                    cells = quantiles([t[key] for t in trials], 0.5, 0.99, 1.0)
                    print(f"| {what} | {words} | {len(trials)} | {cells} |")
                cancels = np.mean([t["cancels"] for t in trials])
                sure = sum(t["verified"] for t in trials)
                print(f"| (cancels {cancels:.0f} a trial; gone when asked at once in {sure:.0f}) "
                      f"| {words} | | | | |", flush=True)  # fmt: skip
            used = (time.process_time() - used) / (given.kills + half)
            ibkr = IbkrConfig(ibkr_port=gateway.port)
            trading = settings.trading.model_copy(update={"broker": "ibkr"})
            kept = settings.model_copy(update={"ibkr": ibkr, "trading": trading})
            places.keep(Start(settings=kept, storage=storage))
            outside = [await kill_outside(d, storage, n_orders, k) for k in range(given.outside)]
            for key, what in (("ended", "start of `dpa kill` to the last order ended"),
                              ("said", "what it says it took"),
                              ("whole", "start of the process to its end")):  # fmt: skip
                cells = quantiles([t[key] for t in outside], 0.5, 0.99, 1.0)
                print(f"| {what} | another process | {len(outside)} | {cells} |")
            print(f"\nCPU of a trial, with its {n_orders} orders: {used:.2f} s; {machine()}")
    print(flush=True)


async def kill_outside(d: Desk, storage: Path, n_orders: int, number: int) -> dict[str, float]:
    """``dpa kill`` while this trader holds its connection; resumed by a person."""
    await have_working(d, d.feed.symbols[:n_orders], f"outside {number}")
    command = [sys.executable, "-m", "dpa.cli", "kill", "--storage", str(storage), "--by", "Ada",
               "--why", "a trial"]  # fmt: skip
    asked = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    whole = time.monotonic() - asked
    assert process.returncode == 0, (out, err)
    said = re.search(r"([0-9.]+) s after the request", out.decode())
    assert said is not None, out
    await d.until(lambda: not d.dealer.live_orders)
    assert d.switch.level is Level.HALTED
    assert d.gateway.live == 0
    ended = d.gateway.endings()[-1] - asked
    d.switch.read()
    d.switch.resume("Ada", "the trial is over")
    return {"whole": whole, "said": float(said[1]), "ended": ended}


async def holds(gateway: GatewayProcess, places: Places, settings: Settings) -> None:
    """A halt outlives its trader; only a named person ends it."""
    assert Switch(places.switch, SystemClock()).level is Level.HALTED
    async with desk(gateway, places.folder, settings, 0) as d:
        assert d.switch.level is Level.HALTED
        symbols = d.feed.symbols[:5]
        refusals = await d.dealer.submit(resting(d, symbols, "after a restart"), d.feed.quotes())
        assert {r.code.value for r in refusals} == {"level"}, refusals
        assert len(refusals) == len(symbols)
        for nobody in ("", "  "):
            try:
                d.switch.resume(nobody, "nobody says so")
            except UserError:
                continue
            raise AssertionError("nobody resumed it")
        assert d.switch.level is Level.HALTED
        d.switch.read()
        d.switch.resume("Ada", "looked at")
        refusals = await d.dealer.submit(resting(d, symbols, "resumed"), d.feed.quotes())
        assert refusals == (), refusals
        await d.quiet()
    print("A halt holds through a restart of the trader: nothing is sent, a resume without a "
          "name is refused, one by a named person works (asserted).\n", flush=True)  # fmt: skip


# the journal


def print_journal(given: argparse.Namespace, scratch: Path) -> None:
    """Commits, executions, verification."""
    clock, size = SystemClock(), given.names
    commits, commit_cpu, single, together, sent = [], 0.0, [], [], []
    single_cpu = together_cpu = 0.0
    with Journal(scratch / "journal.sqlite", clock) as journal:
        journal.set_baseline("DU1", [], Decimal(10**9), "a beginning")
        number = 0
        for turn in range(given.rounds):
            now = clock.now()
            intents = [
                make_intent("DU1", f"S{k:03d}", f"d{turn}", now, Side.BUY, 100, Decimal("99.99"))
                for k in range(size)
            ]
            orders = [Order(i, 1, number + k + 1, limit=i.limit) for k, i in enumerate(intents)]
            number += size
            began, cpu = time.perf_counter(), time.process_time()
            journal.commit_intents(intents, orders)
            commits.append(time.perf_counter() - began)
            commit_cpu += time.process_time() - cpu
            began = time.perf_counter()
            journal.order_changed(*(replace(o, state=OrderState.SENT) for o in orders))
            sent.append(time.perf_counter() - began)
            journal.order_changed(*(replace(o, state=OrderState.WORKING) for o in orders))
            fills = [execution_of(order, turn, now) for order in orders]
            half = len(fills) // 2
            began, cpu = time.perf_counter(), time.process_time()
            for fill, _ in fills[:half]:
                journal.executed(fill)
            single.append((time.perf_counter() - began) / half)
            single_cpu += (time.process_time() - cpu) / half
            began, cpu = time.perf_counter(), time.process_time()
            with journal.transaction():
                for fill, _ in fills[half:]:
                    journal.executed(fill)
            together.append((time.perf_counter() - began) / half)
            together_cpu += (time.process_time() - cpu) / half
            with journal.transaction():
                for _, fee in fills:
                    journal.charged(fee)
        began, cpu = time.perf_counter(), time.process_time()
        assert journal.verify() == ()
        verify, verify_cpu = time.perf_counter() - began, time.process_time() - cpu
        events = journal.last_event
    turns = given.rounds
    megabytes = (scratch / "journal.sqlite").stat().st_size / 1e6
    print(f"### Journal, synchronous=FULL\n\n{machine()}\n")
    print(f"fsync of 4 kB on that disk: p50 {1e3 * np.median(fsyncs(scratch)):.2f} ms\n")
    print("| | p50 | p99 | CPU, mean |\n|---|---|---|---|")
    print(f"| commit of {size} intents and orders, ms | {quantiles(commits, 0.5, 0.99)} "
          f"| {1e3 * commit_cpu / turns:.1f} |")  # fmt: skip
    print(f"| {size} orders become 'sent', ms | {quantiles(sent, 0.5, 0.99)} | |")
    each = "each in a transaction of its own", single, single_cpu
    for words, seconds, used in (each, (f"{size // 2} in one transaction", together, together_cpu)):
        rates = f"{1 / np.median(seconds):.0f} | {1 / np.quantile(seconds, 0.99):.0f}"
        print(f"| executions a second, {words} | {rates} | {1e3 * used / turns:.2f} ms each |")
    print(f"\nverify: {verify:.1f} s (CPU {verify_cpu:.1f} s) for {events} events, {number} orders "
          f"and as many fills, {megabytes:.0f} MB\n", flush=True)  # fmt: skip


def execution_of(order: Order, turn: int, now: datetime) -> tuple[Execution, Commission]:
    """The whole order, filled at once, and its fee."""
    intent = order.intent
    exec_id = f"0000e0d5.{order.order_id:08x}.01.01"
    fill = Execution(
        exec_id=exec_id,
        account=intent.account,
        symbol=intent.symbol,
        side=intent.side,
        shares=Decimal(intent.shares),
        price=intent.reference + Decimal(turn) / 100,
        time=now,
        ref=intent.id,
        order_id=order.order_id,
        perm_id=order.order_id,
    )
    return fill, Commission(exec_id, Decimal("1.00"))


def fsyncs(folder: Path, count: int = 100) -> list[float]:
    """Seconds of writing 4 kB and waiting for the disk."""
    found = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            found.append(time.perf_counter() - began)
    return found


# the whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=500)
    parser.add_argument("--bars", type=int, default=60, help="timed without a limit, at most 65")
    parser.add_argument(
        "--paced-bars", type=int, default=20, help="timed at the law's pace, half a minute each"
    )
    parser.add_argument("--burst", type=int, default=1000, help="orders at once")
    parser.add_argument("--working", type=int, default=200, help="live orders at a kill")
    parser.add_argument(
        "--kills", type=int, default=100, help="trials at rest; half as many while orders are sent"
    )
    parser.add_argument("--outside", type=int, default=10, help="trials of dpa kill")
    parser.add_argument("--rounds", type=int, default=50, help="of the journal")
    parser.add_argument("--folder", type=Path, help="on a real disk [the temporary folder]")
    parser.add_argument("--parts", default="journal,kill,burst,bars", help="which of them")
    given = parser.parse_args()
    print(f"## Trading\n\n{machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="dpa-trading-", dir=given.folder) as name:
        scratch = Path(name)
        for part in given.parts.split(","):
            if part == "journal":
                print_journal(given, scratch)
            else:
                run = {"bars": print_bars, "burst": print_burst, "kill": print_kill}[part]
                asyncio.run(run(given, scratch))
    print(machine())


if __name__ == "__main__":
    main()
