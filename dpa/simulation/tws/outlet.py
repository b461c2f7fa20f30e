"""What the venue tells its clients, and the tricks that faults play on it."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from dpa.simulation.tws.agenda import Agenda
from dpa.simulation.tws.words import (
    Contract,
    Listener,
    Refused,
    SimBar,
    SimCommission,
    SimExecution,
    SimOrder,
    SimPosition,
    SimQuote,
)

ID_IN_USE = Refused(
    326, "Unable to connect as the client id is already in use. Retry with a unique client id."
)
DOWN = Refused(502, "Couldn't connect to TWS: it is restarting.")


Wants = Callable[[Contract], bool]


def _everything(contract: Contract) -> bool:
    return True


@dataclass
class Rejection:
    """Orders that will be rejected.

    Parameters
    ----------
    code : int
    message : str
    symbol : str, optional
        None: any.
    left : int
        How many.
    what_if : bool
        Questions about margins are, too.
    """

    code: int
    message: str
    symbol: str | None
    left: int
    what_if: bool = False


@dataclass
class Mischief:
    """What faults have set up; nothing of it is there in good times."""

    rejections: list[Rejection] = field(default_factory=list)
    lose: dict[str, int] = field(default_factory=dict)  # orders and cancels that never arrive
    hide: int = 0  # orders that are worked and never spoken of
    hidden: set[int] = field(default_factory=set)  # their permIds
    duplicate: bool = False
    reorder: bool = False
    commission: str = ""  # late, never, early
    commission_seconds: float = 0.0
    cancel_seconds: float = 0.0
    dark: bool = False  # 1100: no data
    down_until: datetime | None = None
    held_ids: set[int] = field(default_factory=set)


class Outlet:
    """Connected clients. Each hears of its own orders; of positions everyone hears."""

    def __init__(self, agenda: Agenda, now: Callable[[], datetime]) -> None:
        self._agenda, self._now = agenda, now
        self._listeners: dict[int, Listener] = {}
        self._wants_bars: dict[int, Wants] = {}
        self._wants_quotes: dict[int, Wants] = {}
        self.mischief = Mischief()
        self.reported: set[str] = set()  # executions whose fee was told

    @property
    def everyone(self) -> list[Listener]:
        """All clients."""
        return list(self._listeners.values())

    def attach(self, listener: Listener) -> Refused | None:
        """Take a client in, unless its id is in use or the gateway is down."""
        down = self.mischief.down_until
        if down is not None and self._now() < down:
            return DOWN
        number = listener.client_id
        if number in self._listeners or number in self.mischief.held_ids:
            return ID_IN_USE
        self._listeners[number] = listener
        self._wants_bars[number] = getattr(listener, "follows_bars", _everything)
        self._wants_quotes[number] = getattr(listener, "follows_quotes", _everything)
        return None

    def detach(self, listener: Listener) -> None:
        """A client has gone."""
        if self._listeners.get(listener.client_id) is listener:
            for kept in (self._listeners, self._wants_bars, self._wants_quotes):
                kept.pop(listener.client_id)

    def disconnect(self, client_id: int | None, reset: bool) -> None:
        """Cut the connection of a client, or of all."""
        for listener in self.everyone:
            if client_id in (None, listener.client_id):
                self.detach(listener)
                listener.disconnect(reset)

    def _owner(self, order: SimOrder) -> Iterator[Listener]:
        listener = self._listeners.get(order.client_id)
        if listener is not None and order.perm_id not in self.mischief.hidden:
            yield listener

    def order(self, order: SimOrder) -> None:
        """How an order stands."""
        for listener in self._owner(order):
            listener.open_order(order)
            listener.order_status(order)

    def status(self, order: SimOrder) -> None:
        """How an order stands, in brief."""
        for listener in self._owner(order):
            listener.order_status(order)

    def order_error(self, order: SimOrder, code: int, message: str) -> None:
        """Something about an order."""
        for listener in self._owner(order):
            listener.error(order.order_id, code, message)

    def say(self, code: int, message: str, request_id: int = -1) -> None:
        """Something for everyone."""
        for listener in self.everyone:
            listener.error(request_id, code, message)

    def forget_subscriptions(self) -> None:
        """Nobody follows any market data any more, until he asks again."""
        for listener in self.everyone:
            getattr(listener, "data_lost", lambda: None)()

    def fill(
        self,
        order: SimOrder,
        before: SimOrder,
        execution: SimExecution,
        commission: SimCommission,
    ) -> None:
        """An execution, what it makes of its order (TWS repeats that), and its fee."""
        mischief = self.mischief
        now = copy.copy(order)
        for to in self._owner(order):
            calls = [
                partial(to.execution, execution),
                partial(to.open_order, now),
                partial(to.order_status, now),
                partial(to.order_status, now),
            ]
            if mischief.commission == "early":
                calls.insert(0, partial(to.commission, commission))
            if mischief.duplicate:
                calls = [call for call in calls for _ in range(2)]
            if mischief.reorder:
                calls = [*reversed(calls), partial(to.order_status, before)]
            for call in calls:
                call()
        if mischief.commission == "early":
            self.reported.add(execution.exec_id)
        else:
            self._fee(order, commission)

    def _fee(self, order: SimOrder, commission: SimCommission) -> None:
        mischief = self.mischief

        def report() -> None:
            self.reported.add(commission.exec_id)
            for listener in self._owner(order):
                for _ in range(1 + mischief.duplicate):
                    listener.commission(commission)

        if mischief.commission == "late":
            self._agenda.add(self._later(mischief.commission_seconds), report)
        elif mischief.commission != "never":
            report()

    def _later(self, seconds: float) -> datetime:
        return self._now() + timedelta(seconds=seconds)

    def correction(
        self, order: SimOrder, execution: SimExecution, commission: SimCommission
    ) -> None:
        """A fill as it is after all, with its fee."""
        self.reported.add(execution.exec_id)
        for listener in self._owner(order):
            listener.execution(execution)
            listener.commission(commission)

    def position(self, position: SimPosition) -> None:
        """What an account now holds."""
        for listener in self.everyone:
            listener.position(position)
            listener.portfolio(position)
            listener.account_values(position.account)

    def quote(self, contract: Contract, quote: SimQuote) -> None:
        """The top of a book."""
        if not self.mischief.dark:
            for listener in self._listeners.values():
                listener.quote(contract, quote)

    def bars(self, contract: Contract, bars: Sequence[SimBar]) -> None:
        """Five-second bars of a contract, in order; histories kept up to date grow by them."""
        if self.mischief.dark:
            return
        for listener in self._listeners.values():
            for bar in bars:
                listener.realtime_bar(contract, bar)
                listener.history_bar(contract, bar)

    def follows_bars(self, contract: Contract) -> bool:
        """Whether any client wants them; those that do not say want all."""
        return any(wants(contract) for wants in self._wants_bars.values())

    def follows_quotes(self, contract: Contract) -> bool:
        """Whether any client wants its quotes; those that do not say want all."""
        return any(wants(contract) for wants in self._wants_quotes.values())
