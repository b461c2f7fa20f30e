"""Messages of the gateway, field by field, for every server version from 157 to 178."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from dpa.simulation.tws.order_fields import PEG_BENCH
from dpa.simulation.tws.wire import (
    EASTERN,
    UNSET_INTEGER,
    UNSET_NUMBER,
    Value,
    eastern,
    new_york,
)
from dpa.simulation.tws.words import (
    Contract,
    SimBar,
    SimCommission,
    SimExecution,
    SimMargin,
    SimOrder,
    SimPosition,
)

Message = tuple[Value, ...]

_ORDER_TYPES = "ACTIVETIM,ADJUST,ALERT,ALGO,DAY,GTC,IOC,LIT,LMT,LOC,MIT,MKT,MOC,STP,STPLMT,TRAIL"
_NO_ORDER = "None"  # TWS writes it for a delta-neutral order that is none, and more fields follow


def error(number: int, code: int, message: str, version: int) -> Message:
    """An error, a warning or a notice; -1: of no request."""
    advanced = ("",) if version >= 166 else ()
    return (4, 2, number, code, message, *advanced)


def contract_details(number: int, contract: Contract, exchange: str, version: int) -> Message:
    """What is known of a contract."""
    old = version < 164
    sizes: Message = ()
    if version == 163:
        sizes = (contract.size_increment,)
    elif not old:
        sizes = (contract.size_increment, contract.size_increment, 100)
    return (
        10,
        *((8,) if old else ()),
        number,
        contract.symbol,
        "STK",
        "",
        0,
        "",
        exchange or "SMART",
        "USD",
        contract.symbol,
        contract.trading_class,  # market name
        contract.trading_class,
        contract.con_id,
        contract.min_tick,
        *((1,) if old else ()),  # sizes are in shares
        "",
        _ORDER_TYPES,
        f"SMART,{contract.primary_exchange}",
        1,
        0,
        _ascii(contract.name or contract.symbol),
        contract.primary_exchange,
        *("", "", "", ""),  # contract month, industry, category, subcategory
        EASTERN,
        hours(contract.trading_hours),
        hours(contract.liquid_hours),
        *("", 0),  # valuation rule and multiplier
        0,
        1,
        *("", ""),
        "26,26",
        "",
        "COMMON",
        *sizes,
    )


def hours(sessions: Sequence[tuple[datetime, datetime]]) -> str:
    """Sessions as TWS writes them; days between without one are closed."""
    days: dict[date, list[str]] = {}
    for opens, closes in sessions:
        day = new_york(opens).date()
        last = max(days, default=day)
        days |= {last + timedelta(step): [] for step in range(1, (day - last).days)}
        days.setdefault(day, []).append(
            f"{new_york(opens):%Y%m%d:%H%M}-{new_york(closes):%Y%m%d:%H%M}"
        )
    written = [",".join(days[day]) or f"{day:%Y%m%d}:CLOSED" for day in sorted(days)]
    return ";".join(written)


def position(position: SimPosition) -> Message:
    """What an account holds."""
    return (61, 3, position.account, *_at_home(position), position.shares, position.average_cost)


def position_multi(number: int, model: str, position: SimPosition) -> Message:
    """What an account holds, to a numbered request."""
    holding = (*_at_home(position), position.shares, position.average_cost)
    return (71, 1, number, position.account, *holding, model)


def portfolio(position: SimPosition) -> Message:
    """What an account holds and what it is worth."""
    return (
        7,
        8,
        *_at_home(position),
        position.shares,
        position.market_price,
        position.shares * position.market_price,
        position.average_cost,
        unrealized(position),
        position.realized,
        position.account,
    )


def unrealized(position: SimPosition) -> Decimal:
    """Profit of what is held, USD."""
    return position.shares * (position.market_price - position.average_cost)


def order_status(order: SimOrder) -> Message:
    """Where an order stands."""
    return (
        3,
        order.order_id,
        order.status,
        order.filled,
        order.remaining,
        order.average_price,
        order.perm_id,
        order.parent_id,
        order.last_price,
        order.client_id,
        order.why_held,
        0,
    )


def execution(number: int, execution: SimExecution, version: int) -> Message:
    """A fill."""
    return (
        11,
        number,
        execution.order_id,
        *_held(execution.contract, "SMART"),
        execution.exec_id,
        eastern(execution.time),
        execution.account,
        execution.contract.primary_exchange,
        execution.side,
        execution.shares,
        execution.price,
        execution.perm_id,
        execution.client_id,
        execution.liquidation,
        execution.cumulative,
        execution.average_price,
        execution.ref,
        *("", 0),  # valuation rule and multiplier
        "",
        2,  # it took liquidity
        *((0,) if version >= 178 else ()),
    )


def commission(commission: SimCommission) -> Message:
    """The fee of a fill."""
    realized = UNSET_NUMBER if commission.realized is None else commission.realized
    return (
        59,
        1,
        commission.exec_id,
        commission.amount,
        commission.currency,
        realized,
        UNSET_NUMBER,
        "",
    )


def realtime_bar(number: int, bar: SimBar) -> Message:
    """A bar of five seconds, stamped at its start."""
    return (
        50,
        3,
        number,
        int(bar.time.timestamp()),
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
        bar.average,
        bar.count,
    )


def history(
    number: int, start: datetime, end: datetime, bars: Sequence[SimBar], dates: Sequence[str]
) -> Message:
    """Bars of the past; `dates` are their starts as the client wants them."""
    rows: list[Value] = []
    for bar, when in zip(bars, dates, strict=True):
        rows += (when, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.average, bar.count)
    return (17, number, eastern(start), eastern(end), len(bars), *rows)


def history_update(number: int, bar: SimBar, when: str) -> Message:
    """The newest bar, again: its fields come in another order than in :func:`history`."""
    return (
        90,
        number,
        bar.count,
        when,
        bar.open,
        bar.close,
        bar.high,
        bar.low,
        bar.average,
        bar.volume,
    )


def bar_date(bar: SimBar, bar_seconds: int, epoch: bool) -> str:
    """A bar's start: a date for days and more, seconds since 1970 where asked for, or a text."""
    if bar_seconds >= 86_400:
        return f"{new_york(bar.time):%Y%m%d}"
    return str(int(bar.time.timestamp())) if epoch else eastern(bar.time)


