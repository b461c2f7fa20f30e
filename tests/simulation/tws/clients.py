"""Whichever public client library is installed, unmodified, against a gateway on loopback."""

import asyncio
import importlib
import importlib.util
import logging
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from types import ModuleType
from typing import Any

from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.markets import planted_market
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.wire import Frames, Value, fields, frame
from dpa.simulation.tws.words import Contract, Refused, SimOrder, Traits

NAMES = ("ib_insync", "ib_async")
INSTALLED = [name for name in NAMES if importlib.util.find_spec(name)]
CLIENT = INSTALLED[0] if INSTALLED else ""
OLDEST = 157
NEWEST = {"ib_insync": 176, "ib_async": 178, "": 178}[CLIENT]
VERSIONS = [version for version in (157, 164, 176, 178) if version <= NEWEST]
BOUND = 10.0  # seconds, of waits that should take none


def client_library() -> ModuleType:
    """The client library; inside a running event loop, as ib_insync wants it."""
    asyncio.set_event_loop(asyncio.get_running_loop())
    return importlib.import_module(CLIENT)


def planted_venue(**given: Any) -> SimVenue:
    """A venue with a few names of an invented market, a session of history, at its first quotes."""
    market = planted_market(seed=7, names=4, sessions=1, history=1, interval="30m")
    venue = SimVenue(market, **given)
    while not venue.tape.parts:
        venue.advance()
    return venue


@asynccontextmanager
async def gateway_of(venue: Any, version: int = NEWEST, **given: Any) -> AsyncIterator[Gateway]:
    """A gateway that speaks up to a version; raises at its end if anything was unreadable."""
    async with Gateway(venue, versions=(OLDEST, version), **given) as gateway:
        yield gateway
        await gateway.settled()
    gateway.check()


class Log(logging.Handler):
    """Collects what the client library logs; its decoder only logs when it fails."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def failures(self) -> list[str]:
        """What the decoder, or a handler, could not digest."""
        broken = [
            record
            for record in self.records
            if record.exc_info
            or (record.levelno >= logging.ERROR and record.name.endswith("Decoder"))
            or "No order found" in record.getMessage()
            or "Unknown reqId" in record.getMessage()
            or "malformed" in record.getMessage()
        ]
        return [record.getMessage() for record in broken]


@asynccontextmanager
async def connected(
    gateway: Gateway, client_id: int = 1, timeout: float = BOUND, **given: Any
) -> AsyncIterator[Any]:
    """A connected client; its decoder must not fail, and its handlers may not either."""
    library = client_library()
    log = Log()
    logger = logging.getLogger(CLIENT)
    before = logger.level, logger.propagate
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    api = library.IB()
    api.codes = []
    api.errorEvent += lambda number, code, message, contract: api.codes.append((number, code))
    try:
        await api.connectAsync(
            gateway.host, gateway.port, clientId=client_id, timeout=timeout, **given
        )
        yield api
        await round_trip(api)
    finally:
        api.disconnect()
        logger.removeHandler(log)
        logger.setLevel(before[0])
        logger.propagate = before[1]
    assert not log.failures, log.failures


async def round_trip(api: Any) -> None:
    """Everything the gateway said before is digested by the client after it."""
    if api.isConnected():
        await asyncio.wait_for(api.reqCurrentTimeAsync(), BOUND)


async def until(happened: Callable[[], bool]) -> None:
    """Let the event loop run until something is so."""

    async def wait() -> None:
        while not happened():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), BOUND)


async def step(venue: SimVenue, gateway: Gateway, api: Any, moments: int = 1) -> None:
    """Let moments of the venue pass, and the client hear of them."""
    for _ in range(moments):
        venue.advance()
        await gateway.settled()
        await round_trip(api)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine in an event loop of its own."""
    asyncio.run(asyncio.wait_for(work, 60))


def lively(**given: Any) -> Traits:
    """Traits for a clock that stands still: messages of a moment are not limited."""
    return Traits(messages_per_second=100_000, **given)


class EchoVenue(SimVenue):
    """Takes every order, whatever is in it, and works none."""

    def place(
        self, client_id: int, order_id: int, contract: Contract, fields: Mapping[str, str]
    ) -> Refused | None:
        order = SimOrder(
            client_id,
            order_id,
            1_000_000 + order_id,
            contract,
            fields,
            fields["account"],
            fields["action"],
            fields["orderType"],
            Decimal(fields["totalQuantity"] or 0),
            Decimal(fields["lmtPrice"]) if fields["lmtPrice"] else None,
            fields["tif"],
            fields["orderRef"],
            "PreSubmitted",
            parent_id=int(fields["parentId"] or 0),
        )
        self.echoes.append(order)
        for listener in self.outlet.everyone:
            if listener.client_id == client_id:
                listener.open_order(order)
                listener.order_status(order)
        return None

    def __init__(self, *positional: Any, **given: Any) -> None:
        self.echoes: list[SimOrder] = []
        super().__init__(*positional, **given)

    def open_orders(self, client_id: int | None) -> tuple[SimOrder, ...]:
        return tuple(self.echoes)

    def completed_orders(self) -> tuple[SimOrder, ...]:
        return tuple(replace(order, status="Cancelled") for order in self.echoes)


def echo_venue() -> EchoVenue:
    """A venue that takes every order."""
    return EchoVenue(planted_market(seed=7, names=2, interval="30m"), traits=lively())


class RawClient:
    """A client that sends what it is told to, frame by frame, over a real socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, *values: Value) -> None:
        """Send a message."""
        self.writer.write(frame(*values))
        await self.writer.drain()

    async def message(self) -> list[str]:
        """The next message; empty at the end of the connection."""
        try:
            head = await asyncio.wait_for(self._reader.readexactly(4), BOUND)
            (length,) = struct.unpack(">I", head)
            return fields(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return []

    async def until(self, kind: int) -> list[list[str]]:
        """Messages up to the first of a kind, that one included, or the end."""
        found: list[list[str]] = []
        while not found or (found[-1] and found[-1][0] != str(kind)):
            found.append(await self.message())
        return found

    async def start(self, client_id: int = 1, offer: str = "v157..178") -> list[list[str]]:
        """Shake hands and name itself; all messages until it is ready."""
        await self.greet(offer)
        first = [await self.message()]
        await self.send(71, 2, client_id, "")
        return first + await self.until(9)

    async def greet(self, offer: str) -> None:
        """The first bytes of a connection."""
        body = offer.encode()
        self.writer.write(b"API\0" + struct.pack(">I", len(body)) + body)
        await self.writer.drain()


@asynccontextmanager
async def raw_client(gateway: Gateway) -> AsyncIterator[RawClient]:
    """A connection to a gateway that has said nothing yet."""
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class Recorder:
    """Stands where a client's socket would, and keeps what it sends."""

    def __init__(self) -> None:
        self.frames = Frames()

    def sendMsg(self, data: bytes) -> None:  # noqa: N802
        """Keep bytes."""
        self.frames.feed(data)

    @property
    def messages(self) -> list[list[str]]:
        """Fields of every message since the last time."""
        return [fields(body) for body in self.frames]


def recording(version: int) -> tuple[ModuleType, Any, Recorder]:
    """Library, client and what it sends, as if connected to a server of a version."""
    library = client_library()
    client = library.client.Client(None)
    client.connState = client.CONNECTED
    client.MaxRequests = 0
    client._serverVersion = version
    client.conn = Recorder()
    return library, client, client.conn
