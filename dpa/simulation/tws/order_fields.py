"""The fields of an order, by name, for every server version from 157 to 178."""

import json
from collections.abc import Mapping

from dpa.simulation.tws.wire import Cursor, WireError

# One word a field: its name and its kind, text where none is given
# (:n number, :i whole number, :b boolean).
CONTRACT = (
    "conId:i symbol secType lastTradeDate strike:n right multiplier exchange primaryExchange "
    "currency localSymbol tradingClass"
)
_HEAD = (
    "secIdType secId action totalQuantity:n orderType lmtPrice:n auxPrice:n tif ocaGroup account "
    "openClose origin:i orderRef transmit:b parentId:i blockOrder:b sweepToFill:b displaySize:i "
    "triggerMethod:i outsideRth:b hidden:b"
)
_COMBO_LEG = (
    "conId:i ratio:i action exchange openClose:i shortSaleSlot:i designatedLocation exemptCode:i"
)
_ADVISER = (
    "sharesAllocation discretionaryAmt:n goodAfterTime goodTillDate faGroup faMethod faPercentage"
)
_MIDDLE = (
    "modelCode shortSaleSlot:i designatedLocation exemptCode:i ocaType:i rule80A settlingFirm "
    "allOrNone:b minQty:i percentOffset:n eTradeOnly:b firmQuoteOnly:b nbboPriceCap:n "
    "auctionStrategy:i startingPrice:n stockRefPrice:n delta:n stockRangeLower:n "
    "stockRangeUpper:n overridePercentageConstraints:b volatility:n volatilityType:i "
    "deltaNeutralOrderType deltaNeutralAuxPrice:n"
)
_DELTA_NEUTRAL = (
    "deltaNeutralConId:i deltaNeutralSettlingFirm deltaNeutralClearingAccount "
    "deltaNeutralClearingIntent deltaNeutralOpenClose deltaNeutralShortSale:b "
    "deltaNeutralShortSaleSlot:i deltaNeutralDesignatedLocation"
)
_SCALE = (
    "continuousUpdate:b referencePriceType:i trailStopPrice:n trailingPercent:n "
    "scaleInitLevelSize:i scaleSubsLevelSize:i scalePriceIncrement:n"
)
_SCALE_MORE = (
    "scalePriceAdjustValue:n scalePriceAdjustInterval:i scaleProfitOffset:n scaleAutoReset:b "
    "scaleInitPosition:i scaleInitFillQty:i scaleRandomPercent:b"
)
_CLEARING = "optOutSmartRouting:b clearingAccount clearingIntent notHeld:b"
_MISC = "algoId whatIf:b orderMiscOptions solicited:b randomizeSize:b randomizePrice:b"
_PEGGED = (
    "referenceContractId:i isPeggedChangeAmountDecrease:b peggedChangeAmount:n "
    "referenceChangeAmount:n referenceExchangeId"
)
_TAIL = (
    "adjustedOrderType triggerPrice:n lmtPriceOffset:n adjustedStopPrice:n "
    "adjustedStopLimitPrice:n adjustedTrailingAmount:n adjustableTrailingUnit:i extOperator "
    "softDollarTierName softDollarTierValue cashQty:n mifid2DecisionMaker mifid2DecisionAlgo "
    "mifid2ExecutionTrader mifid2ExecutionAlgo dontUseAutoPriceForHedge:b isOmsContainer:b "
    "discretionaryUpToLimitPrice:b usePriceMgmtAlgo:b"
)
_ADDED = (
    (158, "duration:i"),
    (160, "postToAts:i"),
    (162, "autoCancelParent:b"),
    (166, "advancedErrorOverride"),
    (169, "manualOrderTime"),
)
CONDITIONS = {
    "1": "conjunction isMore:b price:n conId:i exchange triggerMethod:i",
    "3": "conjunction isMore:b time",
    "4": "conjunction isMore:b percent:i",
    "5": "conjunction secType exchange symbol",
    "6": "conjunction isMore:b volume:i conId:i exchange",
    "7": "conjunction isMore:b changePercent:n conId:i exchange",
}
PEG_BENCH = ("PEG BENCH", "PEGBENCH")
PEG_BEST = ("PEG BEST", "PEGBEST")
PEG_MID = ("PEG MID", "PEGMID")


