"""The protocol suite: an unmodified client, a real socket, the real venue, every server version.

It runs with whichever of ib_insync and ib_async is installed. Besides what each test says, all of
them show that the client's decoder failed nowhere and that the gateway read every field.
"""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.simulation.tws.markets import planted_market
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import SimOrder, SimQuote
from tests.simulation.tws.clients import (
    CLIENT,
    VERSIONS,
    client_library,
    connected,
    echo_venue,
    gateway_of,
    lively,
    planted_venue,
    round_trip,
    run,
    step,
    until,
)
from tests.simulation.tws.orders import odd_orders, told_back

ACCOUNT = "DU1234567"
FAR = 10_000.0


def name(venue: Any, place: int = 0) -> str:
    symbol: str = venue.listing.contracts[place].symbol
    return symbol


def stock(venue: Any, place: int = 0) -> Any:
    """A contract with its number: ib_async follows no other."""
    listed = venue.listing.contracts[place]
    return client_library().Stock(listed.symbol, "SMART", "USD", conId=listed.con_id)


def quote_of(venue: Any, place: int = 0) -> SimQuote:
    quote: SimQuote = venue.quote(venue.listing.contracts[place])
    return quote


def limit(side: str, shares: float, price: float, **given: Any) -> Any:
    words = {"tif": "DAY", "account": ACCOUNT} | given
    return client_library().LimitOrder(side, shares, price, **words)


def market(side: str, shares: float, **given: Any) -> Any:
    words = {"tif": "DAY", "account": ACCOUNT} | given
    return client_library().MarketOrder(side, shares, **words)


def codes(api: Any, *but: int) -> list[tuple[int, int]]:
    """Errors that were told, without the notices at the start."""
    return [each for each in api.codes if each[1] not in (2104, 2106, 2158, *but)]


def test_connecting_agrees_on_a_version_and_tells_accounts_ids_and_farms(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(accounts=(ACCOUNT, "DU7654321")))
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            assert api.client.serverVersion() == version
            assert api.managedAccounts() == [ACCOUNT, "DU7654321"]
            assert api.client.getReqId() >= 1
            assert api.codes == [(-1, 2104), (-1, 2106), (-1, 2158)]
            assert [session.client_id for session in gateway.sessions] == [1]
            now = await api.reqCurrentTimeAsync()
            assert now == venue.clock.now().replace(microsecond=0)
            api.client.reqIds(1)
            api.client.reqManagedAccts()
            api.client.setServerLogLevel(2)
            api.client.reqAutoOpenOrders(True)

    run(work())


