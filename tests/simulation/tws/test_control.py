"""The control channel over real sockets: who has the token is heard, who attends is waited for."""

import asyncio
import contextlib
import json
import re
import stat
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from dpa.errors import ConfigError
from dpa.simulation.tws.agenda import VenueClock
from dpa.simulation.tws.control import Control, write_token
from dpa.simulation.tws.venue import BEFORE, SimVenue
from tests.simulation.tws.venues import Ear, fields, flat_market, market

PATIENCE = 10.0  # seconds, of a failure only


class Line:
    """A client of the control channel."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, control, token="secret"):
        line = cls(*await asyncio.open_connection("127.0.0.1", control.port))
        line.say(token=token)
        return line

    def say(self, **said):
        self.writer.write(json.dumps(said).encode() + b"\n")

    async def hear(self):
        async with asyncio.timeout(PATIENCE):
            text = await self.reader.readline()
        return json.loads(text) if text else None

    async def ask(self, **said):
        self.say(**said)
        return await self.hear()

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def with_control(talk, made=None, stepped=True, clock=None, sleep=asyncio.sleep):
    """Run `talk(control, venue)` beside a control channel."""

    async def main():
        venue = SimVenue(made or market(names=2), clock=clock)
        control = Control(venue, "secret", stepped=stepped, sleep=sleep)
        await control.start()
        running = asyncio.ensure_future(control.run())
        try:
            return await talk(control, venue)
        finally:
            control.stop()
            await asyncio.wait_for(running, PATIENCE)
            await control.close()

    return asyncio.run(main())


def test_without_the_token_nothing_is_heard():
    async def talk(control, venue):
        line = await Line.open(control, token="wrong")
        told = await line.hear()
        end = await line.hear()
        await line.close()
        return told, end

    told, end = with_control(talk)
    assert told["ok"] is False
    assert "token" in told["error"]
    assert end is None


def test_time_stands_still_until_all_who_attend_are_done():
    async def talk(control, venue):
        first, second = await Line.open(control), await Line.open(control)
        first.say(op="attend")
        told = await first.hear()
        begun = venue.clock.now()
        assert told == {"op": "time", "now": begun.isoformat(), "ended": False}
        second.say(op="attend")
        assert (await second.hear())["now"] == begun.isoformat()
        first.say(op="done", next=None)
        assert (await first.ask(op="state"))["ok"]  # a round trip later it still stands
        assert venue.clock.now() == begun
        second.say(op="done", next=(begun + timedelta(seconds=7)).isoformat())
        now = datetime.fromisoformat((await first.hear())["now"])
        assert now == begun + timedelta(seconds=7)
        assert (await second.hear())["now"] == now.isoformat()
        await first.close()  # killed: it is not waited for
        second.say(op="done")
        assert datetime.fromisoformat((await second.hear())["now"]) > now
        await second.close()

    with_control(talk)


def test_a_whole_session_is_attended_to_its_end():
    async def talk(control, venue):
        line = await Line.open(control)
        line.say(op="attend")
        moments = []
        while not (told := await line.hear())["ended"]:
            moments.append(told["now"])
            line.say(op="done", next=None)
        await line.close()
        return [*moments, told["now"]], venue

    moments, venue = with_control(talk)
    assert moments == sorted(set(moments))
    assert moments[-1] == venue.ends_at.isoformat()
    closes = [moment.isoformat() for moment in venue.market.closes]
    assert set(closes) <= set(moments)


def test_somebody_who_comes_after_the_end_is_told():
    async def talk(control, venue):
        while venue.advance():
            pass
        told = []
        for _ in range(2):
            line = await Line.open(control)
            line.say(op="attend")
            told.append(await line.hear())
            line.say(op="done")
            await line.ask(op="state")
            await line.close()
        return told

    assert [each["ended"] for each in with_control(talk)] == [True, True]


def test_what_is_told_was_written_to_the_sockets_before():
    order = []

    async def settled():
        order.append("settled")

    async def main():
        venue = SimVenue(market(names=2))
        control = Control(venue, "secret", settled)
        await control.start()
        running = asyncio.ensure_future(control.run())
        line = await Line.open(control)
        line.say(op="attend")
        for _ in range(3):
            await line.hear()
            order.append("told")
            line.say(op="done")
        await line.ask(op="stop")
        await asyncio.wait_for(running, PATIENCE)
        await control.close()
        await line.close()

    asyncio.run(main())
    assert order[:6] == ["settled", "told"] * 3


def test_step_quote_halt_fault_state_and_stop():
    async def talk(control, venue):
        ear = Ear()
        venue.attach(ear)
        line = await Line.open(control)
        until = venue.market.starts_at.isoformat()
        assert await line.ask(op="step", until=until) == {"ok": True, "now": until, "ended": False}
        assert (await line.ask(op="step"))["now"] > until
        told = (await line.ask(op="quote", symbol="N0", bid="9.99", ask="10.01", ask_size=300))[
            "quote"
        ]
        assert (told["bid"], told["ask"], told["ask_size"]) == ("9.99", "10.01", 300)
        venue.place(1, 1, venue.find(0, "N0"), fields(limit="10.01"))
        state = (await line.ask(op="state"))["state"]
        assert state["orders"][0]["status"] == "Filled"
        assert state["executions"][0]["price"] == "10.01"
        assert Decimal(state["accounts"]["DU1234567"]["cash"]) == Decimal("998998.00")
        assert state["clients"] == [1]
        assert (await line.ask(op="halt", symbol="N1", on=True))["quote"]["halted"] is True
        assert (await line.ask(op="halt", symbol="N1", on=False))["quote"]["halted"] is False
        begun = await line.ask(op="fault", fault={"do": "say", "code": 1100})
        assert (begun, ear.codes) == ({"ok": True, "begun": {"say": 1}}, [1100])
        assert await line.ask(op="stop") == {"ok": True}
        await line.close()

    with_control(talk, flat_market(names=2))


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"op": "jump"}, "op: 'jump' is not known; use state, quote, fault, halt, step, stop"),
        ({"op": "state", "all": 1}, "all: is not known here"),
        ({"op": "quote", "symbol": "ZZ"}, "'ZZ' is not listed"),
        ({"op": "quote", "symbol": "N0", "bid": "x"}, "bid: 'x' is not a number"),
        ({"op": "quote", "symbol": "N0", "bid": -1}, "bid: -1 cannot be"),
        ({"op": "fault"}, "fault: is missing"),
        ({"op": "fault", "fault": {"do": "halt"}}, r"symbol \(halt\): Field required"),
        ({"op": "step", "count": 0}, "count: 0 is not a number above 0"),
        ({"op": "step", "until": "soon"}, "until: 'soon' is not a moment"),
        ({"op": "step", "until": "2024-06-17T10:00"}, "has no time zone"),
        ({"op": "done"}, "done without a moment"),
    ],
)
def test_a_mistake_is_answered_with_its_cure_and_changes_nothing(said, what):
    async def talk(control, venue):
        line = await Line.open(control)
        line.writer.write(b"not json\n")
        assert "not JSON" in (await line.hear())["error"]
        answer = await line.ask(**said)
        alive = await line.ask(op="state")
        await line.close()
        return answer, alive["state"]["events"]

    answer, events = with_control(talk)
    assert answer["ok"] is False
    assert re.search(what, answer["error"])
    assert events == 0


def test_nobody_steps_while_somebody_attends():
    async def talk(control, venue):
        first, second = await Line.open(control), await Line.open(control)
        first.say(op="attend")
        await first.hear()
        answer = await second.ask(op="step")
        await first.close()
        await second.close()
        return answer

    assert "attends" in with_control(talk)["error"]


class Wall:
    """A clock that sleeping moves."""

    def __init__(self):
        self.seconds, self.slept = 0.0, []

    def now(self):
        raise AssertionError("the venue has its own date")

    def elapsed(self):
        return self.seconds

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


def test_by_a_clock_it_runs_at_its_speed_and_jumps_the_nights():
    made, wall = market(names=1, sessions=2, quote_seconds=300), Wall()
    clock = VenueClock(made.starts_at - BEFORE, wall, 60.0)

    async def talk(control, venue):
        async with asyncio.timeout(PATIENCE):
            while not venue.ended:
                await asyncio.sleep(0)
        return venue

    with_control(talk, made, stepped=False, clock=clock, sleep=wall.sleep)
    trading = 2 * 390 * 60 / 60.0
    assert trading < wall.seconds < trading + 60


def test_a_clock_that_runs_never_goes_back():
    wall, begin = Wall(), market(names=1).starts_at
    clock = VenueClock(begin, wall, 2.0)
    wall.seconds = 10.0
    assert clock.now() == begin + timedelta(seconds=20)
    clock.set(begin + timedelta(seconds=5))  # something that should have happened before
    assert clock.now() == begin + timedelta(seconds=20)
    clock.set(begin + timedelta(hours=1))
    wall.seconds = 11.0
    assert clock.elapsed() == 3602


def test_the_token_file_is_for_nobody_else(tmp_path):
    path = tmp_path / "folder" / "token"
    first = write_token(path)
    assert path.read_text().strip() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    second = write_token(path)
    assert first != second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="cannot be written"):
        write_token(path / "below")