def read_order(cursor: Cursor, version: int) -> dict[str, str]:
    """All fields of an order after its id, by the names the public client libraries use.

    Unset numbers are empty, booleans ``0`` or ``1``, an infinite offset is ``Infinity``. The
    contract is among them: ``conId``, ``symbol``, ``secType``, ``exchange``, ``currency`` ...
    Lists are JSON texts: ``comboLegs``, ``orderComboLegs``, ``smartComboRoutingParams``,
    ``algoParams``, ``conditions`` (each with its type first) and ``deltaNeutralContract``; they
    are absent where the client sent none.
    """
    order = read_layout(cursor, CONTRACT) | read_layout(cursor, _HEAD)
    if order["secType"] == "BAG":
        order |= _combo(cursor)
    order |= read_layout(cursor, _ADVISER)
    if version < 177:
        order["faProfile"] = cursor.text("faProfile")
    order |= read_layout(cursor, _MIDDLE)
    if order["deltaNeutralOrderType"]:
        order |= read_layout(cursor, _DELTA_NEUTRAL)
    order |= read_layout(cursor, _SCALE)
    if float(order["scalePriceIncrement"] or 0) > 0:
        order |= read_layout(cursor, _SCALE_MORE)
    order |= read_layout(cursor, "scaleTable activeStartTime activeStopTime hedgeType")
    if order["hedgeType"]:
        order["hedgeParam"] = cursor.text("hedgeParam")
    order |= read_layout(cursor, _CLEARING)
    if cursor.flag("deltaNeutralContract"):
        hedge = read_layout(cursor, "conId:i delta:n price:n")
        order["deltaNeutralContract"] = json.dumps(list(hedge.values()))
    order |= _algo(cursor)
    order |= read_layout(cursor, _MISC)
    if order["orderType"] in PEG_BENCH:
        order |= read_layout(cursor, _PEGGED)
    order |= _conditions(cursor)
    order |= read_layout(cursor, _TAIL)
    for since, added in _ADDED:
        if version >= since:
            order |= read_layout(cursor, added)
    if version >= 170:
        order |= _pegged_offsets(cursor, order)
    return order


def read_layout(cursor: Cursor, layout: str) -> dict[str, str]:
    """Fields of a layout: one word each, its name and its kind."""
    readers = {"n": cursor.number_text, "i": cursor.integer_text, "b": cursor.flag_text}
    named = [entry.partition(":") for entry in layout.split()]
    return {name: readers.get(kind, cursor.text)(name) for name, _, kind in named}


def read_entries(cursor: Cursor, name: str, layout: str) -> list[list[str]]:
    """A count, then so many entries of a layout."""
    return [list(read_layout(cursor, layout).values()) for _ in range(cursor.count(name))]


def _combo(cursor: Cursor) -> dict[str, str]:
    parts = {
        "comboLegs": _COMBO_LEG,
        "orderComboLegs": "price:n",
        "smartComboRoutingParams": "tag value",
    }
    return {name: json.dumps(read_entries(cursor, name, layout)) for name, layout in parts.items()}


def _algo(cursor: Cursor) -> dict[str, str]:
    algo = {"algoStrategy": cursor.text("algoStrategy")}
    if algo["algoStrategy"]:
        algo["algoParams"] = json.dumps(read_entries(cursor, "algoParams", "tag value"))
    return algo


def _conditions(cursor: Cursor) -> dict[str, str]:
    conditions = []
    for _ in range(cursor.count("conditions")):
        kind = cursor.text("condition type")
        if kind not in CONDITIONS:
            raise WireError(f"{cursor.message}: a condition of type {kind[:80]!r}")
        conditions.append([kind, *read_layout(cursor, CONDITIONS[kind]).values()])
    if not conditions:
        return {}
    ends = read_layout(cursor, "conditionsIgnoreRth:b conditionsCancelOrder:b")
    return {"conditions": json.dumps(conditions)} | ends


def _pegged_offsets(cursor: Cursor, order: Mapping[str, str]) -> dict[str, str]:
    read: dict[str, str] = {}
    if order["exchange"] == "IBKRATS":
        read |= read_layout(cursor, "minTradeQty:i")
    if order["orderType"] in PEG_BEST:
        read |= read_layout(cursor, "minCompeteSize:i competeAgainstBestOffset:n")
    to_mid = read.get("competeAgainstBestOffset") == "Infinity"
    if to_mid or order["orderType"] in PEG_MID:
        read |= read_layout(cursor, "midOffsetAtWhole:n midOffsetAtHalf:n")
    return read
