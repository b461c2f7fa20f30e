"""What TWS says, as the client library hands it over: told on at once, kept nowhere.

The libraries keep a picture of orders, fills and positions of their own, and it is wrong in many
ways: it marks orders cancelled that still work, adds corrections to what they correct, loses
everything at a disconnect. So only their protocol layer is used, with this in the place of their
state: every message goes to the request that waits for it, to the stream it belongs to, and to
the listeners.
"""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

from dpa.clock import Clock
from dpa.errors import DpaError, TransientError
from dpa.trading.ibkr.codes import is_remark

Key = int | str


class RequestFailed(DpaError):
    """TWS refused a request.

    Parameters
    ----------
    code : int
    message : str
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"TWS {code}: {message}")
        self.code = code


class Request:
    """An answer that is waited for: many parts, then an end.

    Parameters
    ----------
    ends : int
        How many ends must come. More than one where an earlier question of the same kind, which
        has no number of its own, may still be answered: then only what lies between the last two
        ends is the answer.
    """

    def __init__(self, ends: int = 1) -> None:
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.parts: list[Any] = []
        self._ends = ends

    def add(self, part: Any) -> None:
        """A part has come."""
        self.parts.append(part)

    def end(self) -> bool:
        """An end has come; whether it was the last one."""
        self._ends -= 1
        if self._ends > 0:
            self.parts = []
            return False
        if not self.future.done():
            self.future.set_result(self.parts)
        return True

    def fail(self, error: Exception) -> None:
        """No answer will come."""
        if not self.future.done():
            self.future.set_exception(error)


class Listener:
    """Told of what no request asked for; override what is wanted. Nobody here may block."""

    def open_order(self, contract: Any, order: Any, state: Any) -> None:
        """An order as TWS has it."""

    def order_status(
        self,
        order_id: int,
        client_id: int,
        perm_id: int,
        status: str,
        filled: float,
        remaining: float,
        why_held: str,
    ) -> None:
        """An order's progress."""

    def execution(self, contract: Any, execution: Any) -> None:
        """A fill, now or repeated by a question."""

    def commission(self, report: Any) -> None:
        """The fee of a fill."""

    def position(self, account: str, contract: Any, shares: float, average_cost: float) -> None:
        """Shares held."""

    def notice(self, request_id: int, code: int, message: str) -> None:
        """An error frame."""

    def link_lost(self, why: str) -> None:
        """The socket is gone, and every request and stream with it."""

    def link_opened(self, data_lost: bool) -> None:
        """The connection may be used; whether every stream is gone."""

    def failed(self, what: str) -> None:
        """A message could not be read, or a listener raised."""


class Stream(Protocol):
    """A subscription."""

    def price(self, tick: int, price: float, size: float) -> None: ...
    def size(self, tick: int, size: float) -> None: ...
    def generic(self, tick: int, value: float) -> None: ...
    def data_type(self, kind: int) -> None: ...
    def bar(self, bar: Any) -> None: ...
    def failed(self, code: int, message: str) -> None: ...


_BOUND = {
    "managedAccounts": "accounts_told",
    "openOrder": "open_order",
    "openOrderEnd": "open_order_end",
    "orderStatus": "order_status",
    "execDetails": "execution",
    "execDetailsEnd": "end",
    "commissionReport": "commission",
    "completedOrder": "completed_order",
    "completedOrdersEnd": "completed_orders_end",
    "position": "position",
    "positionEnd": "position_end",
    "accountSummary": "account_value",
    "accountSummaryEnd": "end",
    "contractDetails": "part",
    "contractDetailsEnd": "end",
    "currentTime": "time_told",
    "historicalData": "part",
    "historicalDataEnd": "history_end",
    "historicalDataUpdate": "bar",
    "realtimeBar": "realtime_bar",
    "priceSizeTick": "price",
    "tickSize": "size",
    "tickGeneric": "generic",
    "marketDataType": "data_type",
    "error": "error",
    "connectionClosed": "connection_closed",
}


class _Wrapper:
    """The object that the library calls; what is not in the table is ignored."""

    def __init__(self, callbacks: "Callbacks") -> None:
        self.ib = SimpleNamespace(TimezoneTWS="")
        self.defaultTimezone = callbacks.time_zone
        for theirs, ours in _BOUND.items():
            setattr(self, theirs, getattr(callbacks, ours))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return _ignore


def _ignore(*_: Any) -> None:
    return None


