"""The loops: what is raised halts, what is lost is connected again, time is kept by others."""

import asyncio
import contextlib
import gc
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from dpa.config import Settings
from dpa.errors import HaltError, OutcomeUnknown, TransientError
from dpa.trading.clocks import VirtualClock
from dpa.trading.events import Alert, BarTaken, Decided, Severity
from dpa.trading.runner import MomentFeed, Runner, TimeKeeper
from dpa.trading.switch import Level
from dpa.trading.types import Quote
from tests.trading.engine_market import (
    Desk,
    MemorySwitch,
    decision_of,
    make_instruments,
    make_panel,
    utc,
)

PATIENCE = 20  # seconds until a test that hangs fails


class FakeBroker:
    """A connection that comes and goes as told."""

    def __init__(self):
        self.connected, self.answers, self.asked, self.closed = True, True, 0, 0
        self.told, self.told_at, self.clock = {}, [], None

    async def alive(self, timeout_seconds):
        self.asked += 1
        return self.connected and self.answers

    async def close(self):
        self.closed += 1
        self.connected = False

    async def instruments(self, symbols):
        self.told_at.append(self.clock.now())
        if isinstance(self.told, Exception):
            raise self.told
        return {symbol: self.told[symbol] for symbol in symbols if symbol in self.told}


class FakeStart:
    """A dealer that connects, or raises what it is told to."""

    def __init__(self, broker):
        self.broker, self.errors, self.started_at = broker, [], []
        self.clock = None

    async def start(self):
        self.started_at.append(self.clock.now())
        if self.errors:
            raise self.errors.pop(0)
        self.broker.connected = self.broker.answers = True


class FakeEngine:
    """An engine that raises what it is told to."""

    def __init__(self, clock, every=60.0):
        self.clock, self.every = clock, every
        self.stepped_at, self.errors, self.wake = [], [], asyncio.Event()
        self.in_session, self.instruments = True, {}

    async def step(self):
        self.stepped_at.append(self.clock.now())
        if self.errors:
            error = self.errors.pop(0)
            if error is not None:
                raise error

    def next_at(self):
        return self.clock.now() + timedelta(seconds=self.every)


class Bench:
    def __init__(self, **options):
        self.clock = VirtualClock(utc(9, 30))
        self.engine, self.broker = FakeEngine(self.clock), FakeBroker()
        self.dealer, self.switch = FakeStart(self.broker), MemorySwitch()
        self.dealer.clock = self.broker.clock = self.clock
        self.events = []
        settings = Settings.model_validate({"ibkr": {"retry_seconds": 8.0}})
        self.runner = Runner(self.engine, self.dealer, self.broker, self.switch, self.clock,
                             settings, self.events.append,
                             uniform=lambda low, high: high, **options)  # fmt: skip

    def steps(self, n, seconds=1.0):
        async def go():
            for _ in range(n):
                await self.runner.step()
                self.clock.move_to(self.clock.now() + timedelta(seconds=seconds))

        asyncio.run(go())
        return self

    @property
    def alerts(self):
        return [(a.kind, a.severity) for a in self.events if isinstance(a, Alert)]


@pytest.mark.parametrize("error", [ValueError("x"), HaltError("stop"), KeyError("y"), OSError()])
def test_what_a_step_raises_halts_and_the_loop_goes_on(error, caplog):
    bench = Bench()
    bench.engine.errors = [error]
    bench.steps(3)
    assert bench.switch.level is Level.HALTED
    assert bench.alerts == [("step-failed", Severity.CRITICAL)]
    assert len(bench.engine.stepped_at) == 3
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [TransientError("later"), OutcomeUnknown("who knows")])
def test_what_passes_by_itself_does_not_halt(error):
    bench = Bench()
    bench.engine.errors = [error]
    bench.steps(2)
    assert bench.switch.level is Level.RUNNING
    assert bench.alerts == [("step-failed", Severity.WARNING)]


def told_of_steps(bench):
    """Seconds since the beginning, kind, severity and count of what was told of steps."""
    begun = utc(9, 30)
    return [
        ((a.at - begun).total_seconds(), a.kind, a.severity, a.facts.get("times", 1))
        for a in bench.events
        if isinstance(a, Alert) and a.kind.startswith("step-")
    ]


def test_a_failure_that_goes_on_is_told_at_growing_intervals_and_once_when_it_is_over(caplog):
    bench = Bench()
    bench.engine.errors = [ValueError("disk") for _ in range(1000)]
    bench.steps(1200)
    assert bench.runner.failures == 1000
    critical, works = Severity.CRITICAL, Severity.WARNING
    assert told_of_steps(bench) == [
        (0.0, "step-failed", critical, 1),
        (60.0, "step-failed", critical, 61),
        (180.0, "step-failed", critical, 181),
        (420.0, "step-failed", critical, 421),
        (900.0, "step-failed", critical, 901),
        (1059.0, "step-works", works, 1000),  # the last failure was at 999 s
    ]


