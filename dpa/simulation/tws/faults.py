"""Everything that can go wrong at the venue, one class a kind."""

from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from dpa.config import Frozen
from dpa.errors import ConfigError
from dpa.simulation.tws.outlet import Rejection
from dpa.simulation.tws.words import SimOrder

if TYPE_CHECKING:
    from dpa.simulation.tws.venue import SimVenue

Undo = Callable[[], None]
Seen = Literal["connect", "order", "cancel", "fill", "bar"]
_NONE = Decimal(0)


class Fault(Frozen):
    """When a fault begins and ends; each kind adds what it does."""

    at: str | None = Field(
        None, description="venue's time, HH:MM[:SS] each day, or YYYY-MM-DD HH:MM[:SS] once"
    )
    after_seconds: float | None = Field(None, ge=0, description="since the venue began")
    when: Seen | None = Field(None, description="what sets it off")
    only: str | None = Field(None, description="symbol that counts, of orders and fills")
    count: int | None = Field(None, ge=1, description="which of them, from 1; then no more")
    every: int | None = Field(None, ge=1, description="each so many of them")
    chance: float | None = Field(None, gt=0, le=1, description="of each of them")
    seconds: float | None = Field(None, gt=0, description="how long it lasts; none: for ever")

    @field_validator("at")
    @classmethod
    def _moment(cls, value: str | None) -> str | None:
        if value is not None:
            written_moment(value)
        return value

    @model_validator(mode="after")
    def _one_trigger(self) -> "Fault":
        if sum(given is not None for given in (self.at, self.after_seconds, self.when)) > 1:
            raise ValueError("give one of at, after_seconds and when")
        counts = sum(given is not None for given in (self.count, self.every, self.chance))
        if counts > 1:
            raise ValueError("give one of count, every and chance")
        if (counts or self.only) and self.when is None:
            raise ValueError("count, every, chance and only belong to when")
        return self

    def begin(self, venue: "SimVenue") -> Undo | None:
        """Do it; what ends it, where it lasts."""
        raise NotImplementedError


class Disconnect(Fault):
    """Connections are cut; `reset`: without a goodbye."""

    do: Literal["disconnect"]
    client_id: int | None = None
    reset: bool = False

    def begin(self, venue: "SimVenue") -> None:
        venue.outlet.disconnect(self.client_id, self.reset)


class Mute(Fault):
    """Everything is accepted and nothing answered: half open."""

    do: Literal["mute"]

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.traits, "mute", True)


class Lag(Fault):
    """Every message goes out later."""

    do: Literal["lag"]
    lag_seconds: float = Field(gt=0)

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.traits, "lag_seconds", self.lag_seconds)


class Duplicate(Fault):
    """Executions, statuses and fees are told twice."""

    do: Literal["duplicate"]

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.outlet.mischief, "duplicate", True)


class Reorder(Fault):
    """Of a fill the end is told first, and an old status last."""

    do: Literal["reorder"]

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.outlet.mischief, "reorder", True)


class Reject(Fault):
    """Coming orders are rejected."""

    do: Literal["reject"]
    code: int = 201
    message: str = "Order rejected - reason:The order was rejected by the simulator"
    symbol: str | None = None
    times: int = Field(1, ge=1)
    what_if: bool = Field(False, description="questions about margins are refused, too")

    def begin(self, venue: "SimVenue") -> Undo:
        symbol = None
        if self.symbol is not None:
            symbol = venue.listing.contracts[venue.place_of(self.symbol)].symbol
        rejection = Rejection(self.code, self.message, symbol, self.times, self.what_if)
        venue.outlet.mischief.rejections.append(rejection)

        def end() -> None:
            rejection.left = 0

        return end


class FalseCancel(Fault):
    """An error that clients take for the end of the newest live order, which lives on."""

    do: Literal["false_cancel"]
    code: int = 10349
    message: str = "Order TIF was set to DAY based on order preset."
    symbol: str | None = None

    def begin(self, venue: "SimVenue") -> None:
        place = None if self.symbol is None else venue.place_of(self.symbol)
        live = [work for work in venue.book.live(place) if work.order.order_id]
        if live:
            venue.outlet.order_error(live[-1].order, self.code, self.message)


