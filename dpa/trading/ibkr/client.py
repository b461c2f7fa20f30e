"""A connection to TWS or its gateway, through ib_insync or ib_async: whichever is installed.

Only the protocol layer of either library is used; see :mod:`dpa.trading.ibkr.callbacks`.
"""

import asyncio
import importlib
import importlib.util
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpa.clock import Clock, SystemClock
from dpa.config import IbkrConfig
from dpa.errors import ConfigError, DpaError, TransientError
from dpa.trading.ibkr.callbacks import Callbacks, Key, Listener, Request, Stream
from dpa.trading.ibkr.codes import BEFORE_READY, ID_IN_USE, SILENT
from dpa.trading.ibkr.pace import Pace, Sleep, Urgency
from dpa.trading.ibkr.safety import check_address
from dpa.trading.traffic import Traffic

LIBRARIES = ("ib_insync", "ib_async")
UNNUMBERED = frozenset({"positions", "open orders", "completed orders"})  # no request ids
_SLICES = 9  # of a second, and one is left out: room for a delay of a quarter of a second
REQUEST_IDS = 1_000_000_000  # numbers of requests begin here, so that none is an order's
_WALL = SystemClock()  # times answers, whatever clock the trader runs by
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Library:
    """What is used of the client library.

    Parameters
    ----------
    name : str
        ``ib_insync`` or ``ib_async``.
    client, contract, order, execution_filter : type
        Its classes of those names.
    """

    name: str
    client: Any
    contract: Any
    order: Any
    execution_filter: Any


def library_name() -> str:
    """Which library is installed.

    Raises
    ------
    ConfigError
        None is.
    """
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is not None:
            return name
    raise ConfigError(
        "neither ib_insync nor ib_async is installed",
        "pip install 'dpa[ibkr]' or 'dpa[ibkr-async]', never both",
    )


def load_library() -> Library:
    """The library, imported inside the running loop: ib_insync takes the loop that it finds."""
    asyncio.set_event_loop(asyncio.get_running_loop())
    name = library_name()
    module = importlib.import_module(name)
    client = importlib.import_module(f"{name}.client").Client
    return Library(name, client, module.Contract, module.Order, module.ExecutionFilter)