def test_another_failure_is_told_at_once_however_often_the_first_one_comes(caplog):
    bench = Bench()
    errors = [ValueError("disk")] * 10 + [KeyError("other")] + [ValueError("disk")] * 10
    bench.engine.errors = [*errors, TransientError("ValueError: disk")]
    bench.steps(len(errors) + 1)
    assert [(at, severity) for at, _, severity, _ in told_of_steps(bench)] == [
        (0.0, Severity.CRITICAL),
        (10.0, Severity.CRITICAL),
        (21.0, Severity.WARNING),
    ]
    words = [a.what for a in bench.events if isinstance(a, Alert)]
    assert "other" in words[1]


def test_a_failure_that_comes_and_goes_is_one_that_goes_on(caplog):
    bench = Bench()
    bench.engine.errors = [ValueError("disk") if k % 2 == 0 else None for k in range(50)]
    bench.steps(50)
    assert [kind for _, kind, _, _ in told_of_steps(bench)] == ["step-failed"]


def test_a_switch_that_cannot_be_written_does_not_end_the_loop(caplog):
    bench = Bench()

    def broken(by, why):
        raise HaltError("disk full")

    bench.switch.halt = broken
    bench.engine.errors = [ValueError("x")]
    bench.steps(2)
    assert len(bench.engine.stepped_at) == 2
    assert "cannot be written" in caplog.text


def test_a_lost_connection_is_opened_again_with_growing_pauses():
    bench = Bench()
    bench.broker.connected = False
    bench.dealer.errors = [TransientError("nobody")] * 5
    bench.steps(40)
    begun = bench.dealer.started_at[0]
    waits = [(at - begun).total_seconds() for at in bench.dealer.started_at]
    assert waits == [0, 1, 3, 7, 15, 23]
    assert bench.broker.connected
    assert [severity for _, severity in bench.alerts] == [Severity.WARNING] * 3 + [
        Severity.CRITICAL
    ] * 2


def test_a_broker_nobody_may_trade_at_halts_and_is_asked_seldom(caplog):
    bench = Bench()
    bench.broker.connected = False
    bench.dealer.errors = [HaltError("account U123 is no paper account")] * 3
    bench.steps(20)
    assert bench.switch.level is Level.HALTED
    assert len(bench.dealer.started_at) == 3


def test_a_silent_broker_is_noticed_and_connected_anew():
    bench = Bench()
    bench.steps(5)
    assert bench.broker.asked == 0
    bench.broker.answers = False
    bench.steps(10)
    assert bench.broker.closed == 1
    assert bench.alerts == [("broker-silent", Severity.WARNING)]
    assert len(bench.dealer.started_at) == 1
    assert bench.broker.connected


def test_quotes_are_shown_before_the_engine_steps():
    seen = []
    bench = Bench(before_step=lambda now: seen.append((now, len(bench.engine.stepped_at))))
    bench.steps(2)
    assert [n for _, n in seen] == [0, 1]


def test_hours_are_asked_for_anew_between_sessions():
    bench = Bench()
    old, new = make_instruments(("AAA", "BBB")), make_instruments(("AAA",), lot=100)
    bench.engine.instruments, bench.broker.told = old, new
    bench.steps(7, seconds=3600)
    assert bench.broker.told_at == []
    bench.engine.in_session = False
    bench.steps(7, seconds=3600)
    assert bench.broker.told_at == [utc(16, 30), utc(22, 30)]
    assert (old["AAA"].lot, old["BBB"].lot) == (100, 1)  # the very dict that others look into
    assert [kind for kind, _ in bench.alerts] == ["symbols-gone"] * 2


def test_hours_that_were_not_told_are_asked_for_again():
    bench = Bench()
    bench.engine.in_session, bench.engine.instruments = False, make_instruments(("AAA",))
    bench.broker.told = TransientError("no answer")
    bench.steps(10, seconds=3600)
    assert len(bench.broker.told_at) == 4
    assert {kind for kind, _ in bench.alerts} == {"symbols-not-told"}


# by the wall clock


def test_the_live_loop_sleeps_until_something_is_due_and_wakes_for_an_answer():
    async def go():
        bench, slept, stop = Bench(), [], asyncio.Event()
        bench.engine.wake = asyncio.Event()

        async def sleep(seconds):
            slept.append(seconds)
            if len(slept) == 3:
                bench.engine.wake.set()
                await asyncio.Event().wait()  # for ever: only the answer ends it
            if len(slept) == 5:
                stop.set()
            bench.clock.move_to(bench.clock.now() + timedelta(seconds=seconds))

        bench.engine.every = 0.25
        step = bench.engine.step

        async def stepping():
            bench.engine.wake.clear()
            await step()

        bench.engine.step = stepping
        await asyncio.wait_for(bench.runner.run_live(stop, sleep), PATIENCE)
        assert slept == [0.25] * 5
        assert len(bench.engine.stepped_at) == 5

    asyncio.run(go())


