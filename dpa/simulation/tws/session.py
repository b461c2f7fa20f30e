"""One connected client: what it asked for, and what it is told."""

import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from dpa.clock import Clock
from dpa.simulation.tws import replies, requests
from dpa.simulation.tws.account_desk import AccountDesk
from dpa.simulation.tws.market_desk import VALIDATING, MarketDesk
from dpa.simulation.tws.replies import Message
from dpa.simulation.tws.requests import Request
from dpa.simulation.tws.streams import Window
from dpa.simulation.tws.wire import Frames, WireError, eastern, fields, frame
from dpa.simulation.tws.words import (
    Contract,
    SimBar,
    SimCommission,
    SimExecution,
    SimMargin,
    SimOrder,
    SimPosition,
    SimQuote,
    Venue,
)

LOG = logging.getLogger("dpa.simulation.tws")
HISTORY_WINDOW = 600  # seconds, of the pacing of historical requests
STRIKES = 3  # seconds with too many messages before a client is disconnected

_GREETING = b"API\0"
_OFFER = re.compile(r"v(\d{1,5})(?:\.\.(\d{1,5}))?(?: .*)?", re.DOTALL)
_NOTICES = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefnj"),
)
_NOTICES_ALONE = (
    (2103, "Market data farm connection is broken:usfarm"),
    (2105, "HMDS data farm connection is broken:ushmds"),
    (
        2110,
        "Connectivity between Trader Workstation and server is broken. "
        "It will be restored automatically.",
    ),
)


class Link(Protocol):
    """The connection under a session."""

    def write(self, data: bytes, lag_seconds: float) -> None: ...
    def close(self, reset: bool) -> None: ...


@dataclass(frozen=True)
class Trouble:
    """Something that must not happen between this gateway and a client that speaks its language.

    Parameters
    ----------
    client_id : int
        -1 before the client named itself.
    reason : str
    error : Exception
    """

    client_id: int
    reason: str
    error: Exception


@dataclass
class Shared:
    """What all sessions of a gateway have in common.

    Parameters
    ----------
    venue : Venue
    versions : (int, int)
        Lowest and highest server version spoken.
    pacing : Clock
        What messages a second are counted by.
    history : Window
        Historical requests of all clients.
    troubles : deque of Trouble
        The newest; `trouble_count` counts all.
    closings : deque of (int, str)
        Client id and reason of the newest sessions that the gateway ended.
    """

    venue: Venue
    versions: tuple[int, int]
    pacing: Clock
    history: Window = field(default_factory=lambda: Window(HISTORY_WINDOW))
    troubles: deque[Trouble] = field(default_factory=lambda: deque(maxlen=1000))
    trouble_count: int = 0
    closings: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=1000))