class Say(Fault):
    """A message to every client."""

    do: Literal["say"]
    code: int
    message: str = ""
    request_id: int = -1

    def begin(self, venue: "SimVenue") -> None:
        venue.outlet.say(self.code, self.message, self.request_id)


class Connectivity(Fault):
    """1100 now, then 1102, or 1101 where subscriptions are lost; no data in between."""

    do: Literal["connectivity"]
    data_lost: bool = False

    def begin(self, venue: "SimVenue") -> Undo:
        venue.outlet.say(1100, "Connectivity between IBKR and Trader Workstation has been lost.")
        light = _set(venue, venue.outlet.mischief, "dark", True)
        servers = _set(venue, venue.traits, "servers", False)

        def restored() -> None:
            light()
            servers()
            if self.data_lost:
                venue.outlet.forget_subscriptions()
            code, what = (1101, "lost") if self.data_lost else (1102, "maintained")
            words = "Connectivity between IBKR and Trader Workstation has been restored - data "
            venue.outlet.say(code, f"{words}{what}.")

        return restored


class Farm(Fault):
    """2103 now, then 2104; no data in between."""

    do: Literal["farm"]

    def begin(self, venue: "SimVenue") -> Undo:
        venue.outlet.say(2103, "Market data farm connection is broken:usfarm")
        back = _set(venue, venue.outlet.mischief, "dark", True)

        def restored() -> None:
            back()
            venue.outlet.say(2104, "Market data farm connection is OK:usfarm")

        return restored


class Restart(Fault):
    """The gateway goes down and comes back; working orders stay at the broker."""

    do: Literal["restart"]
    seconds: float | None = Field(60.0, gt=0, description="how long it is away")
    ids_rolled_back: bool = False

    def begin(self, venue: "SimVenue") -> None:
        away = timedelta(seconds=self.seconds or 0.0)
        venue.outlet.mischief.down_until = venue.clock.now() + away
        if self.ids_rolled_back:
            venue.book.roll_back_ids()
        venue.outlet.disconnect(None, reset=False)


class Withhold(Fault):
    """Messages with these ids are never sent."""

    do: Literal["withhold"]
    messages: tuple[int, ...] = Field(min_length=1)

    def begin(self, venue: "SimVenue") -> Undo:
        return _add(venue.traits.withhold, self.messages)


class Swallow(Fault):
    """Requests with these ids are read and forgotten."""

    do: Literal["swallow"]
    requests: tuple[int, ...] = Field(min_length=1)

    def begin(self, venue: "SimVenue") -> Undo:
        return _add(venue.traits.swallow, self.requests)


class Lose(Fault):
    """Coming orders, modifications among them, or cancels never arrive."""

    do: Literal["lose"]
    what: Literal["order", "cancel"] = "order"
    times: int = Field(1, ge=1)

    def begin(self, venue: "SimVenue") -> Undo:
        lose = venue.outlet.mischief.lose
        lose[self.what] = lose.get(self.what, 0) + self.times
        return lambda: lose.update({self.what: 0})


class Hide(Fault):
    """Coming orders are worked, and nobody is told unless he asks."""

    do: Literal["hide"]
    times: int = Field(1, ge=1)

    def begin(self, venue: "SimVenue") -> Undo:
        mischief = venue.outlet.mischief
        mischief.hide += self.times

        def end() -> None:
            mischief.hide = 0
            mischief.hidden.clear()

        return end


class Correct(Fault):
    """The newest fill, or a named one, is restated."""

    do: Literal["correct"]
    exec_id: str | None = None
    price: Decimal | None = Field(None, gt=0)
    price_change: Decimal | None = None
    shares: Decimal | None = Field(None, ge=0)

    def begin(self, venue: "SimVenue") -> None:
        price = self.price
        executions = venue.executions()
        if price is None and self.price_change is not None and executions:
            price = executions[-1][0].price + self.price_change
        venue.correct(self.exec_id, price, self.shares)


class Bust(Fault):
    """The newest fill, or a named one, is taken back."""

    do: Literal["bust"]
    exec_id: str | None = None

    def begin(self, venue: "SimVenue") -> None:
        venue.correct(self.exec_id, shares=_NONE)