class Callbacks:
    """Hands every message to whom it concerns.

    Parameters
    ----------
    clock : Clock
    """

    def __init__(self, clock: Clock) -> None:
        self.time_zone = clock.now().tzinfo
        self.listeners: list[Listener] = []
        self.requests: dict[Key, Request] = {}
        self.streams: dict[int, Stream] = {}
        self.times: list[asyncio.Future[bool]] = []
        self.noticed: Callable[[int], None] = _ignore  # every code
        self.told: Callable[[int], None] = _ignore  # codes that come before it is ready
        self.last_heard = clock.elapsed()
        self.managed: tuple[str, ...] = ()
        self._clock = clock

    def wrapper(self) -> Any:
        """A fresh object for the library to call."""
        return _Wrapper(self)

    def break_off(self, error: Exception) -> None:
        """Fail all requests, forget all streams."""
        requests, self.requests = self.requests, {}
        times, self.times = self.times, []
        self.streams = {}
        for request in requests.values():
            request.fail(error)
        for future in times:
            if not future.done():
                future.set_result(False)

    def connection_closed(self) -> None:
        """The socket closed after it was ready."""
        self.break_off(TransientError("TWS: the connection was closed"))
        for listener in self.listeners:
            listener.link_lost("the connection was closed")

    def accounts_told(self, accounts: str) -> None:
        self.managed = tuple(a for a in accounts.split(",") if a)

    # answers

    def part(self, request_id: int, part: Any) -> None:
        request = self.requests.get(request_id)
        if request is not None:
            request.add(part)
        elif request_id in self.streams:  # history before it is kept up to date
            self.streams[request_id].bar(part)

    def end(self, key: Key) -> None:
        request = self.requests.get(key)
        if request is not None and request.end():
            self.requests.pop(key, None)

    def history_end(self, request_id: int, *_: Any) -> None:
        self.end(request_id)

    def account_value(
        self, request_id: int, account: str, tag: str, value: str, currency: str
    ) -> None:
        self.part(request_id, (account, tag, value, currency))

    def time_told(self, _: int) -> None:
        if self.times:
            future = self.times.pop(0)
            if not future.done():
                future.set_result(True)

    # orders

    def open_order(self, _: int, contract: Any, order: Any, state: Any) -> None:
        if order.whatIf:
            request = self.requests.get(f"what if {order.orderId}")
            if request is not None:
                request.add(state)
                request.end()
            return
        for listener in self.listeners:
            listener.open_order(contract, order, state)
        self._collect("open orders", ("order", contract, order, state))

    def open_order_end(self) -> None:
        self.end("open orders")

    def completed_order(self, contract: Any, order: Any, state: Any) -> None:
        self._collect("completed orders", (contract, order, state))

    def completed_orders_end(self) -> None:
        self.end("completed orders")

    def order_status(
        self,
        order_id: int,
        status: str,
        filled: float,
        remaining: float,
        _average: float,
        perm_id: int,
        _parent: int,
        _last: float,
        client_id: int,
        why_held: str,
        _cap: float = 0.0,
    ) -> None:
        word = (order_id, client_id, perm_id, status, filled, remaining, why_held)
        for listener in self.listeners:
            listener.order_status(*word)
        self._collect("open orders", ("status", word))

    def execution(self, request_id: int, contract: Any, execution: Any) -> None:
        request = self.requests.get(request_id)
        if request is not None:
            request.add((contract, execution))
            return
        for listener in self.listeners:
            listener.execution(contract, execution)

    def commission(self, report: Any) -> None:
        for listener in self.listeners:
            listener.commission(report)

    def position(self, account: str, contract: Any, shares: float, average_cost: float) -> None:
        self._collect("positions", (account, contract, shares, average_cost))
        for listener in self.listeners:
            listener.position(account, contract, shares, average_cost)

    def position_end(self) -> None:
        self.end("positions")

    def _collect(self, key: str, part: Any) -> None:
        request = self.requests.get(key)
        if request is not None:
            request.add(part)

    # data

    def price(self, request_id: int, tick: int, price: float, size: float) -> None:
        stream = self.streams.get(request_id)
        if stream is not None:
            stream.price(tick, price, size)

    def size(self, request_id: int, tick: int, size: float) -> None:
        stream = self.streams.get(request_id)
        if stream is not None:
            stream.size(tick, size)

    def generic(self, request_id: int, tick: int, value: float) -> None:
        stream = self.streams.get(request_id)
        if stream is not None:
            stream.generic(tick, value)

    def data_type(self, request_id: int, kind: int) -> None:
        stream = self.streams.get(request_id)
        if stream is not None:
            stream.data_type(kind)

    def bar(self, request_id: int, bar: Any) -> None:
        stream = self.streams.get(request_id)
        if stream is not None:
            stream.bar(bar)

    def realtime_bar(
        self,
        request_id: int,
        time: int,
        open_: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        average: float,
        _count: int,
    ) -> None:
        stream = self.streams.get(request_id)
        if stream is not None:
            stream.bar(
                SimpleNamespace(
                    date=time,
                    open=open_,
                    high=high,
                    low=low,
                    close=close,
                    volume=volume,
                    average=average,
                )
            )

    # words

    def error(self, request_id: int, code: int, message: str, _: str = "") -> None:
        self.noticed(code)
        self.told(code)
        if not is_remark(code):
            self._fail(request_id, RequestFailed(code, message))
        stream = self.streams.get(request_id)
        if stream is not None:
            stream.failed(code, message)
        for listener in self.listeners:
            listener.notice(request_id, code, message)

    def _fail(self, request_id: int, error: RequestFailed) -> None:
        for key in (request_id, f"what if {request_id}"):
            request = self.requests.pop(key, None)
            if request is not None:
                request.fail(error)
