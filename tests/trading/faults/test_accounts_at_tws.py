"""Faults 28 to 32 of accounts, permissions, liquidations and bugs, on the whole stack."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.errors import HaltError
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from dpa.trading.events import Alert
from dpa.trading.switch import Level
from dpa.trading.types import Style
from tests.trading.faults.rig import floor, market, run


@pytest.mark.parametrize(
    ("given", "accounts"),
    [
        ({"ibkr_port": 7496}, ("DU1234567",)),
        ({"ibkr_port": 4001}, ("DU1234567",)),
        ({}, ("U1234567",)),
        ({"account": "DU1234567"}, ("DU1234567", "U7654321")),
    ],
    ids=["7496", "4001", "U", "DU and U"],
)
def test_28_real_money_is_refused_before_the_first_order(
    given: dict[str, Any], accounts: tuple[str, ...], tmp_path: Path
) -> None:
    async def scenario() -> None:
        venue = SimVenue(market(), traits=Traits(accounts=accounts))
        async with floor(tmp_path, venue=venue, begin=False, **given) as f:
            with pytest.raises(HaltError, match=r"real money|no paper account"):
                await f.begin()
            assert not f.broker.connected
            assert f.venue.book.all == []

    run(scenario)


@pytest.mark.parametrize("accounts", [("DU1234567", "U7654321"), ("DU9999999",)])
def test_28_an_account_that_changed_is_refused_on_reconnect(
    accounts: tuple[str, ...], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            held = f.intent()
            await f.submit(held)
            await f.go_on(10)
            f.check(held)
            f.fault(do="accounts", accounts=accounts)
            f.fault(do="disconnect", reset=True)
            await f.go_on(60)
            assert not f.dealer.ready
            state = f.switch.read()
            assert state.level is Level.HALTED, "it would go on by itself"
            assert any(account in state.why for account in accounts)
            assert "halted" in [alert.kind for alert in f.told if isinstance(alert, Alert)]
            refused = f.intent(100, f.names[1])
            assert await f.submit(refused) != []
            assert f.at_venue(refused) == []
            await f.die()
            with pytest.raises(HaltError):
                await f.begin()
            assert len(f.venue.book.all) == 1

    run(scenario)


def test_29_of_an_advisers_accounts_only_the_named_one_is_traded_and_counted(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        accounts = ("F1111111", "DU1234567", "DU7654321")
        venue = SimVenue(market(), traits=Traits(accounts=accounts))
        async with floor(tmp_path, venue=venue, account="DU7654321") as f:
            other = {"symbol": f.names[0], "side": "buy", "account": "DU1234567"}
            f.fault(do="manual", shares=70, **other)
            wanted = f.intent()
            await f.submit(wanted)
            await f.go_on(330)
            assert f.at_venue(wanted)[0].account == "DU7654321"
            assert f.dealer.positions == {f.names[0]: Decimal(100)}
            f.check(wanted)
            assert (await f.again()).clean
            f.check(wanted)
            f.check_running()

    run(scenario)


def test_30_a_read_only_interface_is_named_and_nothing_is_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            held = f.intent()
            await f.submit(held)
            await f.go_on(10)
            await f.die()
            f.venue.traits.read_only = True
            f.ibkr["ask_seconds"] = 0.3
            await f.begin()
            await f.go_on(20)
            words = [e.what for e in f.told if isinstance(e, Alert)]
            assert any("Read-Only" in each for each in words), words
            assert f.switch.level >= Level.PAUSED
            assert f.dealer.positions == {f.names[0]: Decimal(100)}, "still shown"
            assert f.quotes()[f.names[0]].sound, "still followed"
            refused = f.intent(100, f.names[1], "d2")
            assert await f.submit(refused) != []
            f.check(held, refused=[refused])

    run(scenario)


def test_31_a_liquidation_is_booked_told_and_halts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = [f.intent(300, name) for name in f.names]
            await f.submit(*wanted)
            await f.go_on(20)
            f.fault(do="liquidate", symbol=f.names[0], shares=200)
            await f.go_on(20)
            assert f.dealer.positions[f.names[0]] == 100
            assert "halted" in f.alerts
            f.check(*wanted)
            await f.check_halt()
            f.check(*wanted)

    run(scenario)


def test_31_a_liquidation_while_nobody_was_there_is_booked_and_halts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intent(300)
            await f.submit(wanted)
            await f.go_on(10)
            await f.die()
            f.fault(do="liquidate", symbol=f.names[0])
            await f.begin()
            assert f.dealer.flat
            f.check(wanted)
            await f.check_halt()

    run(scenario)


def _raises(_: object) -> None:
    raise ValueError("a bug")


def test_32_a_listener_that_raises_halts_and_the_gateway_stays_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            resting = f.intent(away=True, seconds=600)
            await f.submit(resting)
            f.broker.listen(_raises)
            f.fault(do="say", code=2100, message="hello")
            await f.go_on(10)
            assert any("a bug" in e.what for e in f.told if isinstance(e, Alert))
            assert await f.submit(f.intent(100, f.names[1])) == ["level"]
            await f.dealer.kill("Ada", "look at it")
            assert f.at_venue(resting)[0].status == "Cancelled"
            assert f.gateway.sessions, "it is still up"
            await f.go_on(10)
            await f.check_halt()
            f.check(resting)

    run(scenario)


def test_32_a_message_that_cannot_be_read_halts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path, unreadable=1) as f:
            wanted = f.intent()
            await f.submit(wanted)
            await f.go_on(10)
            f.gateway.sessions[0].send((3, "nonsense", "Submitted"))
            await f.go_on(10)
            assert "halted" in f.alerts
            await f.check_halt()
            f.check(wanted)

    run(scenario)


def test_32_a_fill_that_cannot_be_booked_halts_and_the_others_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            executed = f.journal.executed

            def broken(execution: Any) -> bool:
                if execution.symbol == f.names[0]:
                    raise ValueError("a bug")
                return executed(execution)

            monkeypatch.setattr(f.journal, "executed", broken)
            wanted = [f.intent(100, name, style=Style.MARKET) for name in f.names[:2]]
            await f.submit(*wanted)
            await f.beat()
            assert f.switch.level is Level.HALTED
            assert f.dealer.positions == {f.names[1]: Decimal(100)}, "nothing made up"
            await f.check_halt()
            assert f.dealer.positions == {name: Decimal(100) for name in f.names[:2]}
            f.check(*wanted)

    run(scenario)