def open_order(order: SimOrder, margin: SimMargin | None, version: int) -> Message:
    """An order with all it was placed with, and what TWS fills in by itself."""
    given = _Given(order.fields)
    trail = given.text("trailStopPrice") or _invented_trail(order)
    message: list[Value] = [
        5,
        order.order_id,
        *_order_head(order, given, version, is_open=True),
        *given.row("delta:n stockRangeLower:n stockRangeUpper:n"),
        _display_size(given),
        *given.row("blockOrder:b sweepToFill:b allOrNone:b minQty:n"),
        _oca_type(given),
        *given.row("eTradeOnly:b firmQuoteOnly:b nbboPriceCap:n"),
        order.parent_id,
        *given.row("triggerMethod:i volatility:n volatilityType:i"),
        given.text("deltaNeutralOrderType") or _NO_ORDER,
        given.text("deltaNeutralAuxPrice"),
        *given.row("deltaNeutralConId:i deltaNeutralSettlingFirm deltaNeutralClearingAccount"),
        given.text("deltaNeutralClearingIntent"),
        given.text("deltaNeutralOpenClose") or "?",
        *given.row("deltaNeutralShortSale:b deltaNeutralShortSaleSlot:i"),
        given.text("deltaNeutralDesignatedLocation"),
        *given.row("continuousUpdate:b referencePriceType:i"),
        trail,
        given.text("trailingPercent"),
        *("", ""),  # basis points and their type
        *_legs(given),
        *_scale(given),
        given.flag("optOutSmartRouting"),
        *_clearing(given),
        *given.row("solicited:b whatIf:b"),
        order.status,
        *_margins(order, margin),
        *given.row("randomizeSize:b randomizePrice:b"),
        *_pegged(order, given),
        *_conditions(given),
        given.text("adjustedOrderType") or _NO_ORDER,
        given.number("triggerPrice"),
        trail or UNSET_NUMBER,
        *(given.number(name) for name in _ADJUSTED),
        *given.row("adjustableTrailingUnit:i softDollarTierName softDollarTierValue"),
        given.text("softDollarTierName"),  # the name it is shown by
        *given.row("cashQty:n dontUseAutoPriceForHedge:b isOmsContainer:b"),
        *given.row("discretionaryUpToLimitPrice:b usePriceMgmtAlgo:b"),
    ]
    if version >= 159:
        message.append(given.text("duration") or UNSET_INTEGER)
    if version >= 160:
        message.append(given.text("postToAts") or UNSET_INTEGER)
    if version >= 162:
        message.append(given.flag("autoCancelParent"))
    return (*message, *_offsets(given, version))


