"""The socket that unmodified clients connect to, as they would to TWS."""

import asyncio
import ipaddress
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from dpa.clock import Clock, SystemClock
from dpa.errors import ConfigError
from dpa.simulation.tws.requests import VERSIONS
from dpa.simulation.tws.session import Session, Shared, Trouble
from dpa.simulation.tws.words import Venue

LOG = logging.getLogger("dpa.simulation.tws")
CLIENTS = 32  # TWS takes no more
MAX_UNREAD = 64 * 2**20  # bytes a client may leave unread before it is dropped
_GRACE_SECONDS = 5.0  # for clients that do not read while the gateway stops
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Later = Callable[[float, Callable[[], None]], Any]


class Gateway:
    """Listens for clients and puts a session behind each.

    Parameters
    ----------
    venue : Venue
        What trades behind it.
    host : str
        Loopback, unless `anywhere`: nothing here asks who a client is.
    port : int
        0: any that is free.
    versions : (int, int)
        Lowest and highest server version spoken, between 157 and 178.
    pacing : Clock, optional
        What messages a second and historical requests are counted by; none: the machine's, since
        clients pace themselves by it, however fast the venue's time passes.
    later : callable, optional
        ``later(seconds, function)`` calls back then, for the lag of messages; none: the event
        loop's timer.
    anywhere : bool
        Whether `host` may be an address that other machines reach.

    Raises
    ------
    ConfigError
        When host or versions are not allowed.
    """

    def __init__(
        self,
        venue: Venue,
        host: str = "127.0.0.1",
        port: int = 0,
        versions: tuple[int, int] = VERSIONS,
        *,
        pacing: Clock | None = None,
        later: Later | None = None,
        anywhere: bool = False,
    ) -> None:
        if not VERSIONS[0] <= versions[0] <= versions[1] <= VERSIONS[1]:
            raise ConfigError(
                f"server versions {versions[0]} to {versions[1]}",
                f"choose some between {VERSIONS[0]} and {VERSIONS[1]}",
            )
        if not anywhere and not _is_loopback(host):
            raise ConfigError(
                f"the gateway would listen on {host}, where other machines reach it",
                "use 127.0.0.1",
            )
        self.host = host
        self._port = port
        self._shared = Shared(venue, versions, pacing or SystemClock())
        self._later = later
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Port it listens on."""
        if self._server is None:
            return self._port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Sessions of connected clients."""
        return tuple(connection.session for connection in self._connections)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """Requests that could not be read or broke the venue, newest last, at most 1000."""
        return tuple(self._shared.troubles)

    @property
    def trouble_count(self) -> int:
        """How many there were in all."""
        return self._shared.trouble_count

    @property
    def closings(self) -> tuple[tuple[int, str], ...]:
        """Client id and reason of sessions that the gateway ended, newest last."""
        return tuple(self._shared.closings)

    def check(self) -> None:
        """Raise the first trouble, if there was any; for tests."""
        for trouble in self._shared.troubles:
            raise trouble.error

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        ConfigError
            When the port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._connected, self.host, self._port)
        except OSError as error:
            raise ConfigError(
                f"the gateway cannot listen on {self.host}:{self._port}: {error.strerror}",
                "choose another port",
            ) from error
        LOG.info("gateway listens on %s:%d", self.host, self.port)

    async def stop(self) -> None:
        """Send what is left, close all connections and listen no more."""
        if self._server is None:
            return
        self._server.close()
        ended = [asyncio.ensure_future(each.ended.wait()) for each in self._connections]
        for connection in tuple(self._connections):
            connection.session.finish("the gateway stops")
        if ended:
            await asyncio.wait(ended, timeout=_GRACE_SECONDS)
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.gather(*ended)
        await self._server.wait_closed()
        self._server = None

    async def settled(self) -> None:
        """Wait until everything said so far has been handed to the clients' sockets.

        Messages that are held back by a lag are not waited for.
        """
        for connection in tuple(self._connections):
            connection.flush()
        for connection in tuple(self._connections):
            await connection.drained.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _connected(self) -> "_Connection":
        later = self._later or asyncio.get_running_loop().call_later
        return _Connection(self._shared, self._connections, later)


class _Connection(asyncio.Protocol):
    """A client's socket: gathers what is said in one turn of the event loop into one write."""

    def __init__(self, shared: Shared, connections: "set[_Connection]", later: Later) -> None:
        self.session = Session(shared, self)
        self.drained = asyncio.Event()
        self.drained.set()
        self.ended = asyncio.Event()
        self._connections = connections
        self._later = later
        self._transport: asyncio.Transport | None = None
        self._ready: list[bytes] = []
        self._held: deque[_Held] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)  # drained means that nothing is left
        self._transport = transport
        self._connections.add(self)
        if len(self._connections) > CLIENTS:
            self.session.finish(f"{CLIENTS} clients are connected", reset=True)

    def data_received(self, data: bytes) -> None:
        self.session.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.drained.set()
        self.ended.set()
        self.session.lost()

    def pause_writing(self) -> None:
        self.drained.clear()

    def resume_writing(self) -> None:
        self.drained.set()

    def write(self, data: bytes, lag_seconds: float) -> None:
        """Send bytes, after those before them and after a lag."""
        if lag_seconds <= 0 and not self._held:
            self._say(data)
            return
        held = _Held(data, due=lag_seconds <= 0)
        self._held.append(held)
        if not held.due:
            self._later(lag_seconds, lambda: self._release(held))

    def flush(self) -> None:
        """Hand what was said to the socket."""
        if self._transport is None or not self._ready:
            return
        data = b"".join(self._ready)
        self._ready.clear()
        if self._transport.is_closing():
            return
        self._transport.write(data)
        unread = self._transport.get_write_buffer_size()
        if unread > MAX_UNREAD:
            self.session.finish(f"it left {unread} bytes unread", reset=True)

    def close(self, reset: bool) -> None:
        """End the connection, at once and rudely or after all was sent."""
        if self._transport is None:
            return
        if reset:
            self.abort()
            return
        self._ready += [held.data for held in self._held]
        self._held.clear()
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Reset the connection: the client's next read or write fails."""
        if self._transport is None:
            return
        peer = self._transport.get_extra_info("socket")
        if peer is not None and not self._transport.is_closing():
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._ready.clear()
        self._held.clear()
        self._transport.abort()

    def _say(self, data: bytes) -> None:
        if not self._ready:
            asyncio.get_running_loop().call_soon(self.flush)
        self._ready.append(data)

    def _release(self, held: "_Held") -> None:
        held.due = True
        while self._held and self._held[0].due:
            self._say(self._held.popleft().data)


class _Held:
    """A message that waits."""

    def __init__(self, data: bytes, due: bool) -> None:
        self.data = data
        self.due = due


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