class Session:
    """Listens to the venue for one client, and to the client.

    Parameters
    ----------
    shared : Shared
    link : Link
        Where bytes go.
    """

    def __init__(self, shared: Shared, link: Link) -> None:
        self.client_id = -1
        self.version = 0  # server version agreed on; 0 before
        self.closed = False
        self._shared = shared
        self._venue = shared.venue
        self._link = link
        self._frames = Frames()
        self._greeted = False
        self._attached = False
        self._recent = Window(1.0)
        self._offence_at = float("-inf")
        self._strikes = 0
        self._desk = MarketDesk(self, shared.venue, shared.history, shared.pacing)
        self._books = AccountDesk(self, shared.venue)
        self._handlers = self._table()

    def received(self, data: bytes) -> None:
        """Bytes came from the client; whatever they are, nothing is raised."""
        if self.closed:
            return
        try:
            self._frames.feed(data)
            if self._greet():
                self._read_all()
        except WireError as error:
            self._fail(error, str(error))
        except Exception as error:
            LOG.exception("client %d: a request broke the venue", self.client_id)
            self._fail(error, f"a request broke the venue: {error!r}")

    def lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        if self._attached:
            self._attached = False
            self._venue.detach(self)

    def finish(self, reason: str, reset: bool = False) -> None:
        """End the session."""
        if not self.closed:
            self.closed = True
            LOG.info("client %d is disconnected: %s", self.client_id, reason)
            self._shared.closings.append((self.client_id, reason))
            self._link.close(reset)

    # what the venue tells

    def open_order(self, order: SimOrder, margin: SimMargin | None = None) -> None:
        """An order was accepted or changed; with a margin: the answer to what-if."""
        self.send(replies.open_order(order, margin, self.version))

    def order_status(self, order: SimOrder) -> None:
        """Where an order stands."""
        self.send(replies.order_status(order))

    def execution(self, execution: SimExecution, request_id: int = -1) -> None:
        """A fill; -1: as it happens."""
        self.send(replies.execution(request_id, execution, self.version))

    def commission(self, commission: SimCommission) -> None:
        """The fee of a fill."""
        self.send(replies.commission(commission))

    def error(self, request_id: int, code: int, message: str) -> None:
        """An error, a warning or a notice; -1: of no request."""
        self.send(replies.error(request_id, code, message, self.version))

    def position(self, position: SimPosition) -> None:
        """A position changed."""
        self._books.position(position)

    def portfolio(self, position: SimPosition) -> None:
        """A position or its worth changed."""
        self._books.portfolio(position)

    def account_values(self, account: str) -> None:
        """Values of an account changed."""
        self._books.account_values(account)

    def quote(self, contract: Contract, quote: SimQuote) -> None:
        """The market moved."""
        self._desk.quote(contract, quote)

    def realtime_bar(self, contract: Contract, bar: SimBar) -> None:
        """A bar of five seconds ended."""
        self._desk.realtime_bar(contract, bar)

    def history_bar(self, contract: Contract, bar: SimBar) -> None:
        """A bar of five seconds ended, for histories that are kept up to date."""
        self._desk.history_bar(contract, bar)

    def follows_bars(self, contract: Contract) -> bool:
        """Whether the client wants bars of a contract at all."""
        return self._desk.follows_bars(contract)

    def follows_quotes(self, contract: Contract) -> bool:
        """Whether the client wants quotes of a contract."""
        return self._desk.follows_quotes(contract)

    def data_lost(self) -> None:
        """Market data subscriptions are gone: the client has to make them again."""
        self._desk.forget()

    def disconnect(self, reset: bool) -> None:
        """The venue drops the client."""
        self.finish("dropped by the venue", reset)

    # the handshake

    def _greet(self) -> bool:
        """Whether the client's first bytes are there; they are always the same."""
        if not self._greeted:
            greeting = self._frames.take(len(_GREETING))
            if greeting is None:
                return False
            if greeting != _GREETING:
                raise WireError(f"a connection begins with {greeting!r}, not {_GREETING!r}")
            self._greeted = True
        return True

    def _agree(self, body: bytes) -> None:
        """The client's first frame: the versions it speaks."""
        offer = _OFFER.fullmatch(body.decode("latin-1").rstrip("\0"))
        if offer is None:
            raise WireError(f"a first frame of {body[:80]!r}, not of versions like v157..176")
        lowest, highest = int(offer[1]), int(offer[2] or offer[1])
        known_lowest, known_highest = self._shared.versions
        version = min(highest, known_highest)
        if version < max(lowest, known_lowest):
            self.finish(f"no common version: the client speaks {offer[0][:80]!r}")
            return
        self.version = version
        self.send((version, eastern(self._venue.clock.now())))

    def _start_api(self, request: requests.StartApi) -> None:
        if self._attached:
            self.error(-1, 501, "Already connected.")
            return
        self.client_id = request.client_id
        refused = self._venue.attach(self)
        if refused is not None:
            self.error(-1, refused.code, refused.message)
            self.finish(f"{refused.code}: {refused.message}")
            return
        self._attached = True
        self._accounts()
        self._ids()
        for code, message in _NOTICES if self._venue.traits.servers else _NOTICES_ALONE:
            self.error(-1, code, message)

    # requests

    def _read_all(self) -> None:
        for body in self._frames:
            self._read(body)
            if self.closed:
                return

    def _read(self, body: bytes) -> None:
        if not self.version:
            self._agree(body)
            return
        message_id, *values = fields(body)
        if not re.fullmatch(r"\d{1,4}", message_id, re.ASCII):
            raise WireError(f"a message id of {message_id[:80]!r}")
        number = int(message_id)
        request = requests.read_request(number, values, self.version)
        if not self._in_pace() or number in self._venue.traits.swallow:
            return
        if request is None:
            self.error(-1, 505, f"Fatal Error: Unknown message id. {number}")
        elif self._attached or isinstance(request, requests.StartApi):
            self._handlers[type(request)](request)
        else:
            self.error(-1, 504, "Not connected")

    def _in_pace(self) -> bool:
        """Whether the client keeps to its messages a second; who goes on is disconnected."""
        now, allowed = self._shared.pacing.elapsed(), self._venue.traits.messages_per_second
        count = self._recent.add(now)
        if count <= allowed:
            return True
        self.error(
            -1,
            100,
            f"Max rate of messages per second has been exceeded: max={allowed} rec={count}",
        )
        if now - self._offence_at >= 1:
            self._offence_at = now
            self._strikes += 1
        if self._strikes >= STRIKES or count > 2 * allowed:
            self.finish(f"100: {count} messages in a second, {allowed} are allowed")
        return False

    def _table(self) -> dict[type[Request], Callable[[Any], None]]:
        return {
            requests.StartApi: self._start_api,
            requests.Plain: self._plain,
            requests.Numbered: self._numbered,
            requests.ContractData: self._desk.contract_data,
            requests.MarketDataType: self._desk.data_type,
            requests.MarketData: self._desk.market_data,
            requests.TickByTick: self._desk.tick_by_tick,
            requests.RealTimeBars: self._desk.real_time_bars,
            requests.History: self._desk.history,
            requests.HeadTimestamp: self._desk.head_timestamp,
            requests.PlaceOrder: self._place,
            requests.Executions: self._executions,
            requests.OpenOrders: self._open_orders,
            requests.AccountUpdates: self._books.updates,
            requests.AccountSummary: self._books.summary,
            requests.OfAccount: self._books.of_account,
        }

    def _plain(self, request: requests.Plain) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "ids": self._ids,
            "managed accounts": self._accounts,
            "current time": self._current_time,
            "global cancel": self._global_cancel,
            "positions": self._books.all_positions,
            "cancel positions": self._books.cancel_positions,
            "auto open orders": self._auto_open_orders,
            "completed orders": self._completed_orders,
            "ignored": lambda: None,
        }
        kinds[request.kind]()

    def _numbered(self, request: requests.Numbered) -> None:
        kinds: dict[str, Callable[[int], None]] = {
            "cancel order": self._cancel,
            "cancel line": self._desk.cancel,
            "cancel history": self._desk.cancel_history,
            "ignored": lambda number: None,
        }
        serve = kinds.get(request.kind)
        if serve is None:
            self._books.cancel(request.kind, request.id)
        else:
            serve(request.id)

    def _ids(self) -> None:
        self.send((9, 1, self._venue.next_order_id(self.client_id)))

    def _accounts(self) -> None:
        self.send((15, 1, ",".join(self._venue.traits.accounts)))

    def _current_time(self) -> None:
        self.send((49, 1, int(self._venue.clock.now().timestamp())))

    # orders

    def _read_only(self, number: int = -1) -> bool:
        """Whether orders are refused; TWS then does not even tell which are open."""
        if self._venue.traits.read_only:
            self.error(
                number, 321, f"{VALIDATING}The API interface is currently in Read-Only mode."
            )
        return self._venue.traits.read_only

    def _place(self, request: requests.PlaceOrder) -> None:
        if self._read_only(request.order_id):
            return
        contract = self._desk.contract(request.order_id, request.asked)
        if contract is not None:
            refused = self._venue.place(self.client_id, request.order_id, contract, request.fields)
            if refused is not None:
                self.error(request.order_id, refused.code, refused.message)

    def _cancel(self, order_id: int) -> None:
        if not self._read_only(order_id):
            refused = self._venue.cancel(self.client_id, order_id)
            if refused is not None:
                self.error(order_id, refused.code, refused.message)

    def _global_cancel(self) -> None:
        if not self._read_only():
            self._venue.cancel_all()

    def _auto_open_orders(self) -> None:
        self._read_only()

    def _open_orders(self, request: requests.OpenOrders) -> None:
        if self._read_only():
            return
        for order in self._venue.open_orders(None if request.everyone else self.client_id):
            self.open_order(order)
            self.order_status(order)
        self.send((53, 1))

    def _completed_orders(self) -> None:
        if self._read_only():
            return
        for order in self._venue.completed_orders():
            self.send(replies.completed_order(order, self.version))
        self.send((102,))

    def _executions(self, request: requests.Executions) -> None:
        for execution, commission in self._venue.executions():
            if _matches(request, execution):
                self.execution(execution, request.id)
                if commission is not None:
                    self.commission(commission)
        self.send((55, 1, request.id))

    # sending

    def send(self, message: Message) -> None:
        """Write a message, unless the gateway is mute or withholds its kind."""
        traits = self._venue.traits
        if self.closed or traits.mute or (self._attached and message[0] in traits.withhold):
            return
        self._link.write(frame(*message), traits.lag_seconds)

    def _fail(self, error: Exception, reason: str) -> None:
        LOG.warning("client %d: %s", self.client_id, reason)
        self._shared.trouble_count += 1
        self._shared.troubles.append(Trouble(self.client_id, reason, error))
        if self.version and not self.closed:
            self.error(-1, 320, f"Error reading request. {reason}")
        self.finish(reason)


def _matches(request: requests.Executions, execution: SimExecution) -> bool:
    sides = {"BUY": "BOT", "SELL": "SLD"}
    wanted = (
        (request.client_id or "", execution.client_id),
        (request.account, execution.account),
        (request.symbol, execution.contract.symbol),
        (request.sec_type, "STK"),
        (request.exchange, execution.contract.primary_exchange),
        (sides.get(request.side, request.side), execution.side),
    )
    late = request.since is None or execution.time >= request.since
    return late and all(value in ("", actual) for value, actual in wanted)