def completed_order(order: SimOrder, version: int) -> Message:
    """An order that is over; neither its id nor its client's is told."""
    given = _Given(order.fields)
    return (
        101,
        *_order_head(order, given, version, is_open=False),
        *given.row("delta:n stockRangeLower:n stockRangeUpper:n"),
        _display_size(given),
        *given.row("sweepToFill:b allOrNone:b minQty:n"),
        _oca_type(given),
        *given.row("triggerMethod:i volatility:n volatilityType:i"),
        given.text("deltaNeutralOrderType") or _NO_ORDER,
        given.text("deltaNeutralAuxPrice"),
        *given.row("deltaNeutralConId:i deltaNeutralShortSale:b deltaNeutralShortSaleSlot:i"),
        given.text("deltaNeutralDesignatedLocation"),
        *given.row("continuousUpdate:b referencePriceType:i trailStopPrice:n trailingPercent:n"),
        *_legs(given),
        *_scale(given),
        *_clearing(given),
        given.flag("solicited"),
        order.status,
        *given.row("randomizeSize:b randomizePrice:b"),
        *_pegged(order, given),
        *_conditions(given),
        *given.row("trailStopPrice:n lmtPriceOffset:n cashQty:n dontUseAutoPriceForHedge:b"),
        given.flag("isOmsContainer"),
        "",  # date of its automatic end
        order.filled,
        0,  # underlying of a future
        given.flag("autoCancelParent"),
        "Not an insider or substantial shareholder",
        *(0, 0),  # imbalance only, route to the best bid and offer
        0,  # perm id of the parent
        eastern(order.completed_at) if order.completed_at else "",
        f"Filled Size: {order.filled}" if order.status == "Filled" else order.status,
        *_offsets(given, version),
    )


_ADJUSTED = (
    "lmtPriceOffset",
    "adjustedStopPrice",
    "adjustedStopLimitPrice",
    "adjustedTrailingAmount",
)


