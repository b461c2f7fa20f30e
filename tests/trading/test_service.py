"""A trader on a real gateway, through a real client and a socket, without Ray."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dpa.clock import SystemClock
from dpa.errors import UserError
from dpa.simulation.tws.control import Control
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.markets import Book, market_of
from dpa.simulation.tws.script import read_fault
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from dpa.trading.books_compared import differences
from dpa.trading.journal import Journal
from dpa.trading.places import Keeper, Places, Start
from dpa.trading.service import TradingService
from dpa.trading.status import status_on_disk
from dpa.trading.status_words import status_words
from dpa.trading.switch import Level, Switch
from tests.serving.http_server import TOKEN, serving
from tests.serving.served import BEGUN, Bundles, make_bundles, open_graph, served_settings

BARS = 16
HISTORY = 10  # sessions before the one traded
SETTINGS: dict[str, dict[str, Any]] = {
    "trading": {"broker": "ibkr", "bar_wait_seconds": 0.0},
    "alerts": {"alert_console": False},
    "serving": {"request_seconds": 60.0},
    "risk": {"max_orders_per_minute": 1000},
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Bundles:
    return make_bundles(tmp_path_factory.mktemp("served"))


class House:
    """A gateway that keeps time, and a graph behind HTTP."""

    def __init__(self, bundles: Bundles, folder: Path, url: str, **sections: Any) -> None:
        panel = bundles.panel.window(0, BEGUN + BARS)
        book = Book(half_spread_bps=0.1, quote_seconds=20)
        market = market_of(panel, HISTORY, None, book)
        self.venue = SimVenue(market, Traits(lines=100, messages_per_second=10**6))
        self.folder, self.url, self.sections = folder, url, sections

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Start]:
        token_file = self.folder / "gateway.token"
        token_file.write_text("a-token-of-the-gateway")
        async with Gateway(self.venue) as gateway:
            self.gateway = gateway
            control = Control(self.venue, "a-token-of-the-gateway", gateway.settled)
            await control.start()
            running = asyncio.create_task(control.run())
            try:
                yield self.start(gateway.port, control.port, token_file)
            finally:
                await control.close()
                await running
            gateway.check()

    def start(self, port: int, control_port: int, token_file: Path) -> Start:
        tree = {name: {**part, **self.sections.get(name, {})} for name, part in SETTINGS.items()}
        return Start(
            settings=served_settings(**tree, ibkr={"ibkr_port": port}),
            storage=self.folder,
            url=self.url,
            token=TOKEN,
            keeper=Keeper(host="127.0.0.1", port=control_port, token_file=token_file),
        )

    def differences(self) -> tuple[str, ...]:
        with Journal.reader(Places(self.folder).journal) as journal:
            assert journal.verify() == ()
            return differences(journal, self.venue.truth(), "DU1234567")


@pytest.fixture
def house(bundles: Bundles, tmp_path: Path) -> Iterator[House]:
    (tmp_path / "graph").mkdir()
    Places(tmp_path).make()
    graph = open_graph(bundles, tmp_path / "graph", served_settings(**SETTINGS))
    asyncio.run(graph.begin())
    with serving(graph) as url:
        yield House(bundles, tmp_path, url)


def service_of(start: Start) -> TradingService:
    return TradingService(start, uniform=lambda low, high: low)


async def until(found: Any, seconds: float = 50.0) -> None:
    async def wait() -> None:
        while not found():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), seconds)


def test_bars_become_orders_fills_and_books_that_are_the_gateways(house):
    async def go() -> dict[str, Any]:
        async with house.open() as start:
            service = service_of(start)
            await service.run()
            assert service.state == "ended", service.why
            status = service.status()
            json.dumps(status)
            return status

    status = asyncio.run(go())
    assert status["bars"] >= BARS
    assert status["level"] == "RUNNING"  # what the client cannot read halts
    assert status["failures"] == 0
    assert status["fills"] > 0
    assert status["refused"] == {}
    assert house.differences() == ()
    assert {limit["name"] for limit in status["limits"]} >= {"daily loss", "gross exposure"}
    assert "N0" in status_words(status) or not status["positions"]
    kept = status_on_disk(Places(house.folder), "nobody answers")
    assert not kept["running"]
    for name in ("cash", "fees", "fills", "realised", "account", "pnl_total"):
        assert kept[name] == pytest.approx(status[name], abs=0.02) or kept[name] == status[name]
    assert "nobody answers" in status_words(kept)


def test_a_person_pauses_resumes_and_kills_while_it_trades(house):
    async def go() -> None:
        async with house.open() as start:
            service = service_of(start)
            running = asyncio.create_task(service.run())
            await until(lambda: service.status().get("bars", 0) >= 3)
            paused = await service.command("pause", "ann", "a look")
            assert (paused["level"], paused["level_by"]) == ("PAUSED", "ann")
            await until(lambda: service.status()["bars"] >= 5)
            decided = service.status()["decision"]
            assert decided["binds"] in ("reductions", "nothing")
            with pytest.raises(UserError, match="is PAUSED by now"):
                await service.command("resume", "ann", "seen enough", "something else")
            for name in ("resume", "adopt"):
                with pytest.raises(UserError, match="nobody said what was seen"):
                    await service.command(name, "ann", "seen enough")
            with pytest.raises(UserError, match="changed since"):
                await service.command("adopt", "ann", "a look", "something else")
            mark = service.status()["level_mark"]
            assert (await service.command("resume", "ann", "fine", mark))["level"] == "RUNNING"
            killed = await service.command("kill", "ann", "enough")
            assert killed["level"] == "HALTED"
            assert killed["killed"]["verified"]
            fills = len(house.venue.truth()["executions"])
            await running
            assert service.state == "ended"
            assert len(house.venue.truth()["executions"]) == fills

    asyncio.run(go())
    assert Switch(Places(house.folder).switch, SystemClock()).level is Level.HALTED
    assert house.differences() == ()
    with Journal.reader(Places(house.folder).journal) as journal:
        levels = [event.facts["level"] for event in journal.events("level")]
    assert levels[:1] == ["PAUSED"]
    assert levels[-1:] == ["HALTED"]


def test_a_second_trader_of_the_same_storage_is_refused_and_says_by_whom(house):
    async def go() -> None:
        async with house.open() as start:
            first, second = service_of(start), service_of(start)
            running = asyncio.create_task(first.run())
            await first.settled.wait()
            await second.run()
            assert second.state == "refused"
            assert "another trader is running, trader (process" in second.why
            assert first.state == "trading"
            await first.stop()
            await running
            assert first.state == "stopped"
            third = service_of(start)
            running = asyncio.create_task(third.run())
            await third.settled.wait()
            assert third.state == "trading", third.why
            await third.stop()
            await running

    asyncio.run(go())
    assert house.differences() == ()


def test_stopping_leaves_no_order_working(house):
    resting = {"style": "limit", "collar_bps": 0.01, "order_seconds": 250.0}  # at the mid
    house.sections = {"trading": resting}

    async def go() -> None:
        async with house.open() as start:
            service = service_of(start)
            running = asyncio.create_task(service.run())
            await service.settled.wait()
            await until(lambda: running.done() or service.status()["orders"])
            assert service.state == "trading"
            await service.stop()
            await running
            assert (service.state, service.why) == ("stopped", "")
            over = {"Filled", "Cancelled", "ApiCancelled", "Inactive"}
            assert {order["status"] for order in house.venue.truth()["orders"]} <= over

    asyncio.run(go())
    assert house.differences() == ()


@pytest.mark.parametrize(
    ("ibkr", "words"),
    [
        ({"ibkr_port": 7496}, "where TWS trades real money"),
        ({"account": "DU7"}, "is not among the accounts"),
    ],
)
def test_where_nobody_may_trade_it_refuses_in_words(house, ibkr, words):
    async def go() -> None:
        async with house.open() as start:
            settings = start.settings
            changed = settings.ibkr.model_copy(update=ibkr)
            service = service_of(
                start.model_copy(update={"settings": settings.model_copy(update={"ibkr": changed})})
            )
            await service.run()
            assert service.state == "refused"
            assert words in service.why

    asyncio.run(go())


def test_it_waits_for_a_broker_that_is_away_and_can_be_stopped(house):
    async def go() -> None:
        async with house.open() as start:
            pass
        service = service_of(start.model_copy(update={"keeper": None}))
        running = asyncio.create_task(service.run())
        await service.settled.wait()
        assert service.state == "waiting"
        assert "nobody listens" in service.why
        await service.stop()
        await running
        assert service.state == "stopped"

    asyncio.run(go())


def test_a_kill_while_it_waits_cancels_what_an_earlier_trader_left(house, bundles):
    async def go() -> None:
        async with house.open() as start:
            order = {"do": "manual", "symbol": bundles.panel.names[0], "side": "buy"}
            house.venue.faults.add(read_fault({**order, "shares": 10, "limit": "1.00"}))
            nobody = start.model_copy(update={"keeper": None, "url": "http://127.0.0.1:9"})
            service = service_of(nobody)
            running = asyncio.create_task(service.run())
            await service.settled.wait()
            assert service.state == "waiting"
            assert len(house.venue.book.live()) == 1
            found = await service.command("kill", "ann", "enough")
            assert found["level"] == "HALTED"
            assert found["killed"]["verified"]
            assert house.venue.book.live() == []
            await service.stop()
            await running

    asyncio.run(go())


def test_a_kill_without_a_broker_says_that_nothing_is_verified(house):
    async def go() -> None:
        async with house.open() as start:
            pass
        service = service_of(start.model_copy(update={"keeper": None}))
        running = asyncio.create_task(service.run())
        await service.settled.wait()
        found = await service.command("kill", "ann", "enough")
        assert found["level"] == "HALTED"
        assert not found["killed"]["verified"]
        assert "nobody listens" in found["killed"]["problems"][0]
        await service.stop()
        await running

    asyncio.run(go())


def test_a_login_that_changed_before_a_start_halts_until_a_person_has_looked(house):
    async def go(accounts: tuple[str, ...]) -> TradingService:
        house.venue.traits.accounts = accounts
        async with house.open() as start:
            service = service_of(start)
            running = asyncio.create_task(service.run())
            await service.settled.wait()
            await service.stop()
            await running
        return service

    switch = Switch(Places(house.folder).switch, SystemClock())
    assert asyncio.run(go(("U7654321",))).state == "refused"
    assert switch.level is Level.RUNNING, "nothing was ever traded here"
    assert asyncio.run(go(("DU1234567",))).state == "stopped"
    refused = asyncio.run(go(("U7654321",)))
    assert refused.state == "refused"
    assert switch.level is Level.HALTED
    assert "U7654321" in switch.read().why


def test_a_keeper_of_time_that_goes_away_ends_the_trader_and_halts_nothing(house):
    async def go() -> TradingService:
        async with house.open() as start:
            service = service_of(start)
            running = asyncio.create_task(service.run())
            await until(lambda: service.status().get("bars", 0) >= 2)
        await running
        return service

    service = asyncio.run(go())
    assert service.state == "refused"
    assert "keeps time" in service.why
    assert Switch(Places(house.folder).switch, SystemClock()).level is Level.RUNNING
