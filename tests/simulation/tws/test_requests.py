"""What client libraries send is read without a field missing or left over."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.simulation.tws import requests
from dpa.simulation.tws.requests import Asked, read_request
from dpa.simulation.tws.wire import WireError, text
from tests.simulation.tws.clients import NEWEST, recording
from tests.simulation.tws.orders import odd_orders

AAPL = Asked(265598, "AAPL", "STK", "SMART", "USD")


def sent(version: int, ask: Callable[[ModuleType, Any], None]) -> list[str]:
    """The fields of the one message that a client library sends."""

    async def record() -> list[list[str]]:
        library, client, recorder = recording(version)
        ask(library, client)
        return recorder.messages

    (message,) = asyncio.run(record())
    return message


def read(version: int, ask: Callable[[ModuleType, Any], None]) -> requests.Request | None:
    """What is read of what a client library sends; no field may be left out or over."""
    number, *values = sent(version, ask)
    request = read_request(int(number), values, version)
    for short in (values[:-1], [*values, "more"]):
        with pytest.raises(WireError, match=r"missing|unread"):
            read_request(int(number), short, version)
    return request


def aapl(library: ModuleType) -> Any:
    return library.Stock("AAPL", "SMART", "USD", conId=265598)


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda lib, c: c.reqContractDetails(5, aapl(lib)), requests.ContractData(5, AAPL)),
        (
            lambda lib, c: c.reqMktData(6, aapl(lib), "233, 236", False, False, []),
            requests.MarketData(6, AAPL, ("233", "236"), snapshot=False),
        ),
        (
            lambda lib, c: c.reqMktData(6, aapl(lib), "", True, False, []),
            requests.MarketData(6, AAPL, (), snapshot=True),
        ),
        (lambda lib, c: c.cancelMktData(6), requests.Numbered("cancel line", 6)),
        (
            lambda lib, c: c.reqTickByTickData(7, aapl(lib), "BidAsk", 0, True),
            requests.TickByTick(7, AAPL, "BidAsk"),
        ),
        (lambda lib, c: c.cancelTickByTickData(7), requests.Numbered("cancel line", 7)),
        (
            lambda lib, c: c.reqRealTimeBars(8, aapl(lib), 5, "TRADES", True, []),
            requests.RealTimeBars(8, AAPL, 5, "TRADES"),
        ),
        (lambda lib, c: c.cancelRealTimeBars(8), requests.Numbered("cancel line", 8)),
        (
            lambda lib, c: c.reqHistoricalData(
                9, aapl(lib), "20251121-15:00:00", "2 D", "5 mins", "TRADES", True, 2, False, []
            ),
            requests.History(
                9, AAPL, "20251121-15:00:00", "5 mins", "2 D", True, "TRADES", True, False
            ),
        ),
        (lambda lib, c: c.cancelHistoricalData(9), requests.Numbered("cancel history", 9)),
        (
            lambda lib, c: c.reqHeadTimeStamp(10, aapl(lib), "TRADES", True, 1),
            requests.HeadTimestamp(10, AAPL, regular_hours=True, epoch=False),
        ),
        (lambda lib, c: c.cancelOrder(11, ""), requests.Numbered("cancel order", 11)),
        (lambda lib, c: c.reqGlobalCancel(), requests.Plain("global cancel")),
        (lambda lib, c: c.reqOpenOrders(), requests.OpenOrders(everyone=False)),
        (lambda lib, c: c.reqAllOpenOrders(), requests.OpenOrders(everyone=True)),
        (lambda lib, c: c.reqAutoOpenOrders(True), requests.Plain("auto open orders")),
        (lambda lib, c: c.reqCompletedOrders(True), requests.Plain("completed orders")),
        (
            lambda lib, c: c.reqExecutions(
                12,
                lib.ExecutionFilter(
                    1, "DU1", "20251121 10:00:00 US/Eastern", "AAPL", "STK", "ARCA", "BUY"
                ),
            ),
            requests.Executions(
                12, 1, "DU1", datetime(2025, 11, 21, 15, tzinfo=UTC), "AAPL", "STK", "ARCA", "BUY"
            ),
        ),
        (
            lambda lib, c: c.reqAccountUpdates(True, "DU1"),
            requests.AccountUpdates(subscribe=True, account="DU1"),
        ),
        (
            lambda lib, c: c.reqAccountUpdatesMulti(13, "DU1", "model", False),
            requests.OfAccount("account updates", 13, "DU1", "model"),
        ),
        (
            lambda lib, c: c.reqAccountSummary(14, "All", "NetLiquidation,BuyingPower"),
            requests.AccountSummary(14, "All", ("NetLiquidation", "BuyingPower")),
        ),
        (
            lambda lib, c: c.reqPositionsMulti(15, "DU1", ""),
            requests.OfAccount("positions", 15, "DU1", ""),
        ),
        (lambda lib, c: c.reqPnL(16, "DU1", ""), requests.OfAccount("pnl", 16, "DU1", "")),
        (
            lambda lib, c: c.reqPnLSingle(17, "DU1", "", 265598),
            requests.OfAccount("pnl single", 17, "DU1", "", 265598),
        ),
        (lambda lib, c: c.cancelPnLSingle(17), requests.Numbered("cancel pnl", 17)),
        (lambda lib, c: c.reqMarketDataType(3), requests.MarketDataType(3)),
        (lambda lib, c: c.reqPositions(), requests.Plain("positions")),
        (lambda lib, c: c.reqIds(1), requests.Plain("ids")),
        (lambda lib, c: c.reqManagedAccts(), requests.Plain("managed accounts")),
        (lambda lib, c: c.reqCurrentTime(), requests.Plain("current time")),
        (lambda lib, c: c.setServerLogLevel(2), requests.Plain("ignored")),
    ],
)
def test_requests_are_read_as_they_were_meant(
    version: int, ask: Callable[[ModuleType, Any], None], wanted: requests.Request
) -> None:
    assert read(version, ask) == wanted


def test_a_combination_is_read_with_all_its_legs(version: int) -> None:
    def place(library: ModuleType, client: Any) -> None:
        legs = [library.ComboLeg(n, 1, "BUY", "SMART", 1, 2, "here", 3) for n in (1, 2)]
        hedge = library.DeltaNeutralContract(9, 0.5, 1.25)
        contract = library.Bag(comboLegs=legs, deltaNeutralContract=hedge)
        order = library.Order(
            action="BUY",
            totalQuantity=1,
            orderType="LMT",
            orderComboLegs=[library.OrderComboLeg(1.5), library.OrderComboLeg()],
            smartComboRoutingParams=[library.TagValue("NonGuaranteed", "1")],
        )
        client.placeOrder(3, contract, order)

    request = read(version, place)
    assert isinstance(request, requests.PlaceOrder)
    assert json.loads(request.fields["comboLegs"])[1] == [*"21", "BUY", "SMART", *"12", "here", "3"]
    assert json.loads(request.fields["orderComboLegs"]) == [["1.5"], [""]]
    assert json.loads(request.fields["smartComboRoutingParams"]) == [["NonGuaranteed", "1"]]
    assert json.loads(request.fields["deltaNeutralContract"]) == ["9", "0.5", "1.25"]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(157, NEWEST))
def test_every_field_of_an_order_is_read_under_its_name(data: st.DataObject, version: int) -> None:
    told: dict[str, Any] = {}

    def place(library: ModuleType, client: Any) -> None:
        order = data.draw(odd_orders(library))
        exchange = data.draw(st.sampled_from(["SMART", "IBKRATS"]))
        if exchange == "IBKRATS":
            order.minTradeQty = 5
        told["order"], told["unset"] = order, library.util.UNSET_DOUBLE
        client.placeOrder(31, library.Stock("AAPL", exchange, "USD"), order)

    request = read(version, place)
    assert isinstance(request, requests.PlaceOrder)
    assert request.order_id == 31
    for name, found in request.fields.items():
        wanted = getattr(told["order"], name, None)
        if isinstance(wanted, list) or name == "sharesAllocation":
            continue
        if isinstance(wanted, bool):
            assert found == text(wanted), name
        elif isinstance(wanted, int | float):
            absent = wanted in (told["unset"], 2**31 - 1)
            assert (not found) if absent else float(found) == wanted, name
        elif isinstance(wanted, str):
            assert found == wanted, name
    conditions = json.loads(request.fields.get("conditions", "[]"))
    assert [int(each[0]) for each in conditions] == [
        each.condType for each in told["order"].conditions
    ]
    params = json.loads(request.fields.get("algoParams", "[]"))
    assert params == [[tag.tag, tag.value] for tag in told["order"].algoParams]


def test_a_message_nobody_knows_is_none() -> None:
    assert read_request(999, ["1"], 176) is None


def test_a_wrong_field_names_its_message() -> None:
    with pytest.raises(WireError, match=r"PLACE_ORDER: field 1 \(orderId\) is 'x'"):
        read_request(3, ["x"], 176)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(requests._READERS)), st.lists(st.text(max_size=6), max_size=80))
def test_whatever_the_fields_are_they_are_read_or_refused(number: int, values: list[str]) -> None:
    with suppress(WireError):
        assert read_request(number, values, 176) is not None