class _Given:
    """What the client sent with an order, with TWS's own words for what it did not."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        return self._fields.get(name, "")

    def number(self, name: str) -> str:
        return self.text(name) or UNSET_NUMBER

    def flag(self, name: str) -> str:
        return self.text(name) or "0"

    def row(self, layout: str) -> list[str]:
        """Fields of a layout: whole numbers and booleans that are unset are 0."""
        values = []
        for entry in layout.split():
            name, _, kind = entry.partition(":")
            values.append(self.flag(name) if kind in ("i", "b") else self.text(name))
        return values

    def entries(self, name: str) -> list[list[str]]:
        found: list[list[str]] = json.loads(self.text(name) or "[]")
        return found

    def counted(self, name: str) -> list[Value]:
        """How many entries there are, and all of them in a row."""
        entries = self.entries(name)
        return [len(entries), *_flat(entries)]


def _flat(entries: Iterable[Iterable[str]]) -> list[str]:
    return [value for entry in entries for value in entry]


def _ascii(name: str) -> str:
    return name.encode("unicode_escape").decode()


def _held(contract: Contract, where: str) -> tuple[Value, ...]:
    identity = (contract.con_id, contract.symbol, "STK", "", 0, "", "")
    return (*identity, where, "USD", contract.symbol, contract.trading_class)


def _at_home(position: SimPosition) -> tuple[Value, ...]:
    """TWS tells holdings with the exchange a stock is listed on."""
    return _held(position.contract, position.contract.primary_exchange)


def _order_contract(order: SimOrder, given: _Given) -> tuple[Value, ...]:
    contract = order.contract
    where = given.text("exchange") or "SMART"
    identity = (contract.con_id, contract.symbol, given.text("secType") or "STK", "", 0, "?", "")
    return (*identity, where, "USD", contract.symbol, contract.trading_class)


def _order_head(order: SimOrder, given: _Given, version: int, is_open: bool) -> list[Value]:
    return [
        *_order_contract(order, given),
        order.action,
        order.quantity,
        order.order_type,
        order.limit if order.limit is not None else 0,
        given.text("auxPrice") or 0,
        order.tif or "DAY",
        given.text("ocaGroup"),
        order.account,
        given.text("openClose"),
        given.flag("origin"),
        order.ref,
        *((order.client_id,) if is_open else ()),
        order.perm_id,
        *given.row("outsideRth:b hidden:b discretionaryAmt:i goodAfterTime"),
        *(("",) if is_open else ()),  # allocation of shares, no longer used
        *given.row("faGroup faMethod faPercentage"),
        *((given.text("faProfile"),) if version < 177 else ()),
        *given.row("modelCode goodTillDate rule80A percentOffset:n settlingFirm shortSaleSlot:i"),
        given.text("designatedLocation"),
        given.text("exemptCode") or -1,
        *((given.flag("auctionStrategy"),) if is_open else ()),
        *given.row("startingPrice:n stockRefPrice:n"),
    ]


def _invented_trail(order: SimOrder) -> Value:
    """TWS writes a trailing stop price that nobody asked for, one dollar from the limit."""
    return "" if order.limit is None else order.limit + 1


def _display_size(given: _Given) -> str:
    shown = given.text("displaySize")
    return UNSET_INTEGER if shown in ("", "0") else shown


def _oca_type(given: _Given) -> str:
    """TWS writes 3, to reduce without block, also where there is no such group."""
    kind = given.text("ocaType")
    return "3" if kind in ("", "0") else kind


def _legs(given: _Given) -> list[Value]:
    parts = ("comboLegs", "orderComboLegs", "smartComboRoutingParams")
    return ["", *(value for name in parts for value in given.counted(name))]


def _scale(given: _Given) -> list[Value]:
    values: list[Value] = [
        *given.row("scaleInitLevelSize:n scaleSubsLevelSize:n scalePriceIncrement:n")
    ]
    if float(given.flag("scalePriceIncrement")) > 0:
        values += given.row("scalePriceAdjustValue:n scalePriceAdjustInterval:n")
        values += given.row("scaleProfitOffset:n scaleAutoReset:b scaleInitPosition:n")
        values += given.row("scaleInitFillQty:n scaleRandomPercent:b")
    values.append(given.text("hedgeType"))
    return [*values, given.text("hedgeParam")] if given.text("hedgeType") else values


def _clearing(given: _Given) -> list[Value]:
    values: list[Value] = [given.text("clearingAccount"), given.text("clearingIntent") or "IB"]
    values.append(given.flag("notHeld"))
    hedge: list[str] = json.loads(given.text("deltaNeutralContract") or "[]")
    values += [1, *hedge] if hedge else [0]
    algorithm = given.text("algoStrategy")
    values.append(algorithm)
    return [*values, *given.counted("algoParams")] if algorithm else values


def _margins(order: SimOrder, margin: SimMargin | None) -> list[Value]:
    if margin is None:
        charged = order.commission
        sums: list[Value] = [UNSET_NUMBER] * 9
    else:
        charged = margin.commission
        before = (margin.initial_before, margin.maintenance_before, margin.equity_before)
        after = (margin.initial_after, margin.maintenance_after, margin.equity_after)
        change = [late - early for early, late in zip(before, after, strict=True)]
        sums = [*before, *change, *after]
    if charged is None:
        return [*sums, UNSET_NUMBER, "", "", "", ""]
    return [*sums, charged, "", "", "USD", ""]


def _pegged(order: SimOrder, given: _Given) -> list[str]:
    if order.order_type not in PEG_BENCH:
        return []
    layout = "referenceContractId:i isPeggedChangeAmountDecrease:b peggedChangeAmount:i"
    return given.row(f"{layout} referenceChangeAmount:i referenceExchangeId")


def _conditions(given: _Given) -> list[Value]:
    conditions = given.counted("conditions")
    if len(conditions) > 1:
        conditions += given.row("conditionsIgnoreRth:b conditionsCancelOrder:b")
    return conditions


def _offsets(given: _Given, version: int) -> list[str]:
    if version < 170:
        return []
    whole = [given.text(name) or UNSET_INTEGER for name in ("minTradeQty", "minCompeteSize")]
    names = ("competeAgainstBestOffset", "midOffsetAtWhole", "midOffsetAtHalf")
    return whole + [given.number(name) for name in names]
