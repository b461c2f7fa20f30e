"""Fault 33: the kill switch while each of the other faults is on, on the whole stack.

A kill halts the switch whatever happens; it says that nothing works any more only when the broker
has shown it; what it could not cancel, the trader cancels as soon as it can.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from dpa.trading.ibkr.broker import IbkrBroker
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.kill import Killed, kill
from dpa.trading.switch import Switch
from tests.trading.faults.rig import Floor, floor, market, run

QUIET: dict[str, Any] = {"do": "say", "code": 2106, "message": "all is well"}
VERIFIED: dict[str, dict[str, Any]] = {
    "00 nothing": QUIET,
    "02 an order is lost": {"do": "lose", "when": "order"},
    "02 an order is hidden": {"do": "hide"},
    "03 a false cancel": {"do": "false_cancel"},
    "05 partial fills": {"do": "sizes", "size": 100},
    "06 twice": {"do": "duplicate"},
    "06 in another order": {"do": "reorder"},
    "07 a bust": {"do": "bust"},
    "08 no fees": {"do": "commission", "how": "never"},
    "09 refusals": {"do": "reject", "times": 5},
    "11 no farm": {"do": "farm", "seconds": 60},
    "12 a reset": {"do": "disconnect", "reset": True, "client_id": 17},
    "13 numbers rolled back": {"do": "disconnect", "client_id": 17},
    "16 a manual order": {
        "do": "manual",
        "symbol": "N3",
        "side": "buy",
        "shares": 10,
        "limit": "1.00",
    },
    "17 the id in use": {"do": "hold_id", "client_id": 17},
    "18 numbers used": {"do": "reject", "code": 103, "message": "Duplicate order id"},
    "20 pacing": {"do": "limits", "history_requests": 0},
    "21 no lines": {"do": "limits", "lines": 0},
    "22 delayed data": {"do": "delayed_data"},
    "23 crossed quotes": {"do": "quotes", "how": "crossed"},
    "23 a halt": {"do": "halt", "symbol": "N0"},
    "26 no shares": {"do": "locate", "symbol": "N0"},
    "27 margins": {"do": "margin", "factor": 1000},
    "31 a liquidation": {"do": "liquidate"},
}
UNVERIFIED: dict[str, dict[str, Any]] = {
    "10 no servers": {"do": "connectivity", "seconds": 60},
    "12 mute": {"do": "mute", "seconds": 40},
    "13 a restart": {"do": "restart", "seconds": 60},
    "04 a cancel takes its time": {"do": "slow_cancel", "cancel_seconds": 30},
    "14 open orders do not end": {"do": "withhold", "messages": [53], "seconds": 40},
    "14 positions do not end": {"do": "withhold", "messages": [62], "seconds": 40},
    "33 the cancel is lost": {"do": "lose", "what": "cancel", "times": 3},
    "28 another account": {"do": "accounts", "accounts": ["U7654321"]},
}


async def _nothing(_: float) -> None:
    return None


async def _killed(f: Floor) -> Killed:
    """``dpa kill``: another process, with a client id of its own."""
    quick = {"ask_seconds": 0.3, "connect_seconds": 0.5, "client_id": 18}
    settings = f.broker.settings.model_copy(update=quick)
    broker = IbkrBroker(settings, f.clock, TwsClient(settings, f.clock, 0), _slow)

    async def connect() -> IbkrBroker:
        await broker.connect()
        return broker

    try:
        switch = Switch(f.folder / "switch.json", f.clock)
        return await kill(switch, connect, f.clock, _nothing, "Ada", "enough", seconds=0.4)
    finally:
        await broker.close()


async def _slow(_: float) -> None:
    """Sleep until it is all over: the kill's own connection needs no watchdog here."""
    await asyncio.Event().wait()


async def _prepare(f: Floor, entry: dict[str, Any]) -> list[Any]:
    """A position, an order that rests, a fault, and orders sent into it."""
    held, resting = f.intent(), f.intent(100, f.names[1], away=True, seconds=600)
    await f.submit(held, resting)
    await f.go_on(10)
    f.fault(**entry)
    late = f.intent(100, f.names[2], "d2", away=True, seconds=600)
    refused = await f.submit(late)
    return [held, resting] + ([] if refused else [late])


@pytest.mark.parametrize("fault", [*VERIFIED, *UNVERIFIED])
def test_33_a_kill_halts_and_cancels_during(fault: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            intents = await _prepare(f, {**VERIFIED, **UNVERIFIED}[fault])
            if fault == "12 mute":
                f.hurry(0.15)
            done = await _killed(f)
            open_now = [work.order for work in f.venue.book.live()]
            if fault in VERIFIED:
                assert done.verified, done
                assert open_now == []
            else:
                assert not done.verified, done
            f.ibkr["connect_seconds"] = 2.0
            if fault.startswith("28"):
                f.venue.traits.accounts = ("DU1234567",)
            f.venue.outlet.mischief.held_ids.clear()
            await f.go_on(90)
            await f.wait_for(lambda: f.broker.connected, 120)
            await f.go_on(30)
            assert f.venue.book.live() == [], "the trader cancels what the kill could not"
            for intent in intents:
                assert len(f.at_venue(intent)) <= 1
            f.check_books(fees=not fault.startswith("08"))
            await f.check_halt()

    run(scenario)


def test_33_a_kill_during_a_read_only_interface_fails_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(), traits=Traits())
        async with floor(tmp_path, venue=venue) as f:
            await _prepare(f, QUIET)
            f.venue.traits.read_only = True
            done = await _killed(f)
            f.venue.traits.read_only = False
            assert not done.verified
            await f.go_on(30)
            await f.check_halt()
            assert f.venue.book.live() == []

    run(scenario)


def test_33_a_kill_that_reaches_nobody_halts_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            await _prepare(f, QUIET)
            await f.die()
            f.fault(do="restart", seconds=30)
            done = await _killed(f)
            assert not done.verified
            assert done.problems
            f.venue.wake_at(f.now)
            while f.venue.outlet.mischief.down_until and (
                f.now < f.venue.outlet.mischief.down_until
            ):
                f.venue.advance()
            await f.begin()
            assert f.switch.read().by == "Ada"
            await f.go_on(30)
            assert f.venue.book.live() == [], "a new trader cancels first of all"
            await f.check_halt()

    run(scenario)