class Margin(Fault):
    """Requirements are multiplied."""

    do: Literal["margin"]
    factor: Decimal = Field(gt=0)

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.accounts, "margin_factor", self.factor)


class HoldId(Fault):
    """A client id is in use by somebody else: 326."""

    do: Literal["hold_id"]
    client_id: int

    def begin(self, venue: "SimVenue") -> Undo:
        return _add(venue.outlet.mischief.held_ids, (self.client_id,))


class Limits(Fault):
    """Other limits of the gateway."""

    do: Literal["limits"]
    lines: int | None = Field(None, ge=0)
    messages_per_second: int | None = Field(None, ge=1)
    history_requests: int | None = Field(None, ge=0)

    def begin(self, venue: "SimVenue") -> Undo:
        names = ("lines", "messages_per_second", "history_requests")
        given = [(name, getattr(self, name)) for name in names]
        undo = [
            _set(venue, venue.traits, name, value) for name, value in given if value is not None
        ]

        def end() -> None:
            for back in undo:
                back()

        return end


class DelayedData(Fault):
    """No subscription: live data is refused, delayed data given."""

    do: Literal["delayed_data"]

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.traits, "subscribed", False)


class ReadOnly(Fault):
    """Orders are refused with 321."""

    do: Literal["read_only"]

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.traits, "read_only", True)


class Accounts(Fault):
    """Other accounts are managed from the next connection on."""

    do: Literal["accounts"]
    accounts: tuple[str, ...] = Field(min_length=1)

    def begin(self, venue: "SimVenue") -> Undo:
        for name in self.accounts:
            venue.open_account(name)
        return _set(venue, venue.traits, "accounts", self.accounts)


class Halt(Fault):
    """A name does not trade."""

    do: Literal["halt"]
    symbol: str

    def begin(self, venue: "SimVenue") -> Undo:
        place = venue.place_of(self.symbol)
        venue.tape.halted.add(place)
        venue.changed(place)

        def end() -> None:
            venue.tape.halted.discard(place)
            venue.changed(place)

        return end


class Quotes(Fault):
    """Quotes of a name, or of all, go bad."""

    do: Literal["quotes"]
    how: Literal["stale", "crossed", "zero", "none"]
    symbol: str | None = None

    def begin(self, venue: "SimVenue") -> Undo:
        places = _places(venue, self.symbol)
        for place in places:
            venue.tape.bent[place] = self.how
            if self.how != "stale":
                venue.changed(place)

        def end() -> None:
            for place in places:
                venue.tape.bent.pop(place, None)
                venue.changed(place)

        return end


class Sizes(Fault):
    """So many shares are shown at each price."""

    do: Literal["sizes"]
    size: int = Field(ge=0)
    symbol: str | None = None

    def begin(self, venue: "SimVenue") -> Undo:
        places = _places(venue, self.symbol)
        for place in places:
            venue.tape.thin[place] = self.size
            venue.changed(place)

        def end() -> None:
            for place in places:
                venue.tape.thin.pop(place, None)
                venue.changed(place)

        return end


class Locate(Fault):
    """No more than so many shares of a name can be borrowed: 404."""

    do: Literal["locate"]
    symbol: str
    shares: int = Field(0, ge=0)

    def begin(self, venue: "SimVenue") -> Undo:
        place = venue.place_of(self.symbol)
        venue.locate(place, self.shares)
        return lambda: venue.locate(place, None)


class Manual(Fault):
    """A person, or another program, gives an order."""

    do: Literal["manual"]
    symbol: str
    side: Literal["buy", "sell"]
    shares: Decimal = Field(gt=0)
    limit: Decimal | None = Field(None, gt=0)
    account: str | None = None
    client_id: int = 0
    order_id: int = 0

    def begin(self, venue: "SimVenue") -> None:
        contract = venue.listing.contracts[venue.place_of(self.symbol)]
        venue.manual(
            SimOrder(
                self.client_id,
                self.order_id,
                0,
                contract,
                {},
                account_of(venue, self.account),
                self.side.upper(),
                "MKT" if self.limit is None else "LMT",
                self.shares,
                self.limit,
                "DAY",
                "",
            )
        )