def test_what_is_there_at_the_start_is_left_out_of_collections_while_it_runs():
    async def go():
        bench, stop, frozen, before = Bench(), asyncio.Event(), [], gc.get_freeze_count()

        async def step():
            frozen.append(gc.get_freeze_count())
            stop.set()

        bench.engine.step = step
        await asyncio.wait_for(bench.runner.run_live(stop, asyncio.sleep), PATIENCE)
        assert frozen[0] > before + 1000
        assert gc.get_freeze_count() == 0

    asyncio.run(go())


def test_the_live_loop_never_sleeps_long_and_ends_at_once():
    async def go():
        bench, slept, stop = Bench(), [], asyncio.Event()

        async def sleep(seconds):
            slept.append(seconds)
            stop.set()
            await asyncio.Event().wait()

        await asyncio.wait_for(bench.runner.run_live(stop, sleep), PATIENCE)
        assert slept == [1.0]

    asyncio.run(go())


# a replay


def test_a_replay_ends_after_the_last_bar():
    async def go():
        desk = Desk(make_panel(), lambda request: decision_of(request, {}))
        runner = Runner(desk.engine, FakeStart(FakeBroker()), FakeBroker(), desk.switch, desk.clock,
                        Settings(), desk.events.append, uniform=lambda a, b: b)  # fmt: skip
        await desk.feed.start(desk.panel.names)
        jumps = []

        async def pause(jump):
            jumps.append(jump)

        replay = runner.run_replay(desk.clock, desk.feed, asyncio.Event(), pause=pause)
        await asyncio.wait_for(replay, PATIENCE)
        assert len([e for e in desk.events if isinstance(e, BarTaken)]) == 78
        assert len([e for e in desk.events if isinstance(e, Decided)]) == 78
        assert utc(16) <= desk.clock.now() <= utc(16, 6)
        assert all(jump > timedelta(0) for jump in jumps)

    asyncio.run(go())


# a keeper of time


@contextlib.asynccontextmanager
async def keeping_time(moments, token="t0ken"):
    """A control channel as the gateway's: gives its port and what it was told."""
    heard = []

    async def serve(reader, writer):
        def say(words):
            writer.write(json.dumps(words).encode() + b"\n")

        if json.loads(await reader.readline()) != {"token": token}:
            say({"ok": False, "error": "no"})
        else:
            heard.append(json.loads(await reader.readline()))
            for k, moment in enumerate(moments):
                ended = k == len(moments) - 1
                say({"op": "time", "now": moment.isoformat(), "ended": ended})
                line = await reader.readline()
                if not line:
                    break
                heard.append(json.loads(line))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


def test_time_is_kept_by_the_gateway():
    moments = [utc(9, 30), utc(9, 30, 5), utc(9, 35), utc(9, 40)]

    async def go():
        bench = Bench()
        async with keeping_time(moments) as (port, heard):
            keeper = await TimeKeeper.connect("127.0.0.1", port, "t0ken")
            await asyncio.wait_for(
                bench.runner.run_virtual(bench.clock, keeper, asyncio.Event()), PATIENCE
            )
            await keeper.close()
        assert bench.engine.stepped_at == moments
        assert bench.broker.asked == 2 * len(moments)  # before each step, and after it
        assert heard[0] == {"op": "attend"}
        told = [line["next"] for line in heard[1:]]
        assert len(told) == len(moments) - 1
        assert all(moment.isoformat() < at for moment, at in zip(moments, told, strict=False))

    asyncio.run(go())


def test_a_keeper_that_goes_away_or_refuses_is_said():
    async def go():
        bench = Bench()
        async with keeping_time([utc(9, 30)]) as (port, _):
            keeper = await TimeKeeper.connect("127.0.0.1", port, "wrong")
            with pytest.raises(Exception, match="control channel says"):
                await bench.runner.run_virtual(bench.clock, keeper, asyncio.Event())
            await keeper.close()
        with pytest.raises(TransientError, match="no gateway keeps time"):
            await TimeKeeper.connect("127.0.0.1", port, "t0ken")

    asyncio.run(go())


def test_quotes_are_dated_by_the_moment_they_are_for():
    clock = VirtualClock(utc(9, 30))

    class Feed:
        symbols = ("AAA",)
        ended = False
        now = {}

        def quotes(self):
            return self.now

        def hold(self, held):
            self.held = held

    feed = Feed()
    moments = MomentFeed(feed, clock)
    moments.hold(["AAA"])
    assert feed.held == ["AAA"]
    feed.now = {"AAA": Quote("AAA", utc(9, 29, 55), Decimal(99), Decimal(100))}
    assert moments.quotes()["AAA"].time == utc(9, 30)
    clock.move_to(utc(9, 30, 5))
    assert moments.quotes()["AAA"].time == utc(9, 30)  # nothing new came: it grows old
    feed.now = {"AAA": replace(feed.now["AAA"], bid=Decimal(98))}
    assert moments.quotes()["AAA"].time == utc(9, 30, 5)
    assert moments.newest_tick_at == utc(9, 30, 5)
