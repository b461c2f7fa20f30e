"""Requests of clients, read strictly: every field of every server version from 157 to 178."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from dpa.simulation.tws.order_fields import CONTRACT, read_entries, read_layout, read_order
from dpa.simulation.tws.wire import Cursor, WireError, read_moment

VERSIONS = (157, 178)


@dataclass(frozen=True)
class Asked:
    """A contract as a client describes it; 0 and empty where it does not say."""

    con_id: int
    symbol: str
    sec_type: str
    exchange: str
    currency: str


@dataclass(frozen=True)
class StartApi:
    """The client names itself."""

    client_id: int


@dataclass(frozen=True)
class Plain:
    """A request of which nothing but its kind matters."""

    kind: str


@dataclass(frozen=True)
class Numbered:
    """A request that is no more than its kind and an id."""

    kind: str
    id: int


@dataclass(frozen=True)
class ContractData:
    """What is known of a contract."""

    id: int
    asked: Asked


@dataclass(frozen=True)
class MarketData:
    """Quotes of a contract; `generic` are the additional tick types."""

    id: int
    asked: Asked
    generic: tuple[str, ...]
    snapshot: bool


@dataclass(frozen=True)
class TickByTick:
    """Every change; `kind` is Last, AllLast, BidAsk or MidPoint."""

    id: int
    asked: Asked
    kind: str


@dataclass(frozen=True)
class RealTimeBars:
    """Bars of five seconds."""

    id: int
    asked: Asked
    seconds: int
    what: str


@dataclass(frozen=True)
class History:
    """Bars of the past; `written_end` is empty for now."""

    id: int
    asked: Asked
    written_end: str
    bar_size: str
    duration: str
    regular_hours: bool
    what: str
    epoch: bool
    keep_up_to_date: bool


@dataclass(frozen=True)
class HeadTimestamp:
    """Since when there is history."""

    id: int
    asked: Asked
    regular_hours: bool
    epoch: bool


@dataclass(frozen=True)
class PlaceOrder:
    """A new order, a change of one, or a question; `fields` as ``read_order`` names them."""

    order_id: int
    asked: Asked
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Executions:
    """Fills of today; 0, None and empty match all."""

    id: int
    client_id: int
    account: str
    since: datetime | None
    symbol: str
    sec_type: str
    exchange: str
    side: str


@dataclass(frozen=True)
class OpenOrders:
    """Working orders, of this client or of all."""

    everyone: bool


@dataclass(frozen=True)
class AccountUpdates:
    """Values and portfolio of an account, and all their changes."""

    subscribe: bool
    account: str


@dataclass(frozen=True)
class AccountSummary:
    """Some values of all accounts."""

    id: int
    group: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class OfAccount:
    """A request about an account: updates, positions or P&L; `con_id` 0: of all contracts."""

    kind: str
    id: int
    account: str
    model: str
    con_id: int = 0


@dataclass(frozen=True)
class MarketDataType:
    """1 live, 2 frozen, 3 delayed, 4 delayed and frozen."""

    kind: int


Request = (
    StartApi
    | Plain
    | Numbered
    | ContractData
    | MarketData
    | TickByTick
    | RealTimeBars
    | History
    | HeadTimestamp
    | PlaceOrder
    | Executions
    | OpenOrders
    | AccountUpdates
    | AccountSummary
    | OfAccount
    | MarketDataType
)


def read_request(message_id: int, values: list[str], version: int) -> Request | None:
    """The request in a frame.

    Parameters
    ----------
    message_id : int
    values : list of str
        All fields after the id.
    version : int
        Server version both sides agreed on.

    Returns
    -------
    Request or None
        None: a message this gateway does not know.

    Raises
    ------
    WireError
        A field is missing, unread or not what it should be.
    """
    known = _READERS.get(message_id)
    if known is None:
        return None
    name, read = known
    cursor = Cursor(name, values)
    request = read(cursor, version)
    cursor.end()
    return request


def _asked(order: Mapping[str, str]) -> Asked:
    return Asked(
        con_id=int(order["conId"] or 0),
        symbol=order["symbol"] or order["localSymbol"],
        sec_type=order["secType"],
        exchange=order["exchange"],
        currency=order["currency"],
    )


def _contract(cursor: Cursor) -> Asked:
    return _asked(read_layout(cursor, CONTRACT))


def _skip_legs(cursor: Cursor, asked: Asked) -> None:
    if asked.sec_type == "BAG":
        read_entries(cursor, "legs", "conId:i ratio:i action exchange")


def _start_api(cursor: Cursor, version: int) -> StartApi:
    cursor.text("version")
    request = StartApi(cursor.integer("clientId"))
    cursor.text("optionalCapabilities")
    return request


def _market_data(cursor: Cursor, version: int) -> MarketData:
    cursor.text("version")
    number, asked = cursor.integer("reqId"), _contract(cursor)
    _skip_legs(cursor, asked)
    if cursor.flag("deltaNeutralContract"):
        read_layout(cursor, "conId:i delta:n price:n")
    generic = tuple(tick.strip() for tick in cursor.text("genericTicks").split(",") if tick.strip())
    snapshot = cursor.flag("snapshot")
    regulatory = cursor.flag("regulatorySnapshot")
    cursor.text("options")
    return MarketData(number, asked, generic, snapshot or regulatory)


def _tick_by_tick(cursor: Cursor, version: int) -> TickByTick:
    request = TickByTick(cursor.integer("reqId"), _contract(cursor), cursor.text("tickType"))
    cursor.integer("numberOfTicks")
    cursor.flag("ignoreSize")
    return request


def _real_time_bars(cursor: Cursor, version: int) -> RealTimeBars:
    cursor.text("version")
    request = RealTimeBars(
        cursor.integer("reqId"),
        _contract(cursor),
        cursor.integer("barSize"),
        cursor.text("whatToShow"),
    )
    cursor.flag("useRTH")
    cursor.text("options")
    return request


def _history(cursor: Cursor, version: int) -> History:
    number, asked = cursor.integer("reqId"), _contract(cursor)
    cursor.flag("includeExpired")
    end, bar_size = cursor.text("endDateTime"), cursor.text("barSizeSetting")
    duration, regular = cursor.text("durationStr"), cursor.flag("useRTH")
    what, epoch = cursor.text("whatToShow"), cursor.integer("formatDate") == 2
    _skip_legs(cursor, asked)
    keep = cursor.flag("keepUpToDate")
    cursor.text("chartOptions")
    return History(number, asked, end, bar_size, duration, regular, what, epoch, keep)


def _head_timestamp(cursor: Cursor, version: int) -> HeadTimestamp:
    number, asked = cursor.integer("reqId"), _contract(cursor)
    cursor.flag("includeExpired")
    regular = cursor.flag("useRTH")
    cursor.text("whatToShow")
    return HeadTimestamp(number, asked, regular, cursor.integer("formatDate") == 2)


def _contract_data(cursor: Cursor, version: int) -> ContractData:
    cursor.text("version")
    request = ContractData(cursor.integer("reqId"), _contract(cursor))
    cursor.flag("includeExpired")
    cursor.text("secIdType")
    cursor.text("secId")
    if version >= 176:
        cursor.text("issuerId")
    return request


def _place_order(cursor: Cursor, version: int) -> PlaceOrder:
    order_id, order = cursor.integer("orderId"), read_order(cursor, version)
    return PlaceOrder(order_id, _asked(order), order)


def _cancel_order(cursor: Cursor, version: int) -> Numbered:
    cursor.text("version")
    request = Numbered("cancel order", cursor.integer("orderId"))
    if version >= 169:
        cursor.text("manualOrderCancelTime")
    return request


def _executions(cursor: Cursor, version: int) -> Executions:
    cursor.text("version")
    number, client_id = cursor.integer("reqId"), cursor.integer("clientId")
    account, since = cursor.text("acctCode"), cursor.text("time")
    try:
        moment = read_moment(since) if since else None
    except ValueError as error:
        raise WireError(f"{cursor.message}: field time is {since[:80]!r}: {error}") from error
    return Executions(
        number,
        client_id,
        account,
        moment,
        cursor.text("symbol"),
        cursor.text("secType"),
        cursor.text("exchange"),
        cursor.text("side"),
    )


def _account_updates(cursor: Cursor, version: int) -> AccountUpdates:
    cursor.text("version")
    return AccountUpdates(cursor.flag("subscribe"), cursor.text("acctCode"))


def _account_summary(cursor: Cursor, version: int) -> AccountSummary:
    cursor.text("version")
    number, group = cursor.integer("reqId"), cursor.text("groupName")
    tags = tuple(tag.strip() for tag in cursor.text("tags").split(",") if tag.strip())
    return AccountSummary(number, group, tags)


def _of_account(kind: str) -> Callable[[Cursor, int], OfAccount]:
    def read(cursor: Cursor, version: int) -> OfAccount:
        if not kind.startswith("pnl"):
            cursor.text("version")
        number, account = cursor.integer("reqId"), cursor.text("account")
        model = cursor.text("modelCode")
        if kind == "account updates":
            cursor.flag("ledgerAndNLV")
        con_id = cursor.integer("conId") if kind == "pnl single" else 0
        return OfAccount(kind, number, account, model, con_id)

    return read


def _open_orders(everyone: bool) -> Callable[[Cursor, int], OpenOrders]:
    def read(cursor: Cursor, version: int) -> OpenOrders:
        cursor.text("version")
        return OpenOrders(everyone)

    return read


def _market_data_type(cursor: Cursor, version: int) -> MarketDataType:
    cursor.text("version")
    return MarketDataType(cursor.integer("marketDataType"))


def _plain(kind: str, layout: str = "version") -> Callable[[Cursor, int], Plain]:
    def read(cursor: Cursor, version: int) -> Plain:
        read_layout(cursor, layout)
        return Plain(kind)

    return read


def _numbered(kind: str, versioned: bool = True) -> Callable[[Cursor, int], Numbered]:
    def read(cursor: Cursor, version: int) -> Numbered:
        if versioned:
            cursor.text("version")
        return Numbered(kind, cursor.integer("reqId"))

    return read


_READERS: dict[int, tuple[str, Callable[[Cursor, int], Request]]] = {
    1: ("REQ_MKT_DATA", _market_data),
    2: ("CANCEL_MKT_DATA", _numbered("cancel line")),
    3: ("PLACE_ORDER", _place_order),
    4: ("CANCEL_ORDER", _cancel_order),
    5: ("REQ_OPEN_ORDERS", _open_orders(everyone=False)),
    6: ("REQ_ACCT_DATA", _account_updates),
    7: ("REQ_EXECUTIONS", _executions),
    8: ("REQ_IDS", _plain("ids", "version numIds:i")),
    9: ("REQ_CONTRACT_DATA", _contract_data),
    14: ("SET_SERVER_LOGLEVEL", _plain("ignored", "version level:i")),
    15: ("REQ_AUTO_OPEN_ORDERS", _plain("auto open orders", "version autoBind:b")),
    16: ("REQ_ALL_OPEN_ORDERS", _open_orders(everyone=True)),
    17: ("REQ_MANAGED_ACCTS", _plain("managed accounts")),
    20: ("REQ_HISTORICAL_DATA", _history),
    25: ("CANCEL_HISTORICAL_DATA", _numbered("cancel history")),
    49: ("REQ_CURRENT_TIME", _plain("current time")),
    50: ("REQ_REAL_TIME_BARS", _real_time_bars),
    51: ("CANCEL_REAL_TIME_BARS", _numbered("cancel line")),
    58: ("REQ_GLOBAL_CANCEL", _plain("global cancel")),
    59: ("REQ_MARKET_DATA_TYPE", _market_data_type),
    61: ("REQ_POSITIONS", _plain("positions")),
    62: ("REQ_ACCOUNT_SUMMARY", _account_summary),
    63: ("CANCEL_ACCOUNT_SUMMARY", _numbered("cancel account summary")),
    64: ("CANCEL_POSITIONS", _plain("cancel positions")),
    71: ("START_API", _start_api),
    74: ("REQ_POSITIONS_MULTI", _of_account("positions")),
    75: ("CANCEL_POSITIONS_MULTI", _numbered("cancel positions multi")),
    76: ("REQ_ACCOUNT_UPDATES_MULTI", _of_account("account updates")),
    77: ("CANCEL_ACCOUNT_UPDATES_MULTI", _numbered("cancel account updates multi")),
    87: ("REQ_HEAD_TIMESTAMP", _head_timestamp),
    90: ("CANCEL_HEAD_TIMESTAMP", _numbered("ignored", versioned=False)),
    92: ("REQ_PNL", _of_account("pnl")),
    93: ("CANCEL_PNL", _numbered("cancel pnl", versioned=False)),
    94: ("REQ_PNL_SINGLE", _of_account("pnl single")),
    95: ("CANCEL_PNL_SINGLE", _numbered("cancel pnl", versioned=False)),
    97: ("REQ_TICK_BY_TICK_DATA", _tick_by_tick),
    98: ("CANCEL_TICK_BY_TICK_DATA", _numbered("cancel line", versioned=False)),
    99: ("REQ_COMPLETED_ORDERS", _plain("completed orders", "apiOnly:b")),
}
