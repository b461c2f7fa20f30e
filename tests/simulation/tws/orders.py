"""Orders with odd fields, and what becomes of them on their way through a gateway."""

import math
from types import ModuleType
from typing import Any

from hypothesis import strategies as st

PRICES = st.floats(0.01, 1e6).map(lambda price: round(price, 4))
SIZES = st.integers(1, 10**6)
WORDS = st.text("ABCdef019-_./ é", min_size=1, max_size=12).map(str.strip).filter(bool)
NUMBERS = {
    "percentOffset",
    "trailingPercent",
    "nbboPriceCap",
    "startingPrice",
    "stockRefPrice",
    "delta",
    "stockRangeLower",
    "stockRangeUpper",
    "discretionaryAmt",
    "deltaNeutralAuxPrice",
    "triggerPrice",
    "lmtPriceOffset",
    "adjustedStopPrice",
    "adjustedStopLimitPrice",
    "adjustedTrailingAmount",
    "cashQty",
    "auxPrice",
    "trailStopPrice",
}
WHOLE = {
    "displaySize",
    "triggerMethod",
    "ocaType",
    "minQty",
    "auctionStrategy",
    "shortSaleSlot",
    "exemptCode",
    "referencePriceType",
    "scaleInitLevelSize",
    "scaleSubsLevelSize",
    "adjustableTrailingUnit",
    "parentId",
    "origin",
    "duration",
    "postToAts",
}
FLAGS = {
    "blockOrder",
    "sweepToFill",
    "outsideRth",
    "hidden",
    "allOrNone",
    "eTradeOnly",
    "firmQuoteOnly",
    "continuousUpdate",
    "optOutSmartRouting",
    "notHeld",
    "solicited",
    "randomizeSize",
    "randomizePrice",
    "dontUseAutoPriceForHedge",
    "isOmsContainer",
    "discretionaryUpToLimitPrice",
    "usePriceMgmtAlgo",
    "autoCancelParent",
    "overridePercentageConstraints",
}
TEXTS = {
    "tif",
    "ocaGroup",
    "account",
    "openClose",
    "orderRef",
    "goodAfterTime",
    "goodTillDate",
    "faGroup",
    "faMethod",
    "faPercentage",
    "modelCode",
    "designatedLocation",
    "rule80A",
    "settlingFirm",
    "clearingAccount",
    "clearingIntent",
    "scaleTable",
    "activeStartTime",
    "activeStopTime",
    "algoId",
    "adjustedOrderType",
    "extOperator",
    "mifid2DecisionMaker",
    "mifid2DecisionAlgo",
    "mifid2ExecutionTrader",
    "mifid2ExecutionAlgo",
    "advancedErrorOverride",
    "manualOrderTime",
}
# not told back by TWS
UNTOLD = {
    "transmit",
    "overridePercentageConstraints",
    "scaleTable",
    "activeStartTime",
    "activeStopTime",
    "algoId",
    "orderMiscOptions",
    "extOperator",
    "mifid2DecisionMaker",
    "mifid2DecisionAlgo",
    "mifid2ExecutionTrader",
    "mifid2ExecutionAlgo",
    "advancedErrorOverride",
    "manualOrderTime",
}
SINCE = {
    "duration": 159,
    "postToAts": 160,
    "autoCancelParent": 162,
    "minTradeQty": 170,
    "minCompeteSize": 170,
    "competeAgainstBestOffset": 170,
    "midOffsetAtWhole": 170,
    "midOffsetAtHalf": 170,
}


@st.composite
def odd_orders(draw: st.DrawFn, library: ModuleType) -> Any:
    """An order as strange as the client library can send it."""
    given: dict[str, Any] = {"action": draw(st.sampled_from(["BUY", "SELL", "SSHORT"]))}
    given["totalQuantity"] = float(draw(SIZES))
    given["orderType"] = draw(st.sampled_from(["LMT", "MKT", "VOL", "PEG BENCH", "PEG BEST"]))
    kinds = ((NUMBERS, PRICES), (WHOLE, SIZES), (FLAGS, st.booleans()), (TEXTS, WORDS))
    for names, values in kinds:
        for name in draw(st.sets(st.sampled_from(sorted(names)), max_size=6)):
            given[name] = draw(values)
    if draw(st.booleans()):
        given["lmtPrice"] = draw(PRICES)
    given |= draw(st.sampled_from([{}, _SCALE, _HEDGE, _DELTA_NEUTRAL]))
    if given["orderType"] == "VOL":
        given |= {"volatility": draw(PRICES), "volatilityType": 2}
    if given["orderType"] == "PEG BENCH":
        given |= _PEGGED
    if given["orderType"] == "PEG BEST":
        given["minCompeteSize"] = draw(SIZES)
        given["competeAgainstBestOffset"] = draw(st.one_of(PRICES, st.just(math.inf)))
        if given["competeAgainstBestOffset"] == math.inf:
            given |= {"midOffsetAtWhole": draw(PRICES), "midOffsetAtHalf": draw(PRICES)}
    tag = library.TagValue
    if draw(st.booleans()):
        tags = draw(st.lists(st.tuples(WORDS, WORDS), max_size=3))
        given |= {"algoStrategy": "Vwap", "algoParams": [tag(*pair) for pair in tags]}
        given["orderMiscOptions"] = [tag("a", "b")]
    order = library.Order(**given)
    if draw(st.booleans()):
        order.softDollarTier.name, order.softDollarTier.val = draw(WORDS), draw(WORDS)
    order.conditions = draw(st.lists(_conditions(library), max_size=3))
    if order.conditions:
        order.conditionsIgnoreRth = draw(st.booleans())
        order.conditionsCancelOrder = draw(st.booleans())
    return order


