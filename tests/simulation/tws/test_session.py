"""Sessions and their gateway, frame by frame: who may come in, how fast, and what ends it."""

import asyncio
import logging
import struct
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.clock import FixedClock
from dpa.errors import ConfigError
from dpa.simulation.tws.gateway import CLIENTS, Gateway
from dpa.simulation.tws.session import STRIKES, Session, Shared
from dpa.simulation.tws.wire import WireError, frame
from dpa.simulation.tws.words import Traits
from tests.simulation.tws.clients import (
    RawClient,
    connected,
    gateway_of,
    lively,
    planted_venue,
    raw_client,
    run,
    until,
)

VENUE = planted_venue(traits=lively())
FUZZED = planted_venue(traits=lively())  # one for all examples: none of them may break it
SYMBOL = VENUE.listing.contracts[0].symbol
STOCK = (0, SYMBOL, "STK", "", 0.0, "", "", "SMART", "", "USD", "", "")


class Wire:
    """A link that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""
        self.closed: list[bool] = []

    def write(self, data: bytes, lag_seconds: float) -> None:
        self.data += data

    def close(self, reset: bool) -> None:
        self.closed.append(reset)


def session_of(venue: Any = None) -> tuple[Session, Wire, Shared]:
    venue = venue or planted_venue(traits=lively())
    wire, shared = Wire(), Shared(venue, (157, 178), venue.clock)
    return Session(shared, wire), wire, shared


def hello(offer: bytes = b"v157..176") -> bytes:
    return b"API\0" + struct.pack(">I", len(offer)) + offer


def errors(messages: list[list[str]]) -> list[tuple[int, int]]:
    found = [(int(each[2]), int(each[3])) for each in messages if each and each[0] == "4"]
    return [each for each in found if each[1] not in (2104, 2106, 2158)]


async def pulse(client: RawClient) -> list[list[str]]:
    """All that was said before the answer to a request for the time."""
    await client.send(49, 1)
    return (await client.until(49))[:-1]


@pytest.mark.parametrize(
    ("offer", "agreed"),
    [
        ("v157..178", 178),
        ("v100..176", 176),
        ("v157..999 +PACEAPI", 178),
        ("v163", 163),
        ("v178..200", 178),
    ],
)
def test_the_newest_common_version_is_agreed_on(offer: str, agreed: int) -> None:
    async def work() -> None:
        async with gateway_of(VENUE, 178) as gateway, raw_client(gateway) as client:
            (version, moment), *rest = await client.start(offer=offer)
            assert version == str(agreed)
            assert moment == "20240618 09:30:05 US/Eastern"
            assert [each[0] for each in rest] == ["15", "9"]

    run(work())


@pytest.mark.parametrize("offer", ["v100..156", "v179..200", "hello", "v", "v178..157"])
def test_without_a_common_version_the_connection_is_closed_with_a_reason(offer: str) -> None:
    async def work() -> None:
        async with Gateway(VENUE) as gateway, raw_client(gateway) as client:
            await client.greet(offer)
            assert await client.message() == []
            await until(lambda: not gateway.sessions)
            ((number, reason),) = gateway.closings
            assert number == -1
            assert "version" in reason

    run(work())


def test_requests_before_the_start_and_unknown_ones_are_refused_and_nothing_ends() -> None:
    async def work() -> None:
        async with gateway_of(VENUE, 178) as gateway, raw_client(gateway) as client:
            await client.greet("v157..178")
            await client.message()
            await client.send(49, 1)
            assert errors([await client.message()]) == [(-1, 504)]
            await client.send(71, 2, 3, "")
            await client.until(9)
            await client.send(999, "what", "ever")
            await client.send(71, 2, 3, "")
            assert errors(await pulse(client)) == [(-1, 505), (-1, 501)]

    run(work())


def test_an_unread_field_is_told_logged_counted_and_raised_and_ends_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with Gateway(VENUE) as gateway, raw_client(gateway) as client:
            await client.start()
            with caplog.at_level(logging.WARNING, "dpa.simulation.tws"):
                await client.send(8, 1, 1, "odd")
                told = await client.until(-1)
            assert errors(told) == [(-1, 320)]
            assert told[-1] == []
            reason = "REQ_IDS: 1 unread fields from field 3 on: ['odd']"
            assert reason in caplog.text
            assert gateway.trouble_count == 1
            assert (gateway.troubles[0].client_id, gateway.closings[0][0]) == (1, 1)
            with pytest.raises(WireError, match="REQ_IDS: 1 unread fields"):
                gateway.check()

    run(work())


def test_a_venue_that_breaks_ends_one_session_and_is_logged_with_its_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(type(VENUE)):  # type: ignore[misc]
        def cancel_all(self) -> None:
            raise ZeroDivisionError("broken")

    async def work() -> None:
        venue = planted_venue(traits=lively())
        venue.__class__ = Broken
        async with Gateway(venue) as gateway:
            async with raw_client(gateway) as one, raw_client(gateway) as two:
                await one.start(1)
                await two.start(2)
                await one.send(58, 1)
                assert errors(await one.until(-1)) == [(-1, 320)]
                assert errors(await pulse(two)) == []
            assert "ZeroDivisionError" in caplog.text
            with pytest.raises(ZeroDivisionError):
                gateway.check()

    run(work())


def test_a_client_that_sends_too_fast_is_told_100_and_dropped_when_it_goes_on() -> None:
    async def work() -> None:
        venue = planted_venue(traits=Traits(messages_per_second=50))
        clock = FixedClock(venue.clock.now())
        async with gateway_of(venue, 178, pacing=clock) as gateway, raw_client(gateway) as client:
            await client.start()
            await pulse(client)
            for strike in range(1, STRIKES + 1):
                clock.advance(1)
                for _ in range(50):
                    await client.send(49, 1)
                answers = [await client.message() for _ in range(50)]
                assert {each[0] for each in answers} - {"4"} == {"49"}
                await client.send(49, 1)
                assert errors([await client.message()]) == [(-1, 100)]
                if strike == STRIKES:
                    assert await client.message() == []
            assert gateway.closings[0][1].startswith("100")

    run(work())


def test_a_flood_within_one_moment_is_dropped_at_twice_the_limit() -> None:
    venue = planted_venue(traits=Traits(messages_per_second=10))
    session, wire, shared = session_of(venue)
    session.received(hello() + frame(71, 2, 1, "") + frame(49, 1) * 30)
    assert session.closed
    assert wire.closed == [False]
    assert wire.data.count(b"4\x002\x00-1\x00100\x00") == 11
    assert shared.trouble_count == 0
    session.lost()
    assert venue.outlet.everyone == []


def test_historical_pacing_counts_all_clients_and_forgets_after_ten_minutes() -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively(history_requests=2))
        clock = FixedClock(venue.clock.now())
        words = (0, "", "30 mins", "1 D", 1, "TRADES", 1, 0, "")
        async with (
            gateway_of(venue, 178, pacing=clock) as gateway,
            raw_client(gateway) as one,
            raw_client(gateway) as two,
        ):
            await one.start(1)
            await two.start(2)
            for client, number, kind in [(one, 1, "17"), (two, 2, "17"), (one, 3, "4")]:
                await client.send(20, number, *STOCK, *words)
                message = await client.message()
                while message[:4] in (["4", "2", "-1", code] for code in ("2104", "2106", "2158")):
                    message = await client.message()
                assert message[0] == kind
            clock.advance(600)
            await two.send(20, 4, *STOCK, *words)
            assert (await two.message())[0] == "17"

    run(work())


def test_lag_holds_messages_back_in_order() -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        due: list[tuple[float, Any]] = []

        def later(seconds: float, action: Any) -> None:
            due.append((seconds, action))

        async with gateway_of(venue, 178, later=later) as gateway, raw_client(gateway) as client:
            await client.start()
            await pulse(client)
            venue.traits.lag_seconds = 2.0
            await client.send(49, 1)
            await client.send(8, 1, 1)
            await until(lambda: len(due) == 2)
            venue.traits.lag_seconds = 0.0
            await client.send(17, 1)
            await gateway.settled()
            assert [seconds for seconds, _ in due] == [2.0, 2.0]
            due[1][1]()
            due[0][1]()
            assert [(await client.message())[0] for _ in range(3)] == ["49", "9", "15"]

    run(work())


def test_settled_means_that_every_byte_was_handed_over() -> None:
    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with gateway_of(venue, 178) as gateway, raw_client(gateway) as client:
            await client.start()
            (session,) = gateway.sessions
            reader = asyncio.ensure_future(client.until(53))
            for _ in range(20_000):
                session.error(-1, 2100, "x" * 200)
            session.send((53, 1))
            await gateway.settled()
            assert len(await reader) == 20_000 + len("4 4 4") // 2 + 2

    run(work())


def test_a_client_that_never_reads_is_dropped_before_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpa.simulation.tws.gateway.MAX_UNREAD", 2**20)

    async def work() -> None:
        venue = planted_venue(traits=lively())
        async with Gateway(venue) as gateway, raw_client(gateway) as client:
            await client.start()
            (session,) = gateway.sessions
            for _ in range(400):
                session.error(-1, 2100, "x" * 100_000)
                await asyncio.sleep(0)
            assert "unread" in gateway.closings[0][1]
            await until(lambda: not gateway.sessions)

    run(work())


def test_a_graceful_stop_sends_what_is_left_and_then_nobody_listens() -> None:
    async def work() -> None:
        gateway = Gateway(planted_venue(traits=lively()))
        await gateway.start()
        host, port = gateway.host, gateway.port
        async with raw_client(gateway) as client:
            await client.start()
            (session,) = gateway.sessions
            session.error(-1, 1100, "Connectivity has been lost.")
            await gateway.stop()
            told = await client.until(-1)
            assert errors(told) == [(-1, 1100)]
            assert told[-1] == []
        with pytest.raises(OSError, match=r"refused|Connect"):
            await asyncio.open_connection(host, port)
        await gateway.stop()

    run(work())


def test_no_more_clients_than_tws_takes() -> None:
    async def work() -> None:
        async with Gateway(planted_venue(traits=lively())) as gateway:
            peers = [
                await asyncio.open_connection(gateway.host, gateway.port) for _ in range(CLIENTS)
            ]
            await until(lambda: len(gateway.sessions) == CLIENTS)
            async with raw_client(gateway) as client:
                assert await client.message() == []
            for _, writer in peers:
                writer.close()
            await until(lambda: not gateway.sessions)

    run(work())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_it_listens_on_loopback_only_unless_told(host: str) -> None:
    with pytest.raises(ConfigError, match="other machines"):
        Gateway(VENUE, host)
    Gateway(VENUE, host, anywhere=True)


def test_versions_outside_what_is_spoken_and_a_taken_port_are_refused() -> None:
    with pytest.raises(ConfigError, match="server versions 150 to 178"):
        Gateway(VENUE, versions=(150, 178))

    async def work() -> None:
        async with Gateway(VENUE) as gateway:
            with pytest.raises(ConfigError, match="cannot listen"):
                await Gateway(VENUE, port=gateway.port).start()

    run(work())


# whatever comes, nothing is raised: the session ends, and says why

BYTES = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda rest: hello() + rest, st.binary(max_size=200)),
)
FIELD = st.one_of(
    st.sampled_from(["", "0", "1", "5", "-1", "1e9", SYMBOL, "STK", "SMART", "USD", "2147483647"]),
    st.text(max_size=4),
)
MESSAGE = st.builds(
    lambda number, values: frame(number, *values),
    st.integers(0, 110),
    st.lists(FIELD, max_size=30),
)


def _ends_with_a_reason(stream: list[bytes]) -> None:
    session, wire, shared = session_of(FUZZED)
    for piece in stream:
        session.received(piece)
    session.lost()
    assert FUZZED.outlet.everyone == []
    assert bool(shared.closings) == bool(wire.closed) >= bool(shared.troubles)
    assert shared.trouble_count == len(shared.troubles) <= 1
    for trouble in shared.troubles:
        assert isinstance(trouble.error, WireError), trouble
        assert trouble.reason in [reason for _, reason in shared.closings]


@settings(max_examples=150, deadline=None)
@given(st.lists(BYTES, max_size=4))
def test_random_bytes_end_the_session_with_a_reason(stream: list[bytes]) -> None:
    _ends_with_a_reason(stream)


@settings(max_examples=250, deadline=None)
@given(st.lists(MESSAGE, max_size=8))
def test_random_messages_are_answered_or_end_the_session_with_a_reason(
    messages: list[bytes],
) -> None:
    _ends_with_a_reason([hello() + frame(71, 2, 1, ""), *messages])


ORDER = [
    *(3, 50, *STOCK, "", "", "BUY", 10.0, "LMT", 5.0, "", "DAY", "", "DU1234567", "O", 0, "ref"),
    *(1, 0, 0, 0, 0, 0, 0, 0, "", 0.0, "", "", "", "", "", "", "", 0, "", -1, 0, "", "", 0),
    *("", "", 0, 0, "", 0, "", "", "", "", "", 0, "", "", "", "", 0, "", "", "", "", "", ""),
    *("", "", "", "", 0, "", "", 0, 0, "", "", 0, "", 0, 0, 0, 0, "", "", "", "", "", "", 0),
    *("", "", "", "", "", "", "", "", 0, 0, 0, 0, "", "", 0, "", ""),
]


def test_the_order_that_is_mutated_below_is_a_good_one() -> None:
    venue = planted_venue(traits=lively())
    session, _, shared = session_of(venue)
    session.received(hello() + frame(71, 2, 1, "") + frame(*ORDER))
    assert list(shared.troubles) == []
    (order,) = venue.open_orders(1)
    assert (order.limit, order.ref) == (Decimal("5.0"), "ref")


@pytest.mark.parametrize("times", [0, 2])
def test_no_field_of_an_order_may_be_missing_or_there_twice(times: int) -> None:
    for place in range(1, len(ORDER)):
        session, _, shared = session_of(VENUE)
        message = frame(*ORDER[:place], *[ORDER[place]] * times, *ORDER[place + 1 :])
        session.received(hello() + frame(71, 2, 1, "") + message)
        session.lost()
        assert shared.trouble_count == 1, place
        assert "PLACE_ORDER" in shared.troubles[0].reason


@settings(max_examples=150, deadline=None)
@given(st.integers(1, len(ORDER) - 1), FIELD)
def test_an_order_with_one_field_wrong_is_taken_refused_or_ends_the_session(
    place: int, value: str
) -> None:
    changed = frame(*ORDER[:place], value, *ORDER[place + 1 :])
    _ends_with_a_reason([hello() + frame(71, 2, 1, ""), changed])


def test_garbage_on_one_connection_leaves_the_others_alone() -> None:
    async def work() -> None:
        async with Gateway(planted_venue(traits=lively())) as gateway:
            async with raw_client(gateway) as good:
                await good.start(1)
                for garbage in (
                    b"GET / HTTP/1.1\r\n\r\n",
                    hello() + b"\xff" * 50,
                    b"API\0\0\0\0\0",
                ):
                    async with raw_client(gateway) as bad:
                        bad.writer.write(garbage)
                        await bad.until(-1)
                assert errors(await pulse(good)) == []
            assert gateway.trouble_count == 3

    run(work())


def test_the_harness_sees_what_a_decoder_cannot_read(version: int) -> None:
    async def work() -> None:
        async with gateway_of(planted_venue(traits=lively()), version) as gateway:
            with pytest.raises(AssertionError, match="no order at all"):
                await broken(gateway)

    async def broken(gateway: Gateway) -> None:
        async with connected(gateway):
            gateway.sessions[0].send((5, "no order at all"))

    run(work())


def test_the_gateway_needs_none_of_the_big_libraries() -> None:
    """It runs beside a client library, in an environment without models and clusters."""
    names = "gateway", "venue", "control"
    imports = "; ".join(f"import dpa.simulation.tws.{name}" for name in names)
    heavy = {"torch", "ray", "lightgbm", "sklearn", "scipy", "fastapi", "plotly"}
    words = f"import sys; {imports}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
