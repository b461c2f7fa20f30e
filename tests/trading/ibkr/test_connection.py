"""Connecting, losing the connection, and refusing what may not be traded."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from dpa.clock import FixedClock, SystemClock
from dpa.config import IbkrConfig
from dpa.errors import ConfigError, HaltError, TransientError
from dpa.simulation.tws.markets import planted_market
from dpa.simulation.tws.words import Traits
from dpa.trading.broker import LinkChanged, Notice
from dpa.trading.ibkr import client as client_module
from dpa.trading.ibkr.broker import IbkrBroker
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.codes import REFUSED, SILENT, UNREADABLE
from dpa.trading.ibkr.pace import Urgency
from dpa.trading.types import OrderState
from tests.trading.ibkr.rig import BOUND, VERSIONS, codes, fees, links, rig, run, venue_of


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_told_at_the_start_on_every_server_version(version: int) -> None:
    async def scenario() -> None:
        async with rig(version) as r:
            assert r.broker.connected
            assert r.broker.account == "DU1234567"
            snapshot = await r.broker.snapshot()
            assert snapshot.complete
            assert snapshot.missing == ()
            assert snapshot.account.nav == snapshot.account.cash == 1_000_000
            assert (snapshot.account.buying_power or 0) > 0
            assert snapshot.positions == snapshot.open_orders == snapshot.executions == ()
            assert await r.broker.alive(BOUND)

    run(scenario)


@pytest.mark.parametrize(
    ("accounts", "account", "words"),
    [
        (("U1234567",), None, "U1234567: no paper account"),
        (("DU1234567", "U7654321"), "DU1234567", "U7654321: no paper account"),
        (("DU1234567", "DU7654321"), None, "not clear which"),
        (("F1111111", "DU1234567"), None, "adviser"),
        (("DU1234567",), "DU9", "DU9 is not among"),
    ],
)
def test_accounts_that_may_not_be_traded_are_refused_before_the_first_order(
    accounts: tuple[str, ...], account: str | None, words: str
) -> None:  # faults 28, 29
    async def scenario() -> None:
        venue = venue_of(Traits(accounts=accounts))
        async with rig(venue=venue, connect=False, account=account) as r:
            with pytest.raises(HaltError, match=words):
                await r.broker.connect()
            assert not r.broker.connected
            assert REFUSED in codes(r.events)
            await r.until(lambda: not r.gateway.sessions)
            assert not list(venue.book.all)

    run(scenario)


def test_an_account_in_another_currency_is_refused_with_words() -> None:
    async def scenario() -> None:
        venue = venue_of()
        values = venue.accounts.values

        def in_yen(*asked: Any) -> Any:
            return tuple((tag, value, "JPY") for tag, value, _ in values(*asked))

        venue.accounts.values = in_yen  # type: ignore[method-assign]
        async with rig(venue=venue, connect=False) as r:
            with pytest.raises(HaltError, match="JPY"):
                await r.broker.connect()
            assert REFUSED in codes(r.events)
            assert not r.broker.connected

    run(scenario)


def test_an_advisers_paper_account_is_traded_when_it_is_named() -> None:  # fault 29
    async def scenario() -> None:
        venue = venue_of(Traits(accounts=("F1111111", "DU1234567", "DU7654321")))
        async with rig(venue=venue, account="DU7654321") as r:
            order = await r.place(shares=100)
            assert r.truth(order)[0].account == "DU7654321"
            snapshot = await r.broker.snapshot()
            assert [(p.account, p.shares) for p in snapshot.positions] == [("DU7654321", 100)]
            assert snapshot.account.name == "DU7654321"
            assert snapshot.account.cash is not None
            assert snapshot.account.cash < 1_000_000

    run(scenario)


def test_real_money_needs_the_account_number_written_out() -> None:  # fault 28
    async def scenario() -> None:
        venue = venue_of(Traits(accounts=("U1234567",)))
        async with rig(venue=venue, connect=False, arm_live="U1234568") as r:
            with pytest.raises(HaltError, match="U1234568"):
                await r.broker.connect()
        async with rig(venue=venue, arm_live="U1234567") as r:
            assert r.broker.account == "U1234567"

    run(scenario)


@pytest.mark.parametrize(
    ("account", "accounts", "words"),
    [
        ("DU1234567", ["DU1234567", "U1"], "U1: no paper account"),
        (None, ["DU7654321"], "was DU1234567 and is DU7654321"),
    ],
)
def test_an_account_that_changed_is_refused_when_connecting_again(
    account: str | None, accounts: list[str], words: str
) -> None:  # fault 28
    async def scenario() -> None:
        async with rig(account=account) as r:
            r.fault(do="accounts", accounts=accounts)
            r.fault(do="disconnect", reset=True)
            await r.until(lambda: REFUSED in codes(r.events))
            assert links(r.events)[-1] is False
            assert not r.broker.connected
            with pytest.raises(HaltError, match=words):
                await r.broker.place(r.order())

    run(scenario)


def test_a_client_id_that_is_in_use_fails_fast_and_is_taken_when_free() -> None:  # fault 17
    async def scenario() -> None:
        async with rig(connect=False) as r:
            r.fault(do="hold_id", client_id=r.broker.client.client_id)
            clock = SystemClock()
            began = clock.elapsed()
            with pytest.raises(TransientError, match="client id 17 is in use"):
                await r.broker.connect()
            assert clock.elapsed() - began < 2.0  # its timeout is 5 seconds
            r.venue.outlet.mischief.held_ids.clear()
            await r.broker.connect()
            r.fault(do="hold_id", client_id=r.broker.client.client_id)
            r.fault(do="disconnect")
            await r.until(lambda: not r.broker.connected)
            r.venue.outlet.mischief.held_ids.clear()
            await r.until(lambda: r.broker.connected)
            assert r.gateway.sessions[0].client_id == 17

    run(scenario)


def test_nobody_listens_is_said_in_words() -> None:
    async def scenario() -> None:
        async with rig(connect=False) as r:
            await r.gateway.stop()
            with pytest.raises(TransientError, match="nobody listens"):
                await r.broker.connect()

    run(scenario)


@pytest.mark.parametrize("reset", [True, False])
def test_after_a_loss_it_connects_again_with_higher_numbers(reset: bool) -> None:  # fault 12
    async def scenario() -> None:
        async with rig(order_id_above=500) as r:
            order = await r.place(away=True)
            assert order.order_id == 501
            r.fault(do="disconnect", reset=reset)
            await r.until(lambda: links(r.events) == [True, False, True])
            up = r.heard(LinkChanged)[-1]
            assert up.data_lost
            assert r.broker.next_order_id == 502
            snapshot = await r.broker.snapshot()
            assert [(w.ref, w.state) for w in snapshot.open_orders] == [
                (order.ref, OrderState.WORKING)
            ]
            await r.broker.cancel(order)
            await r.settle()
            assert r.said(order)[-1].state is OrderState.CANCELLED

    run(scenario)


def test_a_new_connection_keeps_in_mind_what_works_and_is_told_the_rest_again() -> None:
    async def scenario() -> None:
        async with rig() as r:
            working, filled = await r.place(away=True), await r.place(shares=100)
            await r.advance()
            fee = fees(await r.broker.snapshot())
            assert len(fee) == 1
            for night in (1, 2, 3):
                r.fault(do="disconnect", reset=True)
                up = [True] + [False, True] * night
                await r.until(lambda up=up: links(r.events) == up)  # type: ignore[misc]
                assert [known.ref for known in r.broker._orders.values()] == [working.ref]
                assert not r.broker._fees
                snapshot = await r.broker.snapshot()
                assert [fill.ref for fill in snapshot.executions] == [filled.ref]
                assert fees(snapshot) == fee
                assert [word.ref for word in snapshot.open_orders] == [working.ref]

    run(scenario)


def test_nothing_is_sent_while_the_connection_is_away() -> None:  # fault 12
    async def scenario() -> None:
        async with rig(retry_seconds=30.0) as r:
            order = r.order(away=True)
            r.fault(do="disconnect", reset=True)
            await r.until(lambda: not r.broker.connected)
            with pytest.raises(TransientError, match="nothing was sent"):
                await r.broker.place(order)
            with pytest.raises(TransientError, match="nothing was sent"):
                await r.broker.cancel(order)
            assert not list(r.venue.book.all)

    run(scenario)


def test_orders_that_wait_for_their_turn_are_given_back_when_the_connection_goes() -> None:
    async def scenario() -> None:
        async with rig(retry_seconds=30.0, paced=True) as r:
            orders = [r.order(away=True, number=1 + k) for k in range(80)]
            sending = [asyncio.create_task(r.broker.place(order)) for order in orders]
            await r.until(lambda: len(list(r.venue.book.all)) >= 30)
            r.fault(do="disconnect", reset=True)
            results = await asyncio.gather(*sending, return_exceptions=True)
            failed = [e for e in results if e is not None]
            assert failed
            assert all(isinstance(e, TransientError) for e in failed)
            arrived = {work.order.ref for work in r.venue.book.all}
            refused = {o.ref for o, e in zip(orders, results, strict=True) if e is not None}
            assert not arrived & refused

    run(scenario)


def test_a_gateway_that_goes_mute_is_noticed() -> None:  # fault 12
    async def scenario() -> None:
        async with rig(heartbeat_seconds=0.05, ask_seconds=0.2) as r:
            r.fault(do="mute")
            await r.until(lambda: SILENT in codes(r.events))
            assert links(r.events)[-1] is False
            r.undo_faults()
            await r.until(lambda: r.broker.connected)
            assert (await r.broker.snapshot()).complete

    run(scenario)


def test_no_answer_serves_another_question_after_one_was_lost() -> None:  # fault 12
    async def scenario() -> None:
        async with rig(heartbeat_seconds=600) as r:
            r.fault(do="mute")
            assert not await r.broker.alive(0.2)
            r.undo_faults()
            await r.until(lambda: links(r.events) == [True, False, True])
            assert SILENT in codes(r.events)
            for _ in range(2):
                assert await r.broker.alive(BOUND)

    run(scenario)


def test_open_orders_are_never_those_of_a_question_before() -> None:  # fault 14
    async def scenario() -> None:
        async with rig(heartbeat_seconds=600, ask_seconds=0.3) as r:
            r.venue.traits.lag_seconds = 1.0
            assert not (await r.broker.snapshot()).complete
            assert not (await r.broker.snapshot()).complete
            r.venue.traits.lag_seconds = 0.0
            await r.until(lambda: r.broker.connected)
            order = r.order(away=True)
            await r.broker.place(order)
            while not (snapshot := await r.broker.snapshot()).complete:
                await r.until(lambda: r.broker.connected)
            assert [word.ref for word in snapshot.open_orders] == [order.ref]

    run(scenario)


def test_an_answer_does_not_swallow_a_cancellation() -> None:
    async def scenario() -> None:
        async with rig() as r:
            callbacks = r.broker.client.callbacks
            r.fault(do="mute")
            asking = asyncio.create_task(r.broker.client.round_trip(BOUND))
            await r.until(lambda: bool(callbacks.times))
            callbacks.time_told(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            r.undo_faults()

    run(scenario)


def test_a_watch_that_fails_stops_trading(monkeypatch: pytest.MonkeyPatch) -> None:  # fault 32
    async def scenario() -> None:
        async with rig(heartbeat_seconds=0.01) as r:

            async def broken(seconds: float) -> bool:
                raise ValueError("a bug")

            monkeypatch.setattr(r.broker.client, "round_trip", broken)
            await r.until(lambda: UNREADABLE in codes(r.events))
            assert not r.broker.connected
            with pytest.raises(HaltError, match="a bug"):
                await r.broker.place(r.order())

    run(scenario)


def test_a_nightly_restart_with_rolled_back_numbers_repeats_none() -> None:  # fault 13
    async def scenario() -> None:
        async with rig(order_id_above=100) as r:
            before = [await r.place(away=True) for _ in range(3)]
            r.venue.book.roll_back_ids()
            r.fault(do="disconnect")
            await r.until(lambda: links(r.events) == [True, False, True])
            after = await r.place(away=True)
            assert after.order_id == max(o.order_id for o in before) + 1
            assert r.states(after) == [OrderState.WORKING]

    run(scenario)


@pytest.mark.parametrize(
    ("message", "part"),
    [
        (62, "positions"),
        (53, "open orders"),
        (102, "completed orders"),
        (55, "executions"),
        (64, "account"),
    ],
)
def test_a_part_that_does_not_end_is_missing_and_never_flat(message: int, part: str) -> None:
    async def scenario() -> None:  # fault 14
        async with rig(ask_seconds=0.2) as r:
            await r.place(shares=100)
            r.fault(do="withhold", messages=[message])
            snapshot = await r.broker.snapshot()
            assert not snapshot.complete
            assert snapshot.missing == (part,)
            r.undo_faults()
            again = await r.broker.snapshot()
            assert again.complete
            assert [p.shares for p in again.positions] == [100]
            assert len(again.executions) == len(again.completed_orders) == 1

    run(scenario)


def test_an_answer_that_came_too_late_is_not_taken_for_the_next_one() -> None:  # fault 14
    async def scenario() -> None:
        async with rig(ask_seconds=0.3) as r:
            await r.place(shares=100)
            r.venue.traits.lag_seconds = 0.5
            assert not (await r.broker.snapshot()).complete
            r.venue.traits.lag_seconds = 0.0
            for _ in range(3):
                snapshot = await r.broker.snapshot()
                if snapshot.complete:
                    assert [p.shares for p in snapshot.positions] == [100]
                    assert len(snapshot.completed_orders) == 1
            assert snapshot.complete

    run(scenario)


def test_yesterdays_fills_are_told_no_more_and_the_position_is() -> None:  # fault 15
    async def scenario() -> None:
        market = planted_market(seed=7, names=2, sessions=2, interval="30m")
        async with rig(venue=venue_of(market=market)) as r:
            await r.place(shares=100)
            today = r.clock.now().date()
            r.fault(do="disconnect")
            while r.clock.now().date() == today or not r.venue.hours.is_open(r.clock.now()):
                r.venue.advance()
            await r.until(lambda: links(r.events) == [True, False, True])
            snapshot = await r.broker.snapshot()
            assert snapshot.complete
            assert snapshot.executions == snapshot.completed_orders == ()
            assert [p.shares for p in snapshot.positions] == [100]

    run(scenario)


def test_hours_of_half_days_and_holidays_are_those_of_the_venue() -> None:  # fault 24
    async def scenario() -> None:
        market = planted_market(seed=7, names=1, sessions=1, interval="30m", start="2024-07-02")
        async with rig(venue=venue_of(market=market)) as r:
            (found,) = (await r.broker.instruments([r.symbol])).values()
            hours = [(a.isoformat()[:16], b.isoformat()[:16]) for a, b in found.liquid_hours]
            assert hours[:3] == [
                ("2024-07-02T13:30", "2024-07-02T20:00"),
                ("2024-07-03T13:30", "2024-07-03T17:00"),
                ("2024-07-05T13:30", "2024-07-05T20:00"),
            ]
            assert found.lot == 1
            assert found.has_close

    run(scenario)


def test_lost_servers_stop_orders_and_not_fills() -> None:  # fault 10
    async def scenario() -> None:
        async with rig() as r:
            order = await r.place(away=True)
            r.fault(do="say", code=1100, message="lost")
            await r.settle()
            assert not r.broker.connected
            with pytest.raises(TransientError, match="nothing was sent"):
                await r.broker.place(r.order())
            work = r.venue.book.find(17, order.order_id)
            assert work is not None
            r.venue.liquidate(r.broker.account, work.order.contract)
            r.fault(do="say", code=1102, message="back")
            await r.settle()
            assert r.broker.connected
            assert not r.heard(LinkChanged)[-1].data_lost
            assert r.states(await r.place())[-1] is OrderState.FILLED

    run(scenario)


def test_connecting_again_while_the_servers_are_away_keeps_the_socket_and_says_so() -> None:
    async def scenario() -> None:  # fault 10
        async with rig() as r:
            session = r.gateway.sessions[0]
            r.fault(do="connectivity", seconds=600)
            await r.settle()
            for _ in range(2):
                with pytest.raises(TransientError, match="lost its servers"):
                    await r.broker.connect()
            assert not r.broker.connected
            order = r.order(away=True)
            with pytest.raises(TransientError, match="nothing was sent"):
                await r.broker.place(order)
            r.fault(do="say", code=2104, message="a farm is well")
            await r.settle()
            assert not r.broker.connected
            assert not r.truth(order)
            r.fault(do="say", code=1102, message="back")
            await r.settle()
            assert r.broker.connected
            await r.broker.connect()
            assert list(r.gateway.sessions) == [session]
            assert links(r.events) == [True, False, True]

    run(scenario)


def test_a_new_connection_does_not_make_the_servers_come_back() -> None:  # faults 10, 12
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="connectivity", seconds=600)
            r.fault(do="disconnect", reset=True)
            await r.until(lambda: len(links(r.events)) >= 4)
            await r.settle()
            assert not any(links(r.events)[1:])
            assert not r.broker.connected
            assert r.broker.client.ready
            with pytest.raises(TransientError, match="lost its servers"):
                await r.broker.connect()
            r.fault(do="say", code=1101, message="back")
            await r.settle()
            assert r.broker.connected
            assert r.heard(LinkChanged)[-1].data_lost

    run(scenario)


def test_a_connection_that_was_closed_does_not_make_the_servers_come_back() -> None:
    async def scenario() -> None:  # faults 10, 12
        async with rig() as r:
            r.fault(do="connectivity", seconds=600)
            await r.settle()
            await r.broker.close()  # as after a silence
            with pytest.raises(TransientError, match="servers"):
                await r.broker.connect()
            assert not r.broker.connected
            r.venue.traits.servers = True
            await r.broker.connect()
            assert r.broker.connected

    run(scenario)


def test_servers_that_came_back_between_two_connections_are_seen_by_their_farms() -> None:
    async def scenario() -> None:  # faults 10, 12
        async with rig() as r:
            r.fault(do="say", code=1100, message="lost")
            await r.settle()
            r.fault(do="disconnect", reset=True)
            await r.until(lambda: r.broker.connected)
            assert r.states(await r.place())[-1] is OrderState.FILLED

    run(scenario)


def test_a_first_connection_to_a_tws_without_servers_is_tried_again() -> None:  # fault 10
    async def scenario() -> None:
        venue = venue_of()
        async with rig(venue=venue, connect=False) as r:
            venue.traits.servers = False
            with pytest.raises(TransientError, match="servers"):
                await r.broker.connect()
            assert not r.broker.connected
            client = TwsClient(r.broker.settings, r.clock, 0, client_id=999)
            killer = IbkrBroker(r.broker.settings, r.clock, client, only_cancels=True)
            await killer.connect()
            await killer.cancel_all()
            await killer.close()
            venue.traits.servers = True
            await r.broker.connect()
            assert r.broker.connected

    run(scenario)


@pytest.mark.parametrize(("code", "lost"), [(1101, True), (1102, False)])
def test_what_was_lost_with_the_servers_is_said(code: int, lost: bool) -> None:  # fault 11
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="say", code=1100, message="lost")
            r.fault(do="say", code=code, message="back")
            await r.settle()
            assert links(r.events) == [True, False, True]
            assert r.heard(LinkChanged)[-1].data_lost is lost

    run(scenario)


def test_a_read_only_interface_is_named_at_the_start() -> None:  # fault 30
    async def scenario() -> None:
        async with rig(venue=venue_of(Traits(read_only=True)), ask_seconds=0.2) as r:
            snapshot = await r.broker.snapshot()
            assert not snapshot.complete
            assert any("Read-Only" in n.message for n in r.heard(Notice))
            assert not r.broker.connected
            with pytest.raises(HaltError, match="Read-Only"):
                await r.broker.place(r.order())
            assert await r.broker.alive(BOUND)

    run(scenario)


def test_a_message_that_cannot_be_read_stops_trading() -> None:  # fault 32
    async def scenario() -> None:
        async with rig(unreadable=1) as r:
            r.gateway.sessions[0].send((3, "nonsense", "Submitted"))
            await r.settle()
            assert UNREADABLE in codes(r.events)
            assert not r.broker.connected
            with pytest.raises(HaltError):
                await r.broker.place(r.order())
            assert "unreadable messages" in (await r.broker.snapshot()).missing

    run(scenario)


def test_messages_keep_to_their_pace_and_cancels_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fault 19
    async def scenario() -> None:
        async with rig(paced=True) as r:
            order = await r.place(away=True)
            sent: list[str] = []
            call = r.broker.client.call

            def spy(method: str, *arguments: object) -> None:
                sent.append(method)
                call(method, *arguments)

            monkeypatch.setattr(r.broker.client, "call", spy)
            asked = [
                asyncio.create_task(r.broker.client.send(Urgency.DATA, "reqCurrentTime"))
                for _ in range(60)
            ]
            await asyncio.sleep(0)
            already, waiting = len(sent), r.broker.client.pace.waiting
            assert waiting > 0
            await r.broker.cancel(order)
            assert sent.index("cancelOrder") == already
            await asyncio.gather(*asked)
            await r.settle()
            assert 100 not in codes(r.events)
            assert r.said(order)[-1].state is OrderState.CANCELLED

    run(scenario)


def test_no_order_leaves_after_everything_was_cancelled() -> None:  # fault 33
    async def scenario() -> None:
        async with rig(paced=True) as r:
            orders = [r.order(away=True, number=1 + k) for k in range(60)]
            sending = [asyncio.create_task(r.broker.place(order)) for order in orders]
            await r.until(lambda: len(list(r.venue.book.all)) >= 20)
            await r.broker.cancel_all()
            results = await asyncio.gather(*sending, return_exceptions=True)
            assert any(isinstance(e, TransientError) for e in results)
            await r.settle()
            await r.settle()
            assert all(work.order.done for work in r.venue.book.all)
            assert (await r.broker.snapshot()).open_orders == ()

    run(scenario)


def test_whether_it_may_be_sent_is_asked_when_its_turn_has_come() -> None:  # fault 33
    async def scenario() -> None:
        async with rig(paced=True) as r:
            resting = await r.place(away=True)
            order, limit = r.order(away=True), r.order(away=True).limit
            assert limit is not None
            may_be_sent = True
            r.broker.client.pace.pause(0.1)
            sending = [
                asyncio.create_task(r.broker.place(order, lambda: may_be_sent)),
                asyncio.create_task(r.broker.modify(resting, limit / 2, lambda: may_be_sent)),
            ]
            await r.until(lambda: r.broker.client.pace.waiting == 2)
            may_be_sent = False
            for error in await asyncio.gather(*sending, return_exceptions=True):
                assert isinstance(error, TransientError)
            await r.settle()
            assert not r.truth(order)
            assert r.truth(resting)[0].limit == resting.limit

    run(scenario)


def test_a_kill_reaches_the_orders_of_an_account_that_may_not_be_traded() -> None:  # fault 33
    async def scenario() -> None:
        async with rig() as r:
            order = await r.place(away=True)
            r.fault(do="accounts", accounts=["DU1234567", "U7654321"])
            client = TwsClient(r.broker.settings, r.clock, 0, client_id=999)
            killer = IbkrBroker(r.broker.settings, r.clock, client, only_cancels=True)
            await killer.connect()
            with pytest.raises(HaltError, match="U7654321"):
                await killer.place(r.order())
            await killer.cancel_all()
            assert await killer.alive(BOUND)
            snapshot = await killer.snapshot()
            assert snapshot.complete
            assert snapshot.open_orders == ()
            assert r.truth(order)[0].status == "Cancelled"
            await killer.close()

    run(scenario)


def test_a_kill_leaves_the_orders_of_accounts_alone_that_may_not_be_traded() -> None:
    async def scenario() -> None:  # faults 28, 33
        async with rig(venue=venue_of(Traits(accounts=("DU1234567",)))) as r:
            order = await r.place(away=True)
            r.fault(do="accounts", accounts=["DU1234567", "U7654321"])
            armed = r.broker.settings.model_copy(update={"arm_live": "U7654321"})
            other = IbkrBroker(armed, r.clock, TwsClient(armed, r.clock, 0, client_id=5))
            await other.connect()
            await other.instruments([r.symbol])
            stop = r.order(away=True)
            stop = replace(stop, intent=replace(stop.intent, account="U7654321"))
            await other.place(stop)
            assert await other.alive(BOUND)
            client = TwsClient(r.broker.settings, r.clock, 0, client_id=999)
            killer = IbkrBroker(r.broker.settings, r.clock, client, only_cancels=True)
            await killer.connect()
            with pytest.raises(
                TransientError, match=f"not cancelled: DU1234567.*{order.ref}.*in use"
            ):
                await killer.cancel_all()  # its client is still connected, and is halted itself
            assert r.truth(order)[0].status == r.truth(stop)[0].status == "Submitted"
            await r.broker.close()
            with pytest.raises(TransientError, match=f"left alone: U7654321.*{stop.ref}") as told:
                await killer.cancel_all()
            assert order.ref not in str(told.value)
            assert r.truth(order)[0].status == "Cancelled"
            assert r.truth(stop)[0].status == "Submitted"
            await other.close()
            await killer.close()

    run(scenario)


def test_nothing_is_placed_while_tws_is_known_to_be_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fault 13
    async def scenario() -> None:
        async with rig() as r:
            order = r.order(away=True)
            night = FixedClock(datetime(2024, 6, 18, 5, 0, tzinfo=UTC))
            monkeypatch.setattr(r.broker, "_clock", night)
            with pytest.raises(TransientError, match="nightly maintenance"):
                await r.broker.place(order)
            assert not r.truth(order)

    run(scenario)


def test_a_live_port_and_another_machine_are_refused_without_a_connection() -> None:  # fault 28
    async def scenario() -> None:
        for settings, words in (
            ({"ibkr_port": 7496}, "real money"),
            ({"ibkr_port": 4001}, "real money"),
            ({"ibkr_host": "192.0.2.1"}, "not this machine"),
        ):
            broker = IbkrBroker(IbkrConfig(**settings), SystemClock())
            with pytest.raises(HaltError, match=words):
                await broker.connect()
            await broker.close()

    run(scenario)


def test_no_client_library_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LIBRARIES", ())
    with pytest.raises(ConfigError, match="dpa\\[ibkr\\]"):
        client_module.library_name()