class _DecoderLog(logging.Handler):
    """Hears of messages that the library could not read; it only logs them."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._failed = failed

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._failed(f"{record.getMessage()[:300]} {error!r}" if error else record.getMessage())


class TwsClient:
    """One connection, made again after it was lost; requests, streams and listeners.

    Parameters
    ----------
    settings : IbkrConfig
    clock : Clock
    messages_per_second : float
        Sent at most; TWS takes 50. They are spread over the second, so that it does not see too
        many in one when it reads a little late. 0: no limit, for simulated time.
    client_id : int, optional
        Of another client than the one of the settings.
    sleep : callable
    """

    def __init__(
        self,
        settings: IbkrConfig,
        clock: Clock,
        messages_per_second: float = 45.0,
        client_id: int | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.client_id = settings.client_id if client_id is None else client_id
        self.callbacks = Callbacks(clock)
        self.pace = _spread(messages_per_second, clock, sleep)
        self.library: Library | None = None
        self.unreadable = 0
        self._traffic = Traffic()
        self.callbacks.noticed = lambda code: self._traffic.code(code)
        self._client: Any = None
        self.next_request_id = REQUEST_IDS
        self._asked: set[Key] = set()
        self._lock = asyncio.Lock()

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of everything from now on."""
        self.callbacks.listeners.append(listener)

    @property
    def ready(self) -> bool:
        """Whether something can be sent."""
        client = self._client
        if client is None or not client.isReady():
            return False
        transport = client.conn.transport
        return transport is not None and not transport.is_closing()

    @property
    def traffic(self) -> Traffic:
        """Messages so far."""
        client = self._client
        if client is not None and client.isReady():
            stats = client.connectionStats()
            self._traffic.see(stats.numMsgSent, stats.numMsgRecv)
        return self._traffic

    @property
    def server_version(self) -> int:
        """Version of the protocol agreed on; 0: not connected."""
        return int(self._client.serverVersion()) if self._client is not None else 0

    @property
    def managed(self) -> tuple[str, ...]:
        """Accounts of the login."""
        return self.callbacks.managed

    @property
    def next_order_id(self) -> int:
        """Lowest number for a new order."""
        return int(self._client._reqIdSeq) if self._client is not None else 0

    def raise_order_id(self, least: int) -> None:
        """Numbers from now on are at least `least`."""
        self._client.updateReqId(least)

    async def open(self) -> None:
        """Connect, and wait until TWS takes requests.

        Raises
        ------
        HaltError
            The address may not be used.
        TransientError
            Nobody listens, or TWS does not want us now; says why.
        """
        check_address(self.settings)
        async with self._lock:
            self.close("connecting anew")
            self.library = load_library()
            client = self.library.client(self.callbacks.wrapper())
            client.MaxRequests = 0  # its own limiter loses what waits, without a word
            self._guard(client)
            try:
                await self._dial(client)
            except BaseException:
                _hang_up(client)  # it may have come through all the same, and would keep our id
                raise
            self._client = client

    async def _dial(self, client: Any) -> None:
        """Connect; a refusal is seen at once, where the library would wait for its timeout."""
        settings = self.settings
        where = f"{settings.ibkr_host}:{settings.ibkr_port}"
        refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def refuse(why: str) -> None:
            if not refused.done():
                refused.set_result(why)

        def told(code: int) -> None:
            if code == ID_IN_USE:
                refuse(f"client id {self.client_id} is in use")
            elif code in BEFORE_READY:
                refuse(f"TWS says {code}")

        def closed(message: str) -> None:
            refuse(f"the connection was closed before it was ready{_after(message)}")

        self.callbacks.told = told
        client.conn.disconnected += closed
        seconds = settings.connect_seconds
        dial = asyncio.ensure_future(
            client.connectAsync(settings.ibkr_host, settings.ibkr_port, self.client_id, seconds)
        )
        try:
            await asyncio.wait({dial, refused}, return_when=asyncio.FIRST_COMPLETED)
            if dial.done() and not dial.exception() and not refused.done():
                return
            why = refused.result() if refused.done() else _why(dial, where, seconds)
            raise TransientError(f"TWS at {where}: {why}", "it is tried again")
        finally:
            self.callbacks.told = _ignore
            client.conn.disconnected -= closed
            dial.cancel()
            await asyncio.gather(dial, return_exceptions=True)

    def _guard(self, client: Any) -> None:
        """Hear of what the library and its event package would only log, or swallow."""
        decoder = logging.Logger(f"{__name__}.decoder")
        decoder.parent = _log
        decoder.addHandler(_DecoderLog(self._failed))
        client.decoder.logger = decoder
        for event in (
            *(client.apiStart, client.apiEnd, client.apiError),
            *(client.throttleStart, client.throttleEnd),
            *(client.conn.hasData, client.conn.disconnected),
        ):
            event.error_event += self._event_failed

    def _event_failed(self, *arguments: Any) -> None:
        self._failed(f"a listener raised {arguments[-1]!r}")

    def _failed(self, what: str) -> None:
        self.unreadable += 1
        _log.error("TWS: %s", what)
        for listener in self.callbacks.listeners:
            listener.failed(what)

    def opened(self, data_lost: bool) -> None:
        """Tell the listeners that the connection may be used."""
        for listener in self.callbacks.listeners:
            listener.link_opened(data_lost)

    def close(self, why: str = "closed here") -> None:
        """Drop the connection; requests that wait fail."""
        self.traffic.end()
        client, self._client = self._client, None
        self.pace.break_off(why)
        self.callbacks.break_off(TransientError(f"TWS: {why}"))
        self._asked.clear()
        if client is not None:
            _hang_up(client)

    # requests

    def new_id(self) -> int:
        """A number for a request or a stream."""
        self.next_request_id += 1
        return self.next_request_id - 1

    async def turn(self, urgency: Urgency) -> None:
        """Come back when a message may be sent.

        Raises
        ------
        TransientError
            Not connected; nothing was sent.
        """
        if not self.ready:
            raise TransientError("TWS: not connected; nothing was sent")
        await self.pace.turn(urgency)
        if not self.ready:
            raise TransientError("TWS: the connection went; nothing was sent")

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the library's client; only after :meth:`turn`."""
        getattr(self._client, method)(*arguments)

    async def send(self, urgency: Urgency, method: str, *arguments: Any) -> None:
        """Call a method of the library's client when it is our turn.

        Raises
        ------
        TransientError
            Not connected; nothing was sent.
        """
        await self.turn(urgency)
        self.call(method, *arguments)

    async def ask(self, key: Key, method: str, *arguments: Any, seconds: float = 0.0) -> list[Any]:
        """Ask, and wait for all of the answer.

        Parameters
        ----------
        key : int or str
            Number of the request, sent as its first argument, or its kind where TWS has no
            numbers for it.
        method : str
        *arguments
        seconds : float
            To wait for; default: ``ask_seconds``.

        Raises
        ------
        TransientError
            No end came in time, or the connection went.
        RequestFailed
            TWS refused.
        """
        arguments = (key, *arguments) if isinstance(key, int) else arguments
        client, twice = self._client, key in self._asked  # a late answer may come: see Request
        request = self.callbacks.requests[key] = Request(ends=2 if twice else 1)
        seconds = seconds or self.settings.ask_seconds
        try:
            for _ in range(2 if twice else 1):
                await self.send(Urgency.QUESTION, method, *arguments)
            async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation
                return await request.future
        except TimeoutError as e:
            why = f"no answer to {method} in {seconds:g} s"
            if twice:
                self._end_silent(client, f"TWS: {why}, again")
            elif key in UNNUMBERED:
                self._asked.add(key)
            raise TransientError(f"TWS: {why}") from e
        finally:
            if self.callbacks.requests.get(key) is request:
                del self.callbacks.requests[key]

    async def round_trip(self, seconds: float) -> bool:
        """Whether TWS answers; when it does, it has read all that was sent before.

        Where it does not answer in time the connection is ended, and the listeners are told:
        the question has no number, so that on the same connection an answer that was only late
        would be taken for that to a later question, and one that was lost would leave each later
        question with the answer to the one after it.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        client, begun = None, _WALL.elapsed()
        try:
            await self.turn(Urgency.ORDER)
            client = self._client
            self.call("reqCurrentTime")
            self.callbacks.times.append(future)
            async with asyncio.timeout(seconds):
                answered = await asyncio.shield(future)
            self._traffic.round_trip(_WALL.elapsed() - begun)
            return answered
        except TimeoutError:
            self._end_silent(client, f"TWS did not answer in {seconds:g} s")
            return False
        except DpaError:
            return False

    def _end_silent(self, client: Any, why: str) -> None:
        """End a connection whose answers can no longer be told apart."""
        if client is None or client is not self._client:
            return
        self.close(why)
        for listener in self.callbacks.listeners:
            listener.notice(-1, SILENT, why)
            listener.link_lost(why)

    async def subscribe(self, stream: Stream, method: str, *arguments: Any) -> int:
        """Begin a stream; its number. Numbers are in the order in which requests were sent."""
        await self.turn(Urgency.DATA)
        number = self.new_id()
        self.callbacks.streams[number] = stream
        self.call(method, number, *arguments)
        return number

    async def unsubscribe(self, number: int, method: str) -> None:
        """End a stream."""
        if number in self.callbacks.streams and self.ready:
            await self.send(Urgency.DATA, method, number)
        self.callbacks.streams.pop(number, None)


def _spread(messages_per_second: float, clock: Clock, sleep: Sleep) -> Pace:
    """A pace that never lets more go in any second, in bursts of a slice of it."""
    if messages_per_second <= 0:
        return Pace(0, clock, sleep)
    burst = math.ceil(messages_per_second / _SLICES)
    slices = int(messages_per_second // burst)
    seconds = 1.0 / (slices - 1) if slices > 1 else max(1.0, 1.0 / messages_per_second)
    return Pace(burst, clock, sleep, seconds)


def _hang_up(client: Any) -> None:
    transport = client.conn.transport
    client.disconnect()
    if transport is not None:
        transport.abort()


def _ignore(_: int) -> None:
    return None


def _after(message: str) -> str:
    return f" ({message})" if message else ""


def _why(dial: "asyncio.Future[None]", where: str, seconds: float) -> str:
    error = dial.exception()
    if isinstance(error, TimeoutError):
        return f"no answer in {seconds:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens; start TWS or its gateway and allow API clients"
    return str(error) or repr(error)
