"""The kill switch works when nothing else does, and holds."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from dpa.clock import Clock
from dpa.errors import HaltError, TransientError
from dpa.trading.broker import Broker
from dpa.trading.clocks import VirtualClock
from dpa.trading.kill import ALONE_SECONDS, Killed, kill
from dpa.trading.switch import Level, Switch
from dpa.trading.types import OrderState, Style
from tests.trading.dealing import (
    NOON,
    Desk,
    ScriptedBroker,
    Truth,
    desk,
    intent,
    paper,
    run,
    scripted,
)


def waits(clock: VirtualClock) -> object:
    """A sleep that moves the clock."""

    async def sleep(seconds: float) -> None:
        clock.move_to(clock.now() + (NOON - NOON).__class__(seconds=seconds))

    return sleep


def killing(made: Desk, broker: Broker | Exception, seconds: float = 5.0) -> Killed:
    """Kill from another process, as far as the broker can tell."""

    async def connect() -> Broker:
        if isinstance(broker, Exception):
            raise broker
        await broker.connect()
        return broker

    clock: Clock = made.clock
    sleep = waits(made.clock)
    return run(kill(made.switch, connect, clock, sleep, "Ada", "stop", seconds))  # type: ignore[arg-type]


def other(made: Desk, broker: ScriptedBroker) -> ScriptedBroker:
    """A second connection to the same account."""
    return ScriptedBroker(made.clock, broker.truth)


def test_it_halts_cancels_and_verifies(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    run(made.dealer.start())
    run(made.send(intent(), intent("MSFT", 5)))
    found = killing(made, other(made, broker))
    assert found.verified
    assert (found.cancels, found.working, found.problems) == (1, (), ())
    assert made.switch.level is Level.HALTED
    assert broker.truth.working() == []
    made.close()


def test_the_switch_is_halted_even_where_the_broker_cannot_be_reached(tmp_path: Path) -> None:
    made, _ = scripted(tmp_path)
    found = killing(made, TransientError("nobody listens"))
    assert not found.verified
    assert "nobody listens" in found.problems[0]
    assert Switch(tmp_path / "switch.json", made.clock).level is Level.HALTED
    made.close()


def test_orders_are_cancelled_even_where_the_switch_cannot_be_written(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    run(made.dealer.start())
    run(made.send(intent()))

    class Stuck:
        def halt(self, by: str, why: str) -> None:
            raise HaltError("read-only disk")

    found = killing(replace(made, switch=Stuck()), other(made, broker))  # type: ignore[arg-type]
    assert found.verified
    assert "read-only disk" in found.problems[0]
    assert broker.truth.working() == []
    made.close()


def test_what_stays_open_is_asked_for_again_and_told(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    run(made.dealer.start())
    run(made.send(intent()))
    deaf = other(made, broker)
    asked = 0

    async def cancel_all() -> None:
        nonlocal asked
        asked += 1

    deaf.cancel_all = cancel_all  # type: ignore[method-assign]
    found = killing(made, deaf)
    assert not found.verified
    assert found.working == (intent().id,)
    assert asked == 3
    made.close()


def test_an_incomplete_answer_verifies_nothing(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    blind = other(made, broker)
    blind.missing = ("open orders",)
    found = killing(made, blind)
    assert not found.verified
    assert "did not tell" in found.problems[0]
    made.close()


def alone(made: Desk, broker: ScriptedBroker) -> ScriptedBroker:
    """A connection through which nothing can be cancelled."""
    refused = other(made, broker)

    async def cancel_all() -> None:
        raise TransientError("client id 17 is in use")

    refused.cancel_all = cancel_all  # type: ignore[method-assign]
    return refused


def test_where_nothing_can_be_cancelled_it_waits_only_for_the_trader_to_do_it(
    tmp_path: Path,
) -> None:
    made, broker = scripted(tmp_path)
    run(made.dealer.start())
    run(made.send(intent()))
    found = killing(made, alone(made, broker), seconds=30.0)
    passed = (made.clock.now() - NOON).total_seconds()
    assert ALONE_SECONDS <= passed <= ALONE_SECONDS + 1
    assert (found.verified, found.cancels, found.working) == (False, 0, (intent().id,))
    assert "client id 17 is in use" in found.problems[0]
    made.close()


def test_orders_of_others_that_must_be_left_alone_are_not_waited_for(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    run(made.dealer.start())
    run(made.send(intent()))

    async def connect() -> Broker:
        deaf = alone(made, broker)
        await deaf.connect()
        return deaf

    sleep = waits(made.clock)
    found = run(
        kill(made.switch, connect, made.clock, sleep, "Ada", "stop", 30.0, lambda word: False)  # type: ignore[arg-type]
    )
    assert made.clock.now() == NOON
    assert (found.verified, found.working) == (False, (intent().id,))
    made.close()


def test_orders_of_others_are_cancelled_too(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    broker.truth = Truth()
    run(made.dealer.start())
    run(made.send(intent()))
    broker.truth.held[0].order = replace(
        broker.truth.held[0].order, intent=replace(intent(), id="")
    )
    found = killing(made, other(made, broker))
    assert found.verified
    assert broker.truth.held[0].state is OrderState.CANCELLED
    made.close()


def test_it_holds_through_a_restart_and_a_resume_needs_a_person(tmp_path: Path) -> None:
    made = desk(tmp_path)
    run(made.dealer.start())
    run(made.beat())
    resting = replace(intent(), style=Style.LIMIT, limit=Decimal("99.9"))
    run(made.send(resting))
    assert made.order(resting).state is OrderState.WORKING
    found = killing(made, paper(tmp_path, made.clock))
    assert found.verified
    run(made.beat(1))
    assert made.order(resting).state is OrderState.CANCELLED
    run(made.broker.close())
    made.close()
    again = desk(tmp_path, clock=made.clock)
    run(again.dealer.start())
    assert run(again.send(intent("MSFT", 1))) == ["level"]
    again.switch.resume("Ada", "found the reason")
    run(again.beat(1))
    assert run(again.send(intent("MSFT", 1))) == []
    run(again.broker.close())
    again.close()


def test_a_kill_while_orders_are_being_sent_lets_no_more_out(tmp_path: Path) -> None:
    made, broker = scripted(tmp_path)
    run(made.dealer.start())
    place = broker.place
    placed = 0

    async def slow(order: object, still: object) -> None:
        nonlocal placed
        placed += 1
        await place(order, still)  # type: ignore[arg-type]
        await asyncio.sleep(0)

    broker.place = slow  # type: ignore[method-assign]

    async def both() -> Killed:
        sending = asyncio.create_task(made.send(intent(), intent("MSFT", 1), intent("XOM", 1)))
        await asyncio.sleep(0)
        killed = await made.dealer.kill("Ada", "stop")
        await sending
        return killed

    killed = run(both())
    assert placed == 1
    assert killed.verified
    assert broker.truth.working() == []
    made.close()
