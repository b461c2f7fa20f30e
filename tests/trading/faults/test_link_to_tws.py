"""Faults 10 to 15, 17 and 19 of the connection, on the whole stack."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dpa.errors import TransientError
from dpa.simulation.tws.venue import SimVenue
from dpa.trading.events import Alert
from dpa.trading.switch import Level
from dpa.trading.types import OrderState
from tests.trading.faults.rig import Floor, floor, market, run

S = OrderState
NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize("data_lost", [False, True])
def test_10_without_servers_nothing_is_sent_and_fills_count(
    data_lost: bool, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="sizes", size=100, symbol=f.names[0])
            works, waits = f.intent(3000), f.intent(100, f.names[1])
            await f.submit(works)
            await f.beat()
            before = f.dealer.positions[f.names[0]]
            f.fault(do="connectivity", seconds=20, data_lost=data_lost)
            await f.hear()
            assert await f.submit(waits) == ["not-ready"]
            await f.go_on(15)
            assert f.dealer.positions[f.names[0]] > before, "fills count while it is away"
            assert not f.dealer.ready
            await f.go_on(30)
            assert f.dealer.ready
            again = f.intent(100, f.names[1], "d2")
            assert await f.submit(again) == []
            await f.go_on(60)
            f.check(works, again, refused=[waits])
            f.check_running()

    run(scenario)


@pytest.mark.parametrize(
    "entry",
    [
        {"do": "connectivity", "data_lost": True},
        {"do": "connectivity"},
        {"do": "farm"},
    ],
    ids=["1101", "1102", "2104"],
)
def test_11_quotes_count_again_only_when_they_move_again(
    entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            asked: list[str] = []
            call = f.broker.client.call

            def spy(method: str, *arguments: Any) -> None:
                asked.append(method)
                call(method, *arguments)

            monkeypatch.setattr(f.broker.client, "call", spy)
            f.fault(seconds=20, **entry)
            await f.hear()
            refused = f.intent()
            code = "quote" if entry["do"] == "farm" else "not-ready"
            assert await f.submit(refused) == [code]
            await f.go_on(40)
            bars = asked.count("reqRealTimeBars") + asked.count("reqHistoricalData")
            assert asked.count("reqMktData") == len(f.names), "both sides, anew"
            assert bars == (len(f.names) if entry.get("data_lost") else 0)
            if entry["do"] == "connectivity":
                assert "reqAllOpenOrders" in asked, "reconciled before anything else"
            assert all(quote.sound for quote in f.quotes().values())
            wanted = f.intent(decision="d2")
            assert await f.submit(wanted) == []
            await f.go_on(30)
            f.check(wanted, refused=[refused])
            f.check_running()

    run(scenario)


def test_11_silence_after_1102_is_ended_by_subscribing_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.fault(do="connectivity", seconds=5)
            f.fault(do="withhold", messages=[1, 2, 45, 58], seconds=45)
            await f.go_on(20)
            assert not any(quote.sound for quote in f.quotes().values())
            await f.wait_for(lambda: sum(q.sound for q in f.quotes().values()) == len(f.names), 90)
            wanted = f.intent()
            assert await f.submit(wanted) == []
            await f.go_on(20)
            f.check(wanted)
            f.check_running()

    run(scenario)


AWAY: dict[str, dict[str, Any]] = {
    "reset": {"do": "disconnect", "reset": True},
    "goodbye": {"do": "disconnect"},
    "restart": {"do": "restart", "seconds": 20},
    "mute": {"do": "mute", "seconds": 25},
}


@pytest.mark.parametrize("how", AWAY)
def test_12_a_connection_that_is_lost_or_silent_is_made_anew_and_reconciled_first(
    how: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            if how == "mute":
                f.hurry(0.15)
            resting, taken = f.intent(away=True, seconds=600), f.intent(100, f.names[1])
            await f.submit(resting)
            f.fault(when="order", **AWAY[how])
            await f.submit(taken)  # the bytes arrive, the answer does not
            await f.go_on(15)
            if how in ("mute", "restart"):
                assert not f.dealer.ready
                refused = f.intent(100, f.names[2])
                assert await f.submit(refused) == ["not-ready"]
            await f.wait_for(lambda: f.dealer.ready, 120)
            await f.go_on(60)
            assert f.gateway.sessions[0].client_id == f.broker.client.client_id
            assert f.order(taken).state is S.FILLED
            assert f.order(resting).state is S.WORKING
            f.check(resting, taken)
            f.check_running()

    run(scenario)


def test_12_pauses_between_attempts_grow_and_differ(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path, retry_seconds=60.0) as f:
            jitter = iter([0.0, 1.0] * 50)
            f.broker._jitter = lambda: next(jitter)
            attempts: list[datetime] = []
            opens = f.broker.client.open

            async def spy() -> None:
                attempts.append(f.now)
                await opens()

            f.broker.client.open = spy  # type: ignore[method-assign]
            f.fault(do="restart", seconds=100)
            await f.hear()
            await f.wait_for(lambda: f.dealer.ready, 400)
            pauses = [(b - a).total_seconds() for a, b in pairwise(attempts)]
            assert len(pauses) >= 4
            assert pauses[-1] > pauses[0]
            assert max(pauses) <= 60
            f.check_running()

    run(scenario)


def test_13_a_restart_in_mid_batch_with_numbers_rolled_back_repeats_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            first = [f.intent(100, name, "d1") for name in f.names]
            f.fault(do="restart", seconds=60, ids_rolled_back=True, when="order", count=2)
            await f.submit(*first)
            await f.go_on(20)
            assert not f.dealer.ready
            await f.wait_for(lambda: f.dealer.ready, 200)
            await f.go_on(90)
            second = [f.intent(100, name, "d2") for name in f.names]
            await f.submit(*second)
            await f.go_on(90)
            numbers = [w.order.order_id for w in f.venue.book.all]
            assert numbers == sorted(set(numbers))
            reached = [each for each in first if f.at_venue(each)]
            late = [each for each in first if not f.at_venue(each)]
            assert len(reached) >= 2
            assert all(f.order(each).state in (S.ABSENT, S.CANCELLED) for each in late)
            f.check(*reached, *second, refused=late)
            f.check_running()

    run(scenario)


@pytest.mark.parametrize(
    ("clock", "words"), [("23:46", "daily restart"), ("00:30", "nightly maintenance")]
)
def test_13_nothing_is_sent_while_tws_is_known_to_be_away(
    clock: str, words: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(names=1, sessions=2, interval="30m"))
        async with floor(tmp_path, venue=venue) as f:
            wanted = f.intent(away=True, seconds=86400)
            await f.submit(wanted)
            order = f.order(wanted)
            moment = datetime.combine(
                f.now.astimezone(NEW_YORK).date() + timedelta(days=clock < "12"),
                datetime.strptime(clock, "%H:%M").replace(tzinfo=UTC).time(),
                NEW_YORK,
            )
            f.venue.wake_at(moment)
            while f.now < moment:
                f.venue.advance()
            assert await f.submit(f.intent(decision="d2")) != []
            with pytest.raises(TransientError, match=words):
                await f.broker.place(order)
            assert len(f.at_venue(wanted)) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("message", "part"),
    [(61, ""), (62, "positions"), (53, "open orders"), (55, "executions"), (102, "completed")],
)
def test_14_a_part_lost_at_the_start_halts_and_is_never_flat(
    message: int, part: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted, resting = f.intent(), f.intent(100, f.names[1], away=True, seconds=600)
            await f.submit(wanted, resting)
            await f.go_on(20)
            await f.die()
            f.ibkr["ask_seconds"] = 0.3
            f.venue.traits.withhold.add(message)
            found = await f.begin()
            assert found.complete == (message == 61)
            assert part in " ".join(found.missing)
            assert f.dealer.positions == {f.names[0]: Decimal(100)}
            assert f.switch.level is Level.HALTED
            assert "halted" in f.alerts
            assert await f.submit(f.intent(-100, decision="d2")) == ["level"]
            f.venue.traits.withhold.clear()
            f.ibkr.clear()
            await f.check_halt()
            f.switch.resume("Ada", "the answer was lost on the way", f.switch.read())
            await f.go_on(30)
            leave = f.intent(-100, decision="d3")
            assert await f.submit(leave) == []
            await f.go_on(30)
            assert f.held() == 0
            f.check(wanted, resting, leave)

    run(scenario)


async def _next_session(f: Floor) -> None:
    """Without a trader, until the market has opened on another day."""
    today = f.now.date()
    while f.now.date() == today or not f.venue.hours.is_open(f.now):
        f.venue.advance()
    for _ in range(3):
        f.venue.advance()


def test_15_what_was_filled_yesterday_is_in_the_ledger_and_asked_of_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(names=2, sessions=2))
        async with floor(tmp_path, venue=venue) as f:
            wanted = f.intent()
            await f.submit(wanted)
            await f.go_on(20)
            await f.die()
            await _next_session(f)
            found = await f.begin()
            assert found.clean
            assert f.venue.executions() == ()
            f.check(wanted)
            leave = f.intent(-100, decision="d2")
            assert await f.submit(leave) == []
            await f.go_on(20)
            assert f.held() == 0
            f.check(wanted, leave)
            f.check_running()

    run(scenario)


def test_15_what_was_filled_yesterday_unseen_is_a_break_that_halts(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(names=2, sessions=2))
        async with floor(tmp_path, venue=venue) as f:
            f.fault(do="sizes", size=100)
            wanted = f.intent(900)
            await f.submit(wanted)
            await f.beat()
            seen = f.dealer.positions[f.names[0]]
            await f.die()
            await _next_session(f)
            assert f.held() == 900 > seen
            await f.begin()
            await f.go_on(30)
            assert f.switch.level is Level.HALTED
            assert any("900" in e.what for e in f.told if isinstance(e, Alert))
            assert f.dealer.positions[f.names[0]] == seen, "nothing is made up"
            assert len(f.at_venue(wanted)) == 1
            await f.check_halt()
            await f.go_on(30)
            await f.dealer.adopt("Ada", "filled while we were away")
            assert f.dealer.positions[f.names[0]] == 900
            assert f.switch.level is Level.HALTED
            assert f.dealer.ledger.cash == f.venue.accounts[f.broker.account].cash

    run(scenario)


def test_17_a_client_id_in_use_fails_fast_and_the_same_one_is_taken_when_free(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            resting = f.intent(away=True, seconds=600)
            await f.submit(resting)
            await f.die()
            f.fault(do="hold_id", client_id=17, seconds=60)
            began = f.clock.elapsed()
            with pytest.raises(TransientError, match="client id 17 is in use"):
                await f.begin()
            assert f.clock.elapsed() - began < 2, "its timeout is 5 seconds"
            await f.die()
            f.venue.wake_at(f.now + timedelta(seconds=61))
            until = f.now + timedelta(seconds=61)
            while f.now < until:
                f.venue.advance()
            assert (await f.begin()).clean
            await f.go_on(20)
            f.fault(do="hold_id", client_id=17, seconds=60)
            f.fault(do="disconnect")
            await f.go_on(30)
            assert not f.dealer.ready
            await f.wait_for(lambda: f.dealer.ready, 120)
            assert f.gateway.sessions[0].client_id == 17
            wanted = f.intent(100, f.names[1])
            assert await f.submit(wanted) == []
            await f.go_on(20)
            f.check(resting, wanted)
            f.check_running()

    run(scenario)


def test_19_a_flood_keeps_to_the_rate_cancels_go_first_and_old_orders_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(names=40))
        limits = {"messages_per_second": 5, "queue_seconds": 5}
        async with floor(tmp_path, venue=venue, trading=limits) as f:
            sent: list[tuple[float, str]] = []
            place, cancel = venue.place, venue.cancel
            began = f.now

            def placing(*arguments: Any) -> Any:
                sent.append(((f.now - began).total_seconds(), "place"))
                return place(*arguments)

            def cancelling(*arguments: Any) -> Any:
                sent.append(((f.now - began).total_seconds(), "cancel"))
                return cancel(*arguments)

            monkeypatch.setattr(venue, "place", placing)
            monkeypatch.setattr(venue, "cancel", cancelling)
            wanted = [f.intent(100, name, away=True, seconds=600) for name in f.names]
            await f.submit(*wanted)
            for _ in range(4):
                await f.go_on(0.5)
            first = len(sent)
            await f.dealer.cancel([f.order(each) for each in wanted[:3]])
            for _ in range(16):
                await f.go_on(0.5)
            after = [kind for _, kind in sent[first:]]
            assert after[:3] == ["cancel"] * 3, "cancels overtake what waits"
            for moment, _ in sent:
                assert sum(moment <= at < moment + 1 for at, _ in sent) <= 2 * 5
            assert len(sent) <= 5 * 10 + 5
            assert "queue" in f.refusals
            given_up = [each for each in wanted if f.order(each).state is S.CANCELLED]
            never = [each for each in given_up if not f.at_venue(each)]
            assert never
            there = [each for each in wanted if each not in never]
            f.check(*there, refused=never)
            f.check_running()

    run(scenario)