def _conditions(library: ModuleType) -> st.SearchStrategy[Any]:
    both, more = st.sampled_from("ao"), st.booleans()
    order = library.order
    return st.one_of(
        st.builds(order.PriceCondition, st.just(1), both, more, PRICES, SIZES, WORDS, SIZES),
        st.builds(order.TimeCondition, st.just(3), both, more, WORDS),
        st.builds(order.MarginCondition, st.just(4), both, more, SIZES),
        st.builds(order.ExecutionCondition, st.just(5), both, WORDS, WORDS, WORDS),
        st.builds(order.VolumeCondition, st.just(6), both, more, SIZES, SIZES, WORDS),
        st.builds(order.PercentChangeCondition, st.just(7), both, more, PRICES, SIZES, WORDS),
    )


def told_back(order: Any, version: int, unset: float) -> dict[str, Any]:
    """Fields of an order as a client reads them in openOrder, by what TWS does to them.

    Parameters
    ----------
    order : Order
        As it was sent.
    version : int
        Server version.
    unset : float
        What the client library takes for no number.
    """
    default = type(order)()
    told = {name: value for name, value in vars(order).items() if name not in UNTOLD}
    for name, since in SINCE.items():
        if version < since:
            told[name] = getattr(default, name)
    if told["lmtPrice"] == unset:
        told["lmtPrice"] = 0.0
    if told["auxPrice"] == unset:
        told["auxPrice"] = 0.0
    if told["trailStopPrice"] == unset and order.lmtPrice != unset:
        told["trailStopPrice"] = round(order.lmtPrice + 1, 4)
    told["tif"] = told["tif"] or "DAY"
    told["displaySize"] = told["displaySize"] or 2**31 - 1
    told["ocaType"] = told["ocaType"] or 3
    for name in ("volatilityType", "referencePriceType"):
        told[name] = 0 if told[name] == 2**31 - 1 else told[name]
    told["clearingIntent"] = told["clearingIntent"] or "IB"
    told["deltaNeutralOrderType"] = told["deltaNeutralOrderType"] or "None"
    told["adjustedOrderType"] = told["adjustedOrderType"] or "None"
    if not order.orderType.startswith("VOL"):
        told["volatility"] = unset  # ib_async sends it with no other type
    return told


_SCALE = {
    "scalePriceIncrement": 0.5,
    "scalePriceAdjustValue": 1.5,
    "scalePriceAdjustInterval": 3,
    "scaleProfitOffset": 2.5,
    "scaleAutoReset": True,
    "scaleInitPosition": 7,
    "scaleInitFillQty": 9,
    "scaleRandomPercent": True,
}
_HEDGE = {"hedgeType": "B", "hedgeParam": "1.2"}
_DELTA_NEUTRAL = {
    "deltaNeutralOrderType": "LMT",
    "deltaNeutralAuxPrice": 2.25,
    "deltaNeutralConId": 77,
    "deltaNeutralSettlingFirm": "firm",
    "deltaNeutralClearingAccount": "clearing",
    "deltaNeutralClearingIntent": "IB",
    "deltaNeutralOpenClose": "O",
    "deltaNeutralShortSale": True,
    "deltaNeutralShortSaleSlot": 2,
    "deltaNeutralDesignatedLocation": "here",
}
_PEGGED = {
    "referenceContractId": 12,
    "isPeggedChangeAmountDecrease": True,
    "peggedChangeAmount": 0.25,
    "referenceChangeAmount": 0.5,
    "referenceExchangeId": "ARCA",
}