def test_contract_details_are_those_of_the_listing(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            listed = venue.listing.contracts[1]
            library = client_library()
            asked = library.Stock(listed.symbol, "SMART", "USD")
            (details,) = await api.reqContractDetailsAsync(asked)
            contract = details.contract
            assert (contract.conId, contract.symbol) == (listed.con_id, listed.symbol)
            assert (contract.exchange, contract.primaryExchange) == ("SMART", "NASDAQ")
            assert (details.minTick, details.longName) == (0.01, listed.name)
            assert details.timeZoneId == "US/Eastern"
            assert details.liquidHours.startswith("20240618:0930-20240618:1600;20240619:CLOSED;")
            if version >= 164:
                assert (details.minSize, details.sizeIncrement) == (1, 1)
            by_number = library.Contract(conId=listed.con_id)
            assert (await api.qualifyContractsAsync(by_number))[0].symbol == listed.symbol
            for unknown in (
                library.Stock("NONE", "SMART", "USD"),
                library.Stock(listed.symbol, "SMART", "EUR"),
                library.Future(listed.symbol, "202512", "CME"),
            ):
                assert not await api.reqContractDetailsAsync(unknown)
            assert [code for _, code in codes(api)] == [200, 200, 200]

    run(work())


def test_an_odd_name_survives(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        odd = venue.listing.contracts[0]
        object.__setattr__(odd, "name", "Société ™ 株")
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            (details,) = await api.reqContractDetailsAsync(stock(venue))
            assert details.longName == "Société ™ 株"

    run(work())


def test_quotes_follow_the_venue(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            ticker = api.reqMktData(stock(venue), "233,236", False, False)
            for _ in range(6):
                await round_trip(api)
                quote = quote_of(venue)
                assert ticker.bid == float(quote.bid or -1)
                assert ticker.ask == float(quote.ask or -1)
                assert (ticker.bidSize, ticker.askSize) == (quote.bid_size, quote.ask_size)
                assert ticker.last == float(quote.last or -1)
                assert ticker.volume == quote.volume
                assert ticker.close == float(quote.close or 0)
                assert ticker.halted == 0
                assert ticker.shortableShares == quote.shortable
                assert (ticker.marketDataType, ticker.minTick) == (1, 0.01)
                await step(venue, gateway, api, 3)
            venue.tape.halted.add(0)
            venue.changed(0)
            await round_trip(api)
            assert ticker.halted == 1
            api.cancelMktData(ticker.contract)
            api.client.cancelMktData(ticker.contract.conId)
            await round_trip(api)
            assert codes(api) == [(ticker.contract.conId, 300)]
            snapshot = await api.reqTickersAsync(stock(venue, 1))
            assert snapshot[0].ask == float(quote_of(venue, 1).ask or -1)

    run(work())


def test_without_a_subscription_live_data_is_refused_and_delayed_data_is_marked(
    version: int,
) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(subscribed=False))
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            refused = api.reqMktData(stock(venue), "", False, False)
            api.reqRealTimeBars(stock(venue), 5, "TRADES", True)
            api.reqTickByTickData(stock(venue, 2), "Last")
            await step(venue, gateway, api)
            assert [code for _, code in codes(api)] == [354, 420, 10189]
            assert refused.bid != refused.bid
            api.reqMarketDataType(3)
            delayed = api.reqMktData(stock(venue, 1), "", False, False)
            await step(venue, gateway, api, 2)
            assert delayed.marketDataType == 3
            assert delayed.bid == float(quote_of(venue, 1).bid or -1)
            assert {tick.tickType for tick in delayed.ticks} <= {66, 67, 68, 69, 70, 71, 74, 88}
            assert codes(api)[-1][1] == 10167
            venue.traits.subscribed = True
            await step(venue, gateway, api, 2)
            assert delayed.marketDataType == 1

    run(work())


@pytest.mark.parametrize(("asked", "before", "after"), [(1, 1, 1), (2, 2, 1), (3, 1, 1), (4, 2, 1)])
def test_data_is_frozen_for_those_who_ask_while_the_market_is_closed(
    version: int, asked: int, before: int, after: int
) -> None:
    async def work() -> None:
        market = planted_market(seed=7, names=2, sessions=1, history=1, interval="30m")
        venue = SimVenue(market, traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            api.reqMarketDataType(asked)
            ticker = api.reqMktData(stock(venue))
            await round_trip(api)
            assert ticker.marketDataType == before
            while not venue.tape.parts:
                await step(venue, gateway, api)
            assert ticker.marketDataType == after
            assert ticker.bid == float(quote_of(venue).bid or -1)

    run(work())


def test_tick_by_tick_tells_every_trade_quote_and_midpoint(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            found: dict[str, list[Any]] = {}
            kinds = ("Last", "AllLast", "BidAsk", "MidPoint")
            for place, kind in enumerate(kinds):
                ticker = api.reqTickByTickData(stock(venue, place), kind)
                found[kind] = []
                ticker.updateEvent += lambda t, kind=kind: found[kind].extend(t.tickByTicks)
            await step(venue, gateway, api, 12)
            for place, kind in enumerate(kinds):
                newest, quote = found[kind][-1], quote_of(venue, place)
                if kind in ("Last", "AllLast"):
                    assert (newest.price, newest.size) == (float(quote.last), quote.last_size)
                elif kind == "BidAsk":
                    assert (newest.bidPrice, newest.askPrice) == (quote.bid, quote.ask) or (
                        newest.bidPrice == float(quote.bid or 0)
                        and newest.askPrice == float(quote.ask or 0)
                    )
                else:
                    assert newest.midPoint == float((quote.bid + quote.ask) / 2)
            api.cancelTickByTickData(stock(venue), "Last")

    run(work())


def test_real_time_bars_are_stamped_at_their_start_and_make_the_markets_bars(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            bars = api.reqRealTimeBars(stock(venue), 5, "TRADES", True)
            for _ in range(5):
                await step(venue, gateway, api)
                if bars:
                    assert bars[-1].time <= venue.clock.now() - timedelta(seconds=5)
            while venue.clock.now() < datetime(2024, 6, 18, 14, 30, tzinfo=UTC):
                venue.advance()
            await round_trip(api)
            assert len(bars) > 3
            assert all(bar.time.timestamp() % 5 == 0 for bar in bars)
            assert [bar.time for bar in bars] == sorted({bar.time for bar in bars})
            second = [bar for bar in bars if bar.time >= datetime(2024, 6, 18, 14, tzinfo=UTC)]
            (truth,) = venue.history(
                venue.listing.contracts[0], venue.clock.now(), 1800, 1800, True
            )
            assert truth.time == datetime(2024, 6, 18, 14, tzinfo=UTC)
            traded = [bar for bar in second if bar.volume]
            assert traded[0].open_ == float(truth.open)
            assert max(bar.high for bar in traded) == float(truth.high)
            assert min(bar.low for bar in traded) == float(truth.low)
            assert traded[-1].close == float(truth.close)
            assert sum(bar.volume for bar in traded) == truth.volume
            api.cancelRealTimeBars(bars)

    run(work())


@pytest.mark.parametrize(
    ("size", "seconds", "format_date"),
    [("30 mins", 1800, 1), ("30 mins", 1800, 2), ("1 hour", 3600, 2), ("1 day", 86_400, 1)],
)
def test_history_is_that_of_the_venue(
    version: int, size: str, seconds: int, format_date: int
) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            await step(venue, gateway, api, 4)
            bars = await api.reqHistoricalDataAsync(
                stock(venue), "", "2 D", size, "TRADES", True, format_date
            )
            truth = venue.history(
                venue.listing.contracts[0], venue.clock.now(), 2 * 86_400, seconds, True
            )
            assert len(bars) == len(truth) > 1
            for bar, exact in zip(bars, truth, strict=True):
                if seconds < 86_400:
                    assert bar.date == exact.time
                else:
                    assert bar.date == exact.time.date()
                told = (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.barCount)
                assert told[:4] == tuple(
                    float(each) for each in (exact.open, exact.high, exact.low, exact.close)
                )
                assert told[4:] == (exact.volume, exact.count)
            earlier = await api.reqHistoricalDataAsync(
                stock(venue),
                truth[0].time + timedelta(hours=2),
                "3600 S",
                "30 mins",
                "TRADES",
                True,
            )
            assert [bar.date for bar in earlier] == [
                truth[0].time + timedelta(minutes=minutes) for minutes in (60, 90)
            ]

    run(work())


@pytest.mark.parametrize("size", ["30 mins", "1 hour", "1 day"])
def test_a_history_that_is_kept_up_to_date_stays_what_a_new_request_tells(
    version: int, size: str
) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            words = ("", "1 D", size, "TRADES", True, 2)
            live = await api.reqHistoricalDataAsync(stock(venue), *words, keepUpToDate=True)
            for _ in range(3):
                while venue.tape.parts != 1:
                    venue.advance()
                await step(venue, gateway, api)
                anew = await api.reqHistoricalDataAsync(stock(venue), *words)
                assert [bar.date for bar in live] == [bar.date for bar in anew]
                for mine, told in zip(live, anew, strict=True):
                    assert (mine.open, mine.high, mine.low) == (told.open, told.high, told.low)
                    assert (mine.close, mine.volume) == (told.close, told.volume)
                    assert mine.average == pytest.approx(told.average)
            api.cancelHistoricalData(live)
            api.cancelHistoricalData(live)
            await round_trip(api)
            assert [code for _, code in codes(api)] == [162, 366]

    run(work())


def test_wrong_historical_requests_are_refused_in_tws_words(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(history_requests=2))
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            wrong = [
                ("", "1 D", "7 mins", "TRADES", 321),
                ("", "1 fortnight", "30 mins", "TRADES", 321),
                ("", "90000 S", "30 mins", "TRADES", 321),
                ("", "1 D", "30 mins", "GOSSIP", 321),
                ("20241301 00:00:00", "1 D", "30 mins", "TRADES", 10314),
                ("19900101-00:00:00", "1 D", "30 mins", "TRADES", 162),
                ("", "1 D", "30 mins", "TRADES", 0),
                ("", "1 D", "30 mins", "TRADES", 162),
            ]
            for end, duration, size, what, code in wrong:
                api.codes.clear()
                number = api.client.getReqId()
                words = (end, duration, size, what, True, 1, False, [])
                api.client.reqHistoricalData(number, stock(venue), *words)
                await round_trip(api)
                assert api.codes == ([(number, code)] if code else [])

    run(work())


def test_the_head_of_history_is_its_first_bar(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            first = datetime(2024, 6, 17, 13, 30, tzinfo=UTC)
            words = (stock(venue), "TRADES", True)
            assert await api.reqHeadTimeStampAsync(*words, 2) == first
            assert await api.reqHeadTimeStampAsync(*words, 1) == first.replace(tzinfo=None)

    run(work())


def test_an_order_lives_rests_is_changed_and_cancelled(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            trade = api.placeOrder(stock(venue), limit("BUY", 100, 1.0, orderRef="mine"))
            await round_trip(api)
            assert (trade.orderStatus.status, trade.orderStatus.remaining) == ("Submitted", 100)
            assert trade.order.permId > 0
            trade.order.lmtPrice, trade.order.totalQuantity = 1.5, 50
            api.placeOrder(trade.contract, trade.order)
            await round_trip(api)
            (order,) = venue.open_orders(1)
            assert (order.limit, order.quantity, order.ref) == (Decimal("1.5"), 50, "mine")
            api.cancelOrder(trade.order)
            await round_trip(api)
            assert trade.orderStatus.status == "Cancelled"
            number = trade.order.orderId
            api.client.cancelOrder(number, "")
            api.client.cancelOrder(number + 100, "")
            await round_trip(api)
            assert codes(api) == [(number, 202), (number, 10148), (number + 100, 10147)]

    run(work())


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_a_fill_tells_execution_commission_position_and_portfolio(version: int, side: str) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            order = market(side, 100, orderRef="dpa-0123")
            trade = api.placeOrder(stock(venue), order)
            await round_trip(api)
            assert trade.orderStatus.status == "Filled"
            price = float(quote_of(venue).ask if side == "BUY" else quote_of(venue).bid)
            (fill,) = trade.fills
            execution = fill.execution
            assert (execution.side, execution.shares) == ("BOT" if side == "BUY" else "SLD", 100)
            assert (execution.price, execution.avgPrice, execution.cumQty) == (price, price, 100)
            assert (execution.acctNumber, execution.orderRef) == (ACCOUNT, "dpa-0123")
            assert (execution.orderId, execution.clientId) == (trade.order.orderId, 1)
            assert execution.permId == trade.orderStatus.permId
            assert execution.time == venue.clock.now()
            report = fill.commissionReport
            assert (report.execId, report.commission) == (execution.execId, 1.0)
            signed = 100 if side == "BUY" else -100
            (position,) = api.positions()
            assert (position.account, position.position) == (ACCOUNT, signed)
            assert position.contract.symbol == name(venue)
            assert position.avgCost == price
            (item,) = api.portfolio()
            last = float(quote_of(venue).last or 0)
            assert (item.position, item.marketPrice) == (signed, last)
            assert item.unrealizedPNL == pytest.approx(signed * (last - price))
            values = {each.tag: each.value for each in api.accountValues() if not each.modelCode}
            assert float(values["TotalCashValue"]) == pytest.approx(1e6 - signed * price - 1)

    run(work())


def test_a_corrected_fill_is_told_with_a_new_revision(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            trade = api.placeOrder(stock(venue), market("BUY", 90))
            await round_trip(api)
            venue.correct(price=Decimal("9.5"), shares=Decimal(30))
            await round_trip(api)
            first, second = (fill.execution for fill in trade.fills)
            assert first.execId.rpartition(".")[0] == second.execId.rpartition(".")[0]
            assert (second.execId[-2:], second.shares, second.price) == ("02", 30, 9.5)

    run(work())


def test_what_if_tells_margins_and_places_nothing(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            state = await api.whatIfOrderAsync(stock(venue), limit("BUY", 1000, 50.0))
            after, before = float(state.initMarginAfter), float(state.initMarginBefore)
            assert before == 0
            assert after > 0
            assert float(state.initMarginChange) == pytest.approx(after - before)
            assert float(state.equityWithLoanBefore) == 1e6
            assert state.commission > 0
            assert venue.open_orders(None) == ()

    run(work())


def test_rejected_orders_are_told_with_a_code(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            library = client_library()
            wrong = [
                (limit("BUY", 100, 1.005), 110),
                (limit("BUY", 10**7, 50.0), 201),
                (limit("BUY", 0, 1.0), 434),
                (library.Order(action="BUY", totalQuantity=1, orderType="ODD", tif="DAY"), 387),
                (limit("BUY", 1, 1.0, account="U1"), 321),
            ]
            for order, code in wrong:
                trade = api.placeOrder(stock(venue), order)
                await round_trip(api)
                assert codes(api)[-1] == (trade.order.orderId, code)
            unknown = library.Stock("NONE", "SMART", "USD")
            trade = api.placeOrder(unknown, limit("BUY", 1, 1.0))
            await round_trip(api)
            assert codes(api)[-1] == (trade.order.orderId, 200)
            assert venue.open_orders(None) == ()

    run(work())


def test_orders_of_all_clients_are_told_and_cancelled_together(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway, 1) as one:
            for place in range(3):
                one.placeOrder(stock(venue, place), limit("BUY", 10, 1.0, orderRef=f"one-{place}"))
            await round_trip(one)
            async with connected(gateway, 2) as two:
                assert two.openTrades() == []
                mine = two.placeOrder(stock(venue, 3), limit("BUY", 10, 1.0, orderRef="two"))
                await round_trip(two)
                own = await two.reqOpenOrdersAsync()
                assert [trade.order.orderRef for trade in own] == ["two"]
                every = await two.reqAllOpenOrdersAsync()
                refs = {(trade.order.clientId, trade.order.orderRef) for trade in every}
                assert refs == {(1, "one-0"), (1, "one-1"), (1, "one-2"), (2, "two")}
                two.reqGlobalCancel()
                await round_trip(two)
                await round_trip(one)
                assert mine.orderStatus.status == "Cancelled"
                assert {trade.orderStatus.status for trade in one.trades()} == {"Cancelled"}
                done = await two.reqCompletedOrdersAsync(True)
                assert {trade.order.orderRef for trade in done} == {ref for _, ref in refs}
                assert {trade.orderStatus.status for trade in done} == {"Cancelled"}
                assert await two.reqAllOpenOrdersAsync() == []

    run(work())


def test_a_client_that_comes_back_is_told_everything(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway:
            async with connected(gateway) as api:
                filled = api.placeOrder(stock(venue), market("BUY", 100, orderRef="filled"))
                api.placeOrder(stock(venue, 1), limit("BUY", 10, 1.0, orderRef="open"))
                await round_trip(api)
                number, perm = filled.order.orderId, filled.orderStatus.permId
            await until(lambda: not gateway.sessions)
            async with connected(gateway) as api:
                assert [trade.order.orderRef for trade in api.openTrades()] == ["open"]
                (done,) = [trade for trade in api.trades() if trade.order.orderRef == "filled"]
                assert (done.orderStatus.status, done.order.permId) == ("Filled", perm)
                assert done.order.filledQuantity == 100
                (fill,) = api.fills()
                assert (fill.execution.permId, fill.execution.orderId) == (perm, number)
                assert fill.commissionReport.commission == 1
                assert [position.position for position in api.positions()] == [100]
                assert api.client.getReqId() > number + 1

    run(work())


def test_executions_are_filtered(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            api.placeOrder(stock(venue), market("BUY", 10))
            api.placeOrder(stock(venue, 1), market("SELL", 20))
            await step(venue, gateway, api)
            wanted = client_library().ExecutionFilter
            for chosen, shares in [
                (wanted(), [10, 20]),
                (wanted(symbol=name(venue, 1)), [20]),
                (wanted(side="BUY"), [10]),
                (wanted(clientId=9), []),
                (wanted(acctCode=ACCOUNT, secType="STK"), [10, 20]),
                (wanted(time="20240618-13:30:00"), [10, 20]),
                (wanted(time="20240618 16:00:00 US/Eastern"), []),
            ]:
                fills = await api.reqExecutionsAsync(chosen)
                assert [fill.execution.shares for fill in fills] == shares

    run(work())


def test_accounts_tell_values_summaries_and_profits(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(accounts=(ACCOUNT, "DU7654321")))
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            await api.reqAccountUpdatesAsync(ACCOUNT)
            summary = await api.accountSummaryAsync()
            shown = {(each.account, each.tag): each.value for each in summary}
            for account in (ACCOUNT, "DU7654321"):
                assert float(shown[account, "NetLiquidation"]) == 1e6
            assert "Currency" not in {tag for _, tag in shown}
            pnl = api.reqPnL(ACCOUNT)
            contract = venue.listing.contracts[0]
            single = api.reqPnLSingle(ACCOUNT, "", contract.con_id)
            api.placeOrder(stock(venue), market("BUY", 100))
            await round_trip(api)
            (position,) = venue.positions()
            unrealized = float(position.shares * (position.market_price - position.average_cost))
            assert single.position == 100
            assert single.unrealizedPnL == pytest.approx(unrealized)
            assert single.value == pytest.approx(float(100 * position.market_price))
            assert pnl.unrealizedPnL == pytest.approx(unrealized)
            api.cancelPnL(ACCOUNT)
            api.cancelPnLSingle(ACCOUNT, "", contract.con_id)
            values = {(each.account, each.tag): each.value for each in api.accountValues()}
            assert float(values[ACCOUNT, "GrossPositionValue"]) > 0
            assert float(values["DU7654321", "GrossPositionValue"]) == 0
            api.client.reqPositionsMulti(900, ACCOUNT, "")
            api.client.cancelPositionsMulti(900)
            api.client.reqAccountUpdatesMulti(901, "U1", "", False)
            api.client.reqAccountUpdates(False, ACCOUNT)
            await round_trip(api)
            assert codes(api) == [(901, 321)]

    run(work())


def test_an_id_in_use_is_refused_and_free_again_once_it_is_gone(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway:
            async with connected(gateway, 5):
                api = client_library().IB()
                heard: list[int] = []
                api.errorEvent += lambda number, code, message, contract: heard.append(code)
                attempt = asyncio.ensure_future(
                    api.connectAsync(gateway.host, gateway.port, clientId=5, timeout=10)
                )
                await until(lambda: 326 in heard)
                attempt.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await attempt
                assert len(gateway.sessions) == 1
            assert gateway.closings[0][1].startswith("326")
            await until(lambda: not gateway.sessions)
            async with connected(gateway, 5) as api:
                assert api.isConnected()

    run(work())


def test_read_only_refuses_orders_and_even_to_tell_which_are_open(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(read_only=True))
        async with gateway_of(venue, version) as gateway:
            async with connected(gateway, readonly=True) as api:
                assert codes(api) == []
                trade = api.placeOrder(stock(venue), limit("BUY", 10, 1.0))
                api.reqGlobalCancel()
                api.client.reqOpenOrders()
                await round_trip(api)
                assert codes(api) == [(trade.order.orderId, 321), (-1, 321), (-1, 321)]
            assert venue.open_orders(None) == ()

    run(work())


def test_more_lines_than_allowed_are_refused_and_freed_ones_can_be_used(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(lines=2))
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            first = api.reqMktData(stock(venue, 0))
            bars = api.reqRealTimeBars(stock(venue, 1), 5, "TRADES", True)
            api.reqMktData(stock(venue, 2))
            await round_trip(api)
            assert [code for _, code in codes(api)] == [101]
            api.cancelRealTimeBars(bars)
            again = api.reqMktData(stock(venue, 3))
            await round_trip(api)
            assert [code for _, code in codes(api)] == [101]
            assert again.bid == again.bid
            assert first.bid == first.bid

    run(work())


def test_lost_subscriptions_are_silent_until_they_are_made_again(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(lines=1))
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            ticker = api.reqMktData(stock(venue))
            await round_trip(api)
            venue.outlet.forget_subscriptions()
            before = (ticker.volume, ticker.last)
            while quote_of(venue).volume == before[0]:
                venue.advance()
            await round_trip(api)
            assert (ticker.volume, ticker.last) == before
            again = api.reqMktData(stock(venue))  # the only line is free again
            await step(venue, gateway, api)
            assert again.volume == quote_of(venue).volume
            assert codes(api) == []

    run(work())


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_is_dropped_notices(version: int, reset: bool) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, version) as gateway, connected(gateway) as api:
            gone: list[bool] = []
            api.disconnectedEvent += lambda: gone.append(True)
            for listener in venue.outlet.everyone:
                listener.disconnect(reset)
            await until(lambda: bool(gone))
            await until(lambda: not gateway.sessions)
            assert venue.outlet.everyone == []

    run(work())


def test_what_is_withheld_never_comes_and_the_rest_does(version: int) -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(withhold={62, 53}))
        async with gateway_of(venue, version) as gateway:
            async with connected(gateway, timeout=0.2) as api:
                assert api.isConnected()  # the client connects all the same: a trap
                assert api.accountValues()
            venue.traits.withhold.clear()
            venue.traits.swallow = {3}
            async with connected(gateway, 2) as api:
                trade = api.placeOrder(stock(venue), limit("BUY", 10, 1.0))
                await round_trip(api)
                assert trade.orderStatus.status == "PendingSubmit"
                assert venue.open_orders(None) == ()
                venue.traits.mute = True
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(api.reqCurrentTimeAsync(), 0.1)
                venue.traits.mute = False

    run(work())


@pytest.mark.skipif(not CLIENT, reason="no client library is installed")
@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(VERSIONS or [0]))
def test_an_order_comes_back_as_it_was_sent(data: st.DataObject, version: int) -> None:
    """Another client is told every field; what TWS fills in by itself is in `told_back`."""

    async def work() -> None:
        venue = echo_venue()
        async with gateway_of(venue, version) as gateway, connected(gateway, 1) as api:
            library = client_library()
            unset = library.util.UNSET_DOUBLE
            orders = data.draw(st.lists(odd_orders(library), min_size=1, max_size=4))
            wanted = []
            for order in orders:
                order.account = order.account or ACCOUNT
                wanted.append(told_back(order, version, unset))  # the client changes orders
                api.placeOrder(stock(venue), order)
            await round_trip(api)
            assert len(venue.echoes) == len(orders)
            async with connected(gateway, 2) as other:
                told = await other.reqAllOpenOrdersAsync()
                for trade, expected in zip(told, wanted, strict=True):
                    _same(trade.order, expected)
                done = await other.reqCompletedOrdersAsync(False)
                for trade, echo in zip(done, venue.echoes, strict=True):
                    _same_in_brief(trade.order, echo)

    run(work())


def _same(told: Any, wanted: dict[str, Any]) -> None:
    numbers = ("orderId", "clientId", "permId")
    for field, value in wanted.items():
        if field == "softDollarTier":
            assert (told.softDollarTier.name, told.softDollarTier.val) == (value.name, value.val)
        elif field not in numbers:
            assert getattr(told, field) == value, field


def _same_in_brief(told: Any, echo: SimOrder) -> None:
    assert (told.permId, told.action, told.orderType) == (
        echo.perm_id,
        echo.action,
        echo.order_type,
    )
    assert (told.orderRef, told.account, told.totalQuantity) == (
        echo.ref,
        echo.account,
        float(echo.quantity),
    )
    conditions = json.loads(echo.fields.get("conditions", "[]"))
    assert [each.condType for each in told.conditions] == [int(each[0]) for each in conditions]
    assert told.orderId == 0
