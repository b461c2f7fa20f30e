"""Fault 1: the trading process is killed, with SIGKILL, at every step that it writes and sends.

A process trades at the gateway of another one, and dies before or after a write of the journal, or
before or after a message was handed to the socket. Another one starts over what it left and does
the same day again. In the end every intent has one order at the venue, and the ledger is its truth.
"""

import os
import signal
import socket
from pathlib import Path

import pytest

from dpa.clock import SystemClock
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.script import read_fault
from dpa.simulation.tws.venue import SimVenue
from dpa.trading.identity import intent_id
from dpa.trading.journal import STEPS
from dpa.trading.lease import Lease
from dpa.trading.types import Intent, OrderState, Purpose, Style
from tests.trading.dealing import settings
from tests.trading.faults.other_process import Bomb, fork, keep
from tests.trading.faults.rig import Floor, market, run
from tests.trading.ibkr.rig import VenueTime

MORE = {"intents": (2,), "order": (2, 3, 4, 5, 6, 7, 8, 9, 10), "execution": (2, 3)}
PLACES = [
    *((f"{before}{name}", 1) for name in STEPS for before in ("writing ", "")),
    *((name, number) for name, numbers in MORE.items() for number in numbers),
    *((f"{when} placeOrder", n) for when in ("before", "after") for n in (1, 2, 3, 4, 5)),
    *((f"{when} cancelOrder", 1) for when in ("before", "after")),
]


def _intent(f: Floor, decision: str, place: int, shares: int, **changes: object) -> Intent:
    """The same intent in every life: its purpose does not depend on what is held."""
    made = f.intent(shares, f.names[place], decision, seconds=900, **changes)  # type: ignore[arg-type]
    purpose = Purpose.EXIT if decision == "leave" else Purpose.ENTER
    name = intent_id(made.account, decision, made.symbol, made.side, purpose)
    object.__setattr__(made, "id", name)
    object.__setattr__(made, "purpose", purpose)
    return made


async def day(f: Floor) -> None:
    """Enter four names, cancel what rests, leave one."""
    await f.begin()
    Lease(f.folder / "lease", SystemClock()).take(f.journal, "a trader")
    await f.go_on(20)
    enter = [
        _intent(f, "enter", 0, 900),
        _intent(f, "enter", 1, 100),
        _intent(f, "enter", 2, 100, away=True),
        _intent(f, "enter", 3, -100, style=Style.ADAPTIVE),
    ]
    await f.submit(*enter)
    await f.go_on(40)
    await f.dealer.cancel([o for o in f.dealer.live_orders if o.ref == enter[2].id])
    await f.go_on(20)
    leave = _intent(f, "leave", 0, -900)
    await f.submit(leave)
    await f.go_on(40)


@pytest.mark.parametrize(("name", "number"), PLACES)
def test_01_killed_there_a_restart_finds_every_order_and_repeats_none(
    name: str, number: int, tmp_path: Path
) -> None:
    venue = SimVenue(market())
    while not venue.tape.parts:
        venue.advance()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        with theirs:
            child = fork(tmp_path, day, Bomb(name, number), theirs)
        run(lambda: _scenario(tmp_path, venue, ours, child))


async def _scenario(folder: Path, venue: SimVenue, line: socket.socket, child: int) -> None:
    venue.traits.messages_per_second = 1_000_000
    for entry in (
        {"do": "sizes", "size": 100, "symbol": "N0"},
        {"do": "lose", "when": "order", "count": 2},
        {"do": "reject", "code": 103, "message": "Duplicate order id", "when": "order", "count": 4},
    ):
        venue.faults.add(read_fault(entry))
    async with Gateway(venue, pacing=SystemClock()) as gateway:
        await keep(line, venue, gateway)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it came to its end"
        assert os.WTERMSIG(status) == signal.SIGKILL
        f = Floor(folder, venue, gateway, settings(quote_seconds=60.0), VenueTime(venue))
        try:
            await day(f)
            await f.go_on(60)
            refs = {order.ref for order in f.journal.orders()}
            assert len(refs) == 5
            for ref in refs:
                orders = [work.order for work in venue.book.all if work.order.ref == ref]
                assert len(orders) == 1, f"{len(orders)} orders for {ref}"
                newest = f.journal.order(ref)
                assert newest is not None
                assert newest.state in (OrderState.FILLED, OrderState.CANCELLED)
            assert f.dealer.positions == {f.names[1]: 100, f.names[3]: -100}
            f.check_books()
            f.check_running()
        finally:
            f.write_facts()
            await f.die()
        assert f.unreadable == 0
    gateway.check()
