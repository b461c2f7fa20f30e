"""Orders to Interactive Brokers through TWS or its gateway."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from dpa.clock import Clock
from dpa.config import IbkrConfig
from dpa.errors import DataError, HaltError, OutcomeUnknown, TransientError
from dpa.trading.broker import (
    BrokerEvent,
    BrokerSnapshot,
    LinkChanged,
    Margin,
    Notice,
    always,
)
from dpa.trading.ibkr import codes, snapshot
from dpa.trading.ibkr.callbacks import Listener, RequestFailed
from dpa.trading.ibkr.client import REQUEST_IDS, TwsClient
from dpa.trading.ibkr.codes import LINK_CODES, LinkCode, OrderCode
from dpa.trading.ibkr.contracts import Contracts
from dpa.trading.ibkr.only_ours import cancel_ours
from dpa.trading.ibkr.outages import expected_outage
from dpa.trading.ibkr.pace import Sleep, Urgency
from dpa.trading.ibkr.safety import choose_account
from dpa.trading.ibkr.snapshot import OrderKey, order_key
from dpa.trading.ibkr.unexplained import Unexplained
from dpa.trading.ibkr.words import (
    LOCATE,
    Known,
    read_commission,
    read_execution,
    read_margin,
    read_order,
    write_order,
)
from dpa.trading.types import Commission, Instrument, Order

_FIRST_RETRY_SECONDS = 0.5
_RATE_PAUSE_SECONDS = 1.0  # after TWS said that there were too many messages
_EXPLAIN_SECONDS = 1.0  # after a position moved, for its fill to come
_MOST_REMEMBERED = 20_000  # orders and fees; the oldest are forgotten
_log = logging.getLogger(__name__)


class IbkrBroker(Listener):
    """A :class:`~dpa.trading.broker.Broker` that is TWS.

    It keeps its connection by itself: a question now and then finds a TWS that went silent, and
    after a loss it connects again with the same client id and jittered pauses, refuses an account
    that is not the one of before, and says so with :class:`~dpa.trading.broker.LinkChanged`.

    While TWS has lost its servers (1100) nothing but cancels is sent: TWS would keep an order and
    send it on minutes later. Only 1101 and 1102 end that; on a connection that was made since, so
    does a data farm that is well.

    Parameters
    ----------
    settings : IbkrConfig
    clock : Clock
    client : TwsClient, optional
        The connection; default: one of its own. A feed may share it.
    sleep : callable
        ``await sleep(seconds)``: pauses of the watchdog and between attempts.
    jitter : callable
        A number of [0, 1).
    only_cancels : bool
        For a kill: a login that may not be traded is no reason to leave our orders there alone,
        so the connection stays, and takes no orders.
    """

    name = "ibkr"

    def __init__(
        self,
        settings: IbkrConfig,
        clock: Clock,
        client: TwsClient | None = None,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        only_cancels: bool = False,
    ) -> None:
        self.settings = settings
        self.client = TwsClient(settings, clock) if client is None else client
        self.contracts = Contracts(self.client)
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._only_cancels = only_cancels
        self._account: str | None = None
        self._handlers: list[Callable[[BrokerEvent], None]] = []
        self._orders: dict[OrderKey, Known] = {}
        self._fees: dict[str, Commission] = {}
        self._halted: HaltError | None = None
        self._refused = False
        self._forbidden = False  # the login, but for cancels of our own
        self._servers_up = True
        self._lost_here = False  # the servers, on this very connection
        self._order_id_above = 0
        self._cancelled_all = 0  # how often
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._asking = asyncio.Lock()
        self._unexplained = Unexplained()
        self._explain: asyncio.Task[None] | None = None
        self.client.listen(self)

    # what it is

    @property
    def account(self) -> str:
        """The account traded; empty before the first connection."""
        return self._account or ""

    @property
    def connected(self) -> bool:
        """Whether orders can be sent now."""
        return self.client.ready and self._servers_up and self._halted is None

    @property
    def next_order_id(self) -> int:
        """Lowest number TWS would take for a new order."""
        return max(self.client.next_order_id, self._order_id_above + 1)

    def listen(self, handler: Callable[[BrokerEvent], None]) -> None:
        """Call `handler` with every event from now on; one that raises stops trading."""
        self._handlers.append(handler)

    # connection

    async def connect(self, order_id_above: int = 0) -> None:
        """Open the connection, and keep it from now on.

        Parameters
        ----------
        order_id_above : int
            Highest order number ever used; later numbers are above it, even when TWS has
            forgotten that it was used.

        Raises
        ------
        HaltError
            The address or an account may not be traded, in words.
        TransientError
            TWS is not there, or does not take us now.
        """
        self._order_id_above = max(self._order_id_above, order_id_above)
        if self._keeper is None:
            await self._open("connected")
            self._keeper = asyncio.create_task(self._keep_guarded())
        elif not self.client.ready:
            await self._open("connected")
        elif self._halted is not None and not self._only_cancels:
            raise self._halted
        if not self._servers_up and not self._only_cancels:
            raise TransientError("TWS has lost its servers", "it says so when they are back")

    async def _open(self, why: str) -> None:
        self._lost_here = False
        try:
            await self.client.open()
            self._forget_what_ended()
            self._choose_account()
            if self._keeper is None and not self._only_cancels:
                await self._look_around()
        except HaltError as e:
            self.client.close("refused")
            self._refused = True
            self._halt(e, codes.REFUSED)
            raise
        self.client.raise_order_id(self._order_id_above + 1)
        self.client.opened(data_lost=True)
        self._tell(LinkChanged(self.connected, why, data_lost=True))

    async def _look_around(self) -> None:
        """What must be known of a TWS before anything is asked of it."""
        heard = await self.alive(self.settings.ask_seconds)
        if not heard or not self._servers_up:
            why = "has no connection to its servers" if heard else "does not answer"
            self.client.close(f"TWS {why}")
            raise TransientError(f"TWS {why}", "it is tried again")
        currency = await snapshot.currency(self.client, self.account)
        if currency:
            raise HaltError(
                f"{self.account}: its money is in {currency}, and everything here counts in USD",
                "trade an account whose base currency is USD",
            )

    def _forget_what_ended(self) -> None:
        """Begin a connection: what it is asked tells of today's fees and ended orders again."""
        self._orders = {k: known for k, known in self._orders.items() if not known.state.is_final}
        self._fees.clear()

    def _choose_account(self) -> None:
        try:
            self._account = choose_account(self.settings, self.client.managed, self._account)
        except HaltError as e:
            if not self._only_cancels:
                raise
            self._forbidden = True
            self._halt(e, codes.REFUSED)

    async def close(self) -> None:
        """Close the connection; working orders stay at TWS."""
        tasks = [task for task in (self._keeper, self._explain) if task is not None]
        self._keeper = self._explain = None  # which also ends the keeper's loop
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.client.close()

    async def _keep_guarded(self) -> None:
        try:
            await self._keep()
        except Exception as e:  # the edge of a task: nobody else would ever hear of it
            _log.exception("the connection to TWS is kept no more")
            error = HaltError(f"TWS: the connection is kept no more: {e!r}", "restart the trader")
            self._halt(error, codes.UNREADABLE)

    async def _keep(self) -> None:
        attempt = 0
        while not self._refused and self._keeper is not None:
            if self.client.ready:
                attempt = 0
                await self._watch()
                continue
            await self._pause(self._retry_seconds(attempt))
            attempt += 1
            try:
                await self._open("connected again")
            except (TransientError, HaltError) as e:
                _log.warning("%s", e)

    def _retry_seconds(self, attempt: int) -> float:
        longest: float = min(
            _FIRST_RETRY_SECONDS * 2 ** min(attempt, 20), self.settings.retry_seconds
        )
        return longest * (0.5 + 0.5 * self._jitter())

    async def _watch(self) -> None:
        """Wait for the next question to TWS, or a loss; ask."""
        await self._pause(self.settings.heartbeat_seconds)
        if self.client.ready:
            await self.alive(self.settings.ask_seconds)

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        waits = {
            asyncio.ensure_future(self._sleep(seconds)),
            asyncio.create_task(self._wake.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def alive(self, timeout_seconds: float) -> bool:
        """Whether TWS answers: it has read all that was sent before then. Else it is hung up on."""
        return await self.client.round_trip(timeout_seconds)

    # questions

    async def snapshot(self) -> BrokerSnapshot:
        """Ask for everything; a part that did not end in time is named as missing."""
        async with self._asking:
            taken = await snapshot.take(
                self.client, self._clock, self.account, self.contracts.symbol, self._fees
            )
        for fill in taken.executions:
            self._unexplained.filled(fill)
        self._unexplained.settled(complete="positions" not in taken.missing)
        for said in taken.open_orders:
            self._remember(said.order_id, said.client_id, said.perm_id).ref = said.ref
        return taken

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """What TWS knows of symbols; those it does not know are left out."""
        return await self.contracts.learn(symbols)

    async def what_if(self, order: Order) -> Margin:
        """Ask what an order would do to margins.

        Raises
        ------
        TransientError
            No answer, or TWS refuses the question; nothing was placed.
        """
        self._check(order)
        contract, tws_order = self._write(order, order.limit, what_if=True)
        tws_order.orderId = order.order_id
        key = f"what if {order.order_id}"
        try:
            answer = await self.client.ask(key, "placeOrder", order.order_id, contract, tws_order)
            return read_margin(answer[0])
        except (RequestFailed, DataError) as e:
            raise TransientError(f"{order.ref}: {e.what}") from e

    # orders

    async def place(self, order: Order, still: Callable[[], bool] = always) -> None:
        """Send an order; see :meth:`dpa.trading.broker.Broker.place`."""
        self._check(order)
        contract, tws_order = self._write(order, order.limit)
        await self._turn(order, still)
        key = (self.client.client_id, order.order_id)
        intent = order.intent
        self._orders[key] = Known(
            intent.id, intent.account, intent.symbol, order.order_id, self.client.client_id
        )
        self._orders[key].quantity = self._orders[key].remaining = Decimal(intent.shares)
        self._order_id_above = max(self._order_id_above, order.order_id)
        self._hand_over("placeOrder", order.order_id, contract, tws_order)

    async def modify(
        self, order: Order, limit: Decimal, still: Callable[[], bool] = always
    ) -> None:
        """Ask for another limit: the same order again, with the same number."""
        self._check(order)
        contract, tws_order = self._write(order, limit)
        await self._turn(order, still)
        self._hand_over("placeOrder", order.order_id, contract, tws_order)

    async def cancel(self, order: Order) -> None:
        """Ask for an order's end; also when nothing else may be sent."""
        await self.client.turn(Urgency.CANCEL)
        self._hand_over("cancelOrder", order.order_id, "")

    async def cancel_all(self) -> None:
        """Ask for the end of every order of every client, and of those made by hand.

        Orders that wait for their turn are given back: none leaves after it. On a login that may
        not be traded, where accounts other than ours have orders, only ours are cancelled.

        Raises
        ------
        TransientError
            Nothing was sent; or orders are left, and it says which.
        """
        self._cancelled_all += 1
        if self._forbidden:
            async with self._asking:
                await cancel_ours(self.client, self.contracts.symbol)
        await self.client.turn(Urgency.CANCEL)
        self._hand_over("reqGlobalCancel")

    async def _turn(self, order: Order, still: Callable[[], bool]) -> None:
        """Wait for our turn, and look again; nobody may wait between this and the socket."""
        before = self._cancelled_all
        await self.client.turn(Urgency.ORDER)
        if self._cancelled_all != before:
            raise TransientError(f"{order.ref}: everything was cancelled; nothing was sent")
        self._check(order)
        if not still():
            raise TransientError(f"{order.ref}: it may be sent no more; nothing was sent")

    def _check(self, order: Order) -> None:
        """Last word before the socket."""
        if self._halted is not None:
            raise self._halted
        if self._only_cancels:
            raise HaltError(f"{order.ref}: this connection only cancels")
        if not self.client.ready:
            raise TransientError(f"{order.ref}: not connected to TWS; nothing was sent")
        if not self._servers_up:
            raise TransientError(f"{order.ref}: TWS has lost its servers; nothing was sent")
        if order.intent.account != self._account:
            raise HaltError(
                f"{order.ref}: for account {order.intent.account}, not {self._account}",
                "find out where the order comes from",
            )
        outage = expected_outage(self._clock.now())
        if outage:
            raise TransientError(f"{order.ref}: {outage}; nothing was sent")
        if not 0 < order.order_id < REQUEST_IDS:
            raise HaltError(f"{order.ref}: order number {order.order_id} is out of bounds")

    def _write(self, order: Order, limit: Decimal | None, what_if: bool = False) -> tuple[Any, Any]:
        library = self.client.library
        if library is None:
            raise TransientError(f"{order.ref}: not connected to TWS; nothing was sent")
        try:
            contract = self.contracts.contract(order.intent.symbol)
            return contract, write_order(library.order, order.intent, limit, what_if)
        except DataError as e:
            raise TransientError(f"{e.what}; nothing was sent") from e

    def _hand_over(self, method: str, *arguments: Any) -> None:
        try:
            self.client.call(method, *arguments)
        except Exception as e:
            _log.exception("TWS: %s", method)
            raise OutcomeUnknown(f"TWS: {method} failed half-way: {e!r}") from e

    # events

    def _tell(self, event: BrokerEvent) -> None:
        for handler in self._handlers:
            try:
                handler(event)
            except Exception as e:  # around a foreign handler; trading stops
                _log.exception("a listener of the broker failed at %s", type(event).__name__)
                self._halt(
                    HaltError(f"a listener of the broker raised {e!r}", "restart the trader"),
                    codes.UNREADABLE,
                )

    def _halt(self, error: HaltError, code: int) -> None:
        if self._halted is None:
            self._halted = error
            _log.critical("no more orders: %s", error)
            self._tell(Notice(code, str(error)))
            self._tell(LinkChanged(False, str(error)))

    def failed(self, what: str) -> None:
        """A message could not be read: what it said is not known, so nobody may trade on."""
        self._halt(
            HaltError(f"TWS: {what}", "update the client library; then start trading anew"),
            codes.UNREADABLE,
        )

    def link_lost(self, why: str) -> None:
        """The socket is gone."""
        self._wake.set()
        outage = expected_outage(self._clock.now())
        self._tell(LinkChanged(False, f"{why} ({outage})" if outage else why, data_lost=True))

    def notice(self, request_id: int, code: int, message: str) -> None:
        """An error frame."""
        link = LINK_CODES.get(code)
        if link is not None:
            self._link(link, code, message)
        if code == codes.READ_ONLY and "read-only" in message.lower():
            self._halt(HaltError(f"TWS: {message}", "untick 'Read-Only API' in its settings"), code)
        if code == codes.RATE_BROKEN:
            self.client.pace.pause(_RATE_PAUSE_SECONDS)
        of_order = 0 <= request_id < REQUEST_IDS
        self._tell(Notice(code, message, request_id if of_order else -1))
        if of_order:
            self._order_notice(request_id, code, message)

    def _link(self, link: LinkCode, code: int, message: str) -> None:
        why = f"{code}: {message}"
        if link is LinkCode.DOWN:
            self._servers_up, self._lost_here = False, True
            self._tell(LinkChanged(False, why))
            return
        if link is LinkCode.FARM_DOWN:
            return
        if link is LinkCode.FARM_UP and (self._servers_up or self._lost_here):
            return
        lost = link is LinkCode.LOST_DATA
        self._servers_up, self._lost_here = True, False
        self.client.opened(data_lost=lost)
        self._tell(LinkChanged(self.connected, why, data_lost=lost))

    def _order_notice(self, order_id: int, code: int, message: str) -> None:
        known = self._orders.get((self.client.client_id, order_id))
        meaning = codes.ORDER_CODES.get(code)
        if known is None or known.state.is_final:
            return
        if meaning is OrderCode.REFUSES or code == 202:
            known.code, known.message = code, message
        if meaning is OrderCode.HELD:
            known.why_held = LOCATE
        state = codes.state_after(code, known.acknowledged)
        if state is not None:
            self._tell(known.said(state, code, message))

    def open_order(self, contract: Any, order: Any, state: Any) -> None:
        """An order as TWS has it; the first word of one that we did not know is told on."""
        seen = read_order(self.contracts.symbol(contract), order, state)
        key = order_key(seen.order_id, seen.client_id, seen.perm_id)
        before = self._orders.get(key)
        if before is None:
            self._keep_known(key, seen)
            self._tell(seen.said())
            return
        before.ref, before.account, before.symbol = seen.ref, seen.account, seen.symbol
        before.perm_id, before.quantity = seen.perm_id or before.perm_id, seen.quantity
        before.status = before.status or seen.status

    def order_status(self, *word: Any) -> None:
        """An order's progress; one never heard of gets a placeholder until its order comes."""
        order_id, client_id, perm_id = word[:3]
        known = self._remember(order_id, client_id, perm_id)
        known.heard(word)
        self._tell(known.said())

    def _remember(self, order_id: int, client_id: int, perm_id: int) -> Known:
        key = order_key(order_id, client_id, perm_id)
        if key not in self._orders:
            self._keep_known(key, Known("", "", "", order_id, client_id, perm_id))
        return self._orders[key]

    def _keep_known(self, key: OrderKey, known: Known) -> None:
        self._orders[key] = known
        _forget(self._orders, lambda known: known.state.is_final)

    def execution(self, contract: Any, execution: Any) -> None:
        """A fill, of whomever."""
        fill = read_execution(self.contracts.symbol(contract), execution)
        self._unexplained.filled(fill)
        self._tell(fill)

    def position(self, account: str, contract: Any, shares: float, average_cost: float) -> None:
        """Shares held; where no fill explains them, fills are asked for a moment later."""
        self._unexplained.position(account, self.contracts.symbol(contract), shares)
        if self._unexplained.any and (self._explain is None or self._explain.done()):
            self._explain = asyncio.get_running_loop().create_task(self._ask_fills())

    async def _ask_fills(self) -> None:
        await self._sleep(_EXPLAIN_SECONDS)
        library = self.client.library
        if library is None or self._asking.locked() or not self._unexplained.any:
            return
        number, everything = self.client.new_id(), library.execution_filter()
        try:
            told = await self.client.ask(number, "reqExecutions", everything)
        except (TransientError, RequestFailed) as e:
            _log.warning("a position moved without a fill, and asking for fills failed: %s", e)
            return
        for contract, execution in told:
            fill = read_execution(self.contracts.symbol(contract), execution)
            if self._unexplained.filled(fill):
                self._tell(fill)
        self._unexplained.settled(complete=False)

    def commission(self, report: Any) -> None:
        """A fee."""
        fee = read_commission(report)
        if fee is None:
            _log.warning("the fee of %s is not known: %s", report.execId, report.commission)
            return
        self._fees[fee.exec_id] = fee
        _forget(self._fees, lambda _: True)
        self._tell(fee)


def _forget(kept: dict[Any, Any], may_go: Callable[[Any], bool]) -> None:
    """Drop the older half of what may go, when there is too much."""
    if len(kept) <= _MOST_REMEMBERED:
        return
    for key in [key for key, value in kept.items() if may_go(value)][: _MOST_REMEMBERED // 2]:
        del kept[key]
