"""A trading process beside the one that keeps the venue, to be killed where it stands.

It is forked, so that nothing is imported anew; venue, gateway and time stay in the parent. The
child asks the parent over a socket pair to let time pass.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.venue import SimVenue
from tests.trading.dealing import settings
from tests.trading.faults.rig import Floor
from tests.trading.ibkr.rig import VenueTime

Day = Callable[[Floor], Awaitable[None]]


class Bomb:
    """Kills this process, with SIGKILL, the n-th time that it comes to a place of that name."""

    def __init__(self, name: str, number: int) -> None:
        self._name, self._number = name, number
        self._seen: Counter[str] = Counter()

    def __call__(self, name: str) -> None:
        self._seen[name] += 1
        if name == self._name and self._seen[name] == self._number:
            os.kill(os.getpid(), signal.SIGKILL)


class _RemoteVenue:
    """The venue, as the child sees it."""

    def __init__(self, line: socket.socket) -> None:
        self._file = line.makefile("rw", encoding="utf-8")
        begin = json.loads(self._file.readline())
        self.port: int = begin["port"]
        self.traits = SimpleNamespace(mute=False)
        self.market = SimpleNamespace(panel=SimpleNamespace(names=tuple(begin["names"])))
        self.clock = SimpleNamespace(now=lambda: self._now)
        self._now = datetime.fromisoformat(begin["now"])

    def wake_at(self, moment: datetime) -> None:
        self._ask({"wake": moment.isoformat()})

    def advance(self) -> bool:
        return bool(self._ask({"advance": True})["more"])

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()
        answer: dict[str, Any] = json.loads(self._file.readline())
        self._now = datetime.fromisoformat(answer["now"])
        return answer


class _RemoteGateway:
    """The gateway, as the child sees it."""

    sessions = ()

    def __init__(self, port: int) -> None:
        self.port = port

    async def settled(self) -> None:
        return None


def fork(folder: Path, day: Day, bomb: Bomb, line: socket.socket) -> int:
    """Begin a trading process; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        remote: Any = _RemoteVenue(line)
        gateway: Any = _RemoteGateway(remote.port)
        wide = settings(quote_seconds=60.0)
        made = Floor(folder, remote, gateway, wide, VenueTime(remote), bomb)
        asyncio.run(_day(made, day, bomb))
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        os._exit(1)
    os._exit(0)


async def _day(f: Floor, day: Day, bomb: Bomb) -> None:
    f.at_connect = lambda: _mark_calls(f, bomb)
    await day(f)


def _mark_calls(f: Floor, bomb: Bomb) -> None:
    """Places before and after each message is handed to the socket."""
    client = f.broker.client
    call = client.call

    def marked(method: str, *arguments: Any) -> None:
        bomb(f"before {method}")
        call(method, *arguments)
        bomb(f"after {method}")

    client.call = marked  # type: ignore[method-assign]


async def keep(line: socket.socket, venue: SimVenue, gateway: Gateway) -> None:
    """Let time pass whenever the child asks, until it is no more."""
    loop = asyncio.get_running_loop()
    names = list(venue.market.panel.names)
    begin = {"port": gateway.port, "names": names, "now": venue.clock.now().isoformat()}
    await loop.sock_sendall(line, (json.dumps(begin) + "\n").encode())
    rest = b""
    while data := await _received(line):
        *whole, rest = (rest + data).split(b"\n")
        for text in whole:
            asked, more = json.loads(text), True
            if "wake" in asked:
                moment = datetime.fromisoformat(asked["wake"])
                venue.wake_at(moment + timedelta(0))
            else:
                more = venue.advance()
                await gateway.settled()
            answer = {"now": venue.clock.now().isoformat(), "more": more}
            await loop.sock_sendall(line, (json.dumps(answer) + "\n").encode())


async def _received(line: socket.socket) -> bytes:
    try:
        return await asyncio.get_running_loop().sock_recv(line, 65536)
    except ConnectionResetError:
        return b""