class Liquidate(Fault):
    """The broker closes a position, the largest by default, by itself."""

    do: Literal["liquidate"]
    symbol: str | None = None
    shares: Decimal | None = Field(None, gt=0)
    account: str | None = None

    def begin(self, venue: "SimVenue") -> None:
        account = account_of(venue, self.account)
        held = [p for p in venue.positions() if p.account == account and p.shares]
        if self.symbol is not None:
            contract = venue.listing.contracts[venue.place_of(self.symbol)]
        elif held:
            contract = max(held, key=lambda p: abs(p.shares) * p.market_price).contract
        else:
            return
        venue.liquidate(account, contract, self.shares)


class Commission(Fault):
    """Fees are told late, never, or before the fill."""

    do: Literal["commission"]
    how: Literal["late", "never", "early"]
    late_seconds: float = Field(60.0, gt=0)

    def begin(self, venue: "SimVenue") -> Undo:
        mischief = venue.outlet.mischief
        mischief.commission_seconds = self.late_seconds
        return _set(venue, mischief, "commission", self.how)


class SlowCancel(Fault):
    """Between the wish to cancel and the end, fills can come."""

    do: Literal["slow_cancel"]
    cancel_seconds: float = Field(gt=0)

    def begin(self, venue: "SimVenue") -> Undo:
        return _set(venue, venue.outlet.mischief, "cancel_seconds", self.cancel_seconds)


AnyFault = Annotated[
    Disconnect
    | Mute
    | Lag
    | Duplicate
    | Reorder
    | Reject
    | FalseCancel
    | Say
    | Connectivity
    | Farm
    | Restart
    | Withhold
    | Swallow
    | Lose
    | Hide
    | Correct
    | Bust
    | Margin
    | HoldId
    | Limits
    | DelayedData
    | ReadOnly
    | Accounts
    | Halt
    | Quotes
    | Sizes
    | Locate
    | Manual
    | Liquidate
    | Commission
    | SlowCancel,
    Field(discriminator="do"),
]
KINDS: dict[str, type[Fault]] = {
    get_args(kind.model_fields["do"].annotation)[0]: kind
    for kind in get_args(get_args(AnyFault)[0])
}


def kind_of(fault: Fault) -> str:
    """The word a fault is written with."""
    return next(word for word, kind in KINDS.items() if isinstance(fault, kind))


class Layers:
    """Attributes that faults have set, some of them several times over."""

    def __init__(self) -> None:
        self._set: dict[tuple[int, str], list[list[object]]] = {}

    def set(self, target: object, name: str, value: object) -> Undo:
        """Set an attribute; what ends it shows the newest value that has not ended yet."""
        layers = self._set.setdefault((id(target), name), [[getattr(target, name)]])
        layer = [value]
        layers.append(layer)
        setattr(target, name, value)

        def end() -> None:
            layers[:] = [each for each in layers if each is not layer]
            setattr(target, name, layers[-1][0])

        return end


def _set(venue: "SimVenue", target: object, name: str, value: object) -> Undo:
    return venue.layers.set(target, name, value)


def _add(target: set[int], values: tuple[int, ...]) -> Undo:
    added = set(values) - target
    target |= added
    return lambda: target.difference_update(added)


def _places(venue: "SimVenue", symbol: str | None) -> tuple[int, ...]:
    if symbol is None:
        return tuple(range(len(venue.listing)))
    return (venue.place_of(symbol),)


def account_of(venue: "SimVenue", name: str | None) -> str:
    account = name or next(iter(venue.accounts.by_name))
    if account not in venue.accounts:
        known = ", ".join(venue.accounts.by_name)
        raise ConfigError(f"account: {account!r} is not known", f"use one of {known}")
    return account


def written_moment(text: str) -> tuple[date | None, time]:
    """``10:15``, ``10:15:30`` or ``2024-06-17 10:15`` as a date, where there is one, and a time."""
    day, _, clock = text.strip().rpartition(" ")
    try:
        return (date.fromisoformat(day) if day else None), time.fromisoformat(clock)
    except ValueError as e:
        raise ValueError(f"{text!r} is neither HH:MM[:SS] nor YYYY-MM-DD HH:MM[:SS]") from e
