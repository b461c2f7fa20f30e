"""Faults 20 to 27 of data, sessions, prices, shares and margins, on the whole stack."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from dpa.trading.types import OrderState, Style
from tests.trading.faults.rig import Floor, floor, market, run

S = OrderState


def test_20_bars_that_pacing_refused_are_flagged_and_come_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(), traits=Traits(history_requests=2))
        async with floor(tmp_path, venue=venue, bar_source="history") as f:
            await f.go_on(630)
            assert len(f.bars[0].missing) == 2
            assert any("162" in words for words in f.feed.refusals.values())
            f.venue.traits.history_requests = 60
            await f.go_on(600)
            assert f.bars[-1].missing == ()
            wanted = f.intent()
            assert await f.submit(wanted) == []
            await f.go_on(20)
            f.check(wanted)
            f.check_running()

    run(scenario)


def test_20_a_query_that_tws_lost_is_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path, bar_source="history") as f:
            number = f.feed._numbers["reqHistoricalData", f.names[0]]
            f.fault(do="say", code=366, message="No historical data query", request_id=number)
            await f.go_on(330)
            await f.go_on(300)
            assert f.bars[-1].missing == ()
            assert f.feed._numbers["reqHistoricalData", f.names[0]] > number
            f.check_running()

    run(scenario)


def test_21_few_lines_go_to_what_is_held(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intent(100, f.names[3])
            await f.submit(wanted)
            await f.go_on(10)
            await f.die()
            f.venue.traits.lines = 4  # two names with quotes and bars
            await f.begin()
            await f.go_on(30)
            assert 101 in f.codes
            assert f.names[3] in f.quotes()
            assert len(f.quotes()) == 2
            refused = f.intent(100, f.feed.unfollowed[0], "d2")
            assert await f.submit(refused) == ["quote"]
            leave = f.intent(-100, f.names[3], "d3", Style.ADAPTIVE)
            assert await f.submit(leave) == []
            await f.go_on(60)
            f.check(wanted, leave, refused=[refused])
            assert f.dealer.flat
            f.check_running()

    run(scenario)


@pytest.mark.parametrize("how", ["delayed 10167", "354", "10197", "frozen"])
def test_22_data_that_are_not_live_are_never_traded_on(how: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        given = {"delayed_data": True} if how == "delayed 10167" else {}
        subscribed = how not in ("delayed 10167", "354")
        venue = SimVenue(market(), traits=Traits(subscribed=subscribed))
        async with floor(tmp_path, venue=venue, **given) as f:
            number = f.feed._numbers.get(("reqMktData", f.names[0]), 0)
            if how == "10197":
                f.fault(do="say", code=10197, message="elsewhere", request_id=number)
            if how == "frozen":
                f.gateway.sessions[0].send((58, 1, number, 2))
            await f.hear()
            if how == "delayed 10167":
                assert f.quotes()[f.names[0]].delayed, "shown"
            refused = f.intent(), f.intent(decision="d2", style=Style.ADAPTIVE)
            assert await f.submit(*refused) == ["quote", "quote"]
            await f.go_on(30)
            f.check(refused=refused)
            f.check_running()

    run(scenario)


@pytest.mark.parametrize("how", ["stale", "crossed", "zero", "none"])
def test_23_bad_quotes_stop_new_orders_until_they_are_good_again(how: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            held = f.intent()
            await f.submit(held)
            await f.go_on(5)
            f.fault(do="quotes", how=how, symbol=f.names[0], seconds=90)
            await f.hear()
            await f.go_on(60)
            refused = [f.intent(decision="d2"), f.intent(-50, decision="d3", style=Style.ADAPTIVE)]
            assert await f.submit(*refused) == ["quote", "quote"]
            other = f.intent(100, f.names[1])
            assert await f.submit(other) == []
            await f.go_on(60)
            again = f.intent(decision="d4")
            assert await f.submit(again) == []
            await f.go_on(20)
            f.check(held, other, again, refused=refused)
            f.check_running()

    run(scenario)


def test_23_a_halted_name_waits_until_it_trades_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            held = f.intent()
            await f.submit(held)
            await f.go_on(5)
            f.fault(do="halt", symbol=f.names[0], seconds=60)
            await f.go_on(15)
            refused = [f.intent(decision="d2"), f.intent(-100, decision="d3")]
            assert await f.submit(*refused) == ["quote", "quote"]
            await f.go_on(75)
            again = f.intent(-100, decision="d4")
            assert await f.submit(again) == []
            await f.go_on(20)
            f.check(held, again, refused=refused)
            assert f.dealer.flat
            f.check_running()

    run(scenario)


async def _at(f: Floor, moment: str) -> None:
    """Go to a moment, UTC."""
    then = datetime.fromisoformat(moment)
    f.venue.wake_at(then)
    while f.now < then:
        assert f.venue.advance()
    await f.hear()
    await f.beat()


@pytest.mark.parametrize(
    ("start", "closed", "opened"),
    [
        ("2024-06-17", "2024-06-17T13:29:59+00:00", "2024-06-17T13:30:05+00:00"),
        ("2024-07-03", "2024-07-03T17:05:00+00:00", "2024-07-05T13:30:05+00:00"),
        ("2024-06-14", "2024-06-15T15:00:00+00:00", "2024-06-17T13:30:05+00:00"),
        ("2024-03-08", "2024-03-11T13:29:59+00:00", "2024-03-11T13:30:05+00:00"),
        ("2024-03-08", "2024-03-08T14:29:59+00:00", "2024-03-08T14:30:05+00:00"),
    ],
    ids=["09:29:59", "half day 13:05", "Saturday", "after the clock changed", "before it"],
)
def test_24_orders_are_for_the_hours_of_the_venue(
    start: str, closed: str, opened: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(names=1, sessions=2, interval="30m", history=0, start=start))
        async with floor(tmp_path, venue=venue, opened=False) as f:
            await _at(f, closed)
            early = f.intent(reference=Decimal(100))
            assert await f.submit(early) == ["session"]
            await _at(f, opened)
            await f.wait_for(lambda: f.dealer.ready and bool(f.quotes()), 60)
            wanted = f.intent(decision="d2")
            assert await f.submit(wanted) == []
            await f.go_on(20)
            f.check(wanted, refused=[early])
            f.check_running()

    run(scenario)


def test_25_prices_go_out_on_the_tick_and_shares_are_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            odd = f.intent(7)
            half = replace(f.intent(decision="d2"), shares=Decimal("7.5"))
            price = f.quotes()[f.names[1]].mid
            assert price is not None
            off = f.intent(100, f.names[1], away=True)
            off = replace(off, limit=off.limit + Decimal("0.004") if off.limit else None)
            sold = f.intent(-100, f.names[2], away=True)
            sold = replace(sold, limit=sold.limit + Decimal("0.004") if sold.limit else None)
            stepping = f.intent(100, f.names[3], style=Style.ADAPTIVE)
            assert await f.submit(odd, half, off, sold, stepping) == ["lot"]
            for each, rounded in ((off, Decimal("-0.004")), (sold, Decimal("0.006"))):
                assert each.limit is not None
                assert f.at_venue(each)[0].limit == each.limit + rounded, "never past the limit"
            await f.go_on(90)
            assert 110 not in f.codes
            f.check(odd, off, sold, stepping, refused=[half])
            f.check_running()

    run(scenario)


@pytest.mark.parametrize(("increment", "lot"), [("10", 10), ("0.1", 1)])
def test_25_shares_are_multiples_of_what_the_venue_trades(
    increment: str, lot: int, tmp_path: Path
) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(), size_increment=Decimal(increment))
        async with floor(tmp_path, venue=venue) as f:
            assert f.dealer.instruments[f.names[0]].lot == lot
            wanted, odd = f.intent(100), f.intent(105, f.names[1])
            assert await f.submit(wanted, odd) == (["lot"] if lot == 10 else [])
            await f.go_on(20)
            f.check(wanted, *([odd] if lot == 1 else []), refused=[odd] if lot == 10 else [])
            f.check_running()

    run(scenario)


def test_26_a_short_that_cannot_be_borrowed_is_refused_and_one_that_waits_is_held(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            before = f.quotes()  # shares could be borrowed then
            f.fault(do="locate", symbol=f.names[0], shares=0)
            raced = f.intent(-100)
            await f.dealer.submit([raced], before)
            await f.hear()
            await f.beat()
            assert 404 in f.codes
            assert f.at_venue(raced)[0].why_held == "locate"
            assert f.order(raced).state is S.WORKING
            await f.go_on(70)
            assert f.order(raced).state is S.CANCELLED, "it does not wait for ever"
            refused = f.intent(-100, decision="d2")
            assert await f.submit(refused) == ["short"]
            assert f.dealer.flat
            f.check(raced, refused=[refused])
            f.check_running()

    run(scenario)


def test_26_a_held_short_is_filled_when_its_shares_are_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            before = f.quotes()
            f.fault(do="locate", symbol=f.names[0], shares=0, seconds=20)
            raced = f.intent(-100)
            await f.dealer.submit([raced], before)
            await f.go_on(40)
            assert f.order(raced).state is S.FILLED
            assert f.dealer.positions == {f.names[0]: Decimal(-100)}
            f.check(raced)
            f.check_running()

    run(scenario)


@pytest.mark.parametrize(
    "entry",
    [
        {"do": "margin", "factor": 1000, "seconds": 60},
        {
            "do": "reject",
            "code": 201,
            "message": "no",
            "times": 100,
            "what_if": True,
            "seconds": 60,
        },
        {"do": "swallow", "requests": [3], "seconds": 60},
    ],
    ids=["margin jumps", "the question is refused", "no answer"],
)
def test_27_what_takes_too_much_margin_or_cannot_be_asked_is_not_sent(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path, trading={"what_if": True}, ask_seconds=0.3) as f:
            held = f.intent()
            assert await f.submit(held) == []
            await f.go_on(10)
            f.fault(**entry)
            refused = f.intent(100, f.names[1])
            assert await f.submit(refused) == ["margin"]
            await f.go_on(30)
            f.check(held, refused=[refused])
            await f.go_on(60)
            again, leave = f.intent(100, f.names[1], "d2"), f.intent(-100, decision="d3")
            assert await f.submit(again, leave) == []
            await f.go_on(30)
            f.check(held, again, leave, refused=[refused])
            f.check_running()

    run(scenario)


def test_27_margin_that_jumps_refuses_at_the_venue_and_reductions_pass(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            held = f.intent(500)
            await f.submit(held)
            await f.go_on(10)
            f.fault(do="margin", factor=1000)
            more, leave = f.intent(100, f.names[1]), f.intent(-500, decision="d2")
            assert await f.submit(more, leave) == []
            await f.go_on(30)
            assert f.order(more).state is S.REJECTED
            assert f.order(more).reason.startswith("201: ")
            assert f.dealer.flat
            f.check(held, more, leave)
            f.check_running()

    run(scenario)


def test_24_nothing_survives_the_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(names=1, sessions=2, interval="30m", history=0))
        async with floor(tmp_path, venue=venue) as f:
            wanted = f.intent(away=True, seconds=86400)
            await f.submit(wanted)
            closes = f.now.replace(hour=20, minute=0, second=0)
            while f.now < closes + timedelta(minutes=1):
                f.venue.advance()
            await f.hear()
            await f.beat()
            assert f.order(wanted).state is S.CANCELLED
            f.check(wanted)
            f.check_running()

    run(scenario)
