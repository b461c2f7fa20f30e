"""``dpa trade``, ``dpa kill`` and ``dpa alerts`` where no cluster runs."""

import asyncio
import json
import socket
from decimal import Decimal
from pathlib import Path

import pytest

from dpa import cli
from dpa.clock import SystemClock
from dpa.config import Settings
from dpa.market.costs import CostModel
from dpa.trading.journal import Journal
from dpa.trading.lease import Lease
from dpa.trading.paper import PaperBroker
from dpa.trading.places import Places, Start
from dpa.trading.switch import Level, Switch
from dpa.trading.types import (
    Instrument,
    Intent,
    Order,
    OrderState,
    Purpose,
    Side,
    Style,
)

ACCOUNT = "PAPER"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path)
    found.make()
    return found


def dpa(places: Places, *arguments: str) -> int:
    return cli.main([*arguments, f"--storage={places.storage}"])


def level(places: Places) -> Level:
    return Switch(places.switch, SystemClock()).level


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_pausing_and_closing_ask_nothing_and_need_nothing(places, capsys):
    assert dpa(places, "trade", "pause", "--why", "news") == 0
    assert level(places) is Level.PAUSED
    assert dpa(places, "trade", "flatten", "--by", "Ada") == 0
    assert level(places) is Level.FLATTENING
    said = capsys.readouterr().out
    assert "trading is PAUSED" in said
    assert "trading is FLATTENING (Ada: everything is to be closed)" in said
    assert "no trader runs on this machine" in said
    assert dpa(places, "trade", "pause") == 0
    assert level(places) is Level.FLATTENING  # never less severe


def test_resuming_needs_a_name_shows_from_what_and_asks(places, capsys):
    Switch(places.switch, SystemClock()).halt("dealer", "a break of positions")
    assert dpa(places, "trade", "resume") == 2
    assert "--by" in capsys.readouterr().err
    assert dpa(places, "trade", "resume", "--by", "Ada") == 2
    said = capsys.readouterr()
    assert "trading is HALTED" in said.out
    assert "by dealer: a break of positions" in said.out
    assert "give --yes" in said.err
    assert level(places) is Level.HALTED
    assert dpa(places, "trade", "resume", "--by", "Ada", "--yes") == 0
    assert "trading is RUNNING (Ada: looked at: a break of positions)" in capsys.readouterr().out
    assert level(places) is Level.RUNNING
    assert dpa(places, "trade", "resume", "--by", "Ada", "--yes") == 0
    assert "RUNNING already" in capsys.readouterr().out


def test_a_wrong_storage_is_said_in_one_line(tmp_path, capsys):
    for command in ("pause", "flatten"):
        assert cli.main(["trade", command, f"--storage={tmp_path / 'none'}"]) == 2
        said = capsys.readouterr().err
        assert "nothing was ever traded in this storage; give its --storage" in said
        assert said.count("\n") == 1


def test_the_status_without_anybody_comes_from_the_files(places, capsys):
    address = f"--url=http://127.0.0.1:{free_port()}"
    Switch(places.switch, SystemClock()).pause("Ada", "lunch")
    with Journal(places.journal, SystemClock()) as journal:
        journal.set_value("account", ACCOUNT)
        journal.set_baseline(ACCOUNT, (), Decimal("1000.5"), "a test")
        journal.note("alert", {"severity": "critical", "kind": "x", "what": "the sky falls"})
    assert dpa(places, "trade", "status", address) == 1
    said = capsys.readouterr().out
    assert "not running" in said
    assert "PAUSED (Ada: lunch)" in said
    assert "1,000.50 USD" in said
    assert "the sky falls" in said
    assert dpa(places, "trade", "status", address, "--json") == 1
    status = json.loads(capsys.readouterr().out)
    assert (status["level"], status["account"], status["running"]) == ("PAUSED", ACCOUNT, False)
    with Journal(places.journal, SystemClock()) as journal:
        lease = Lease(places.lease, SystemClock())
        lease.take(journal, "trader")
        assert dpa(places, "trade", "status", address) == 0
        assert "lease    trader (process" in capsys.readouterr().out
        lease.release()


def working_order(places: Places) -> None:
    """A paper account with an order that nobody looks after any more."""
    clock = SystemClock()
    listed = {"AAA": Instrument("AAA", 1, "X", "X", "USD", Decimal("0.01"), 1, "UTC")}
    broker = PaperBroker(places.paper, clock, CostModel(Settings().costs), listed)
    now = clock.now()
    intent = Intent(
        "dpa-0123456789abcdef01234567", ACCOUNT, "d", "AAA", Side.BUY, 10, Style.LIMIT,
        Purpose.ENTER, now, now, Decimal(10), Decimal(9),
    )  # fmt: skip

    async def go() -> None:
        await broker.connect()
        await broker.place(Order(intent, 1, 1, OrderState.SENT, Decimal(9)))
        assert len((await broker.snapshot()).open_orders) == 1
        await broker.close()

    asyncio.run(go())


def test_a_kill_cancels_through_a_connection_of_its_own(places, capsys):
    places.keep(Start(settings=Settings(), storage=places.storage))
    working_order(places)
    assert dpa(places, "kill", "--by", "Ada", "--why", "enough") == 0
    assert "everything is cancelled" in capsys.readouterr().out
    state = Switch(places.switch, SystemClock()).read()
    assert (state.level, state.by, state.why) == (Level.HALTED, "Ada", "enough")
    clock = SystemClock()
    broker = PaperBroker(places.paper, clock, CostModel(Settings().costs), {})

    async def look() -> int:
        await broker.connect()
        found = len((await broker.snapshot()).open_orders)
        await broker.close()
        return found

    assert asyncio.run(look()) == 0


def test_a_kill_halts_even_when_the_broker_is_away_or_not_known(places, capsys):
    assert dpa(places, "kill") == 1
    said = capsys.readouterr()
    assert "trading is HALTED" in said.out
    assert "no trader was ever started in this storage" in said.err
    assert "cancel them there" in said.err
    Switch(places.switch, SystemClock()).read()
    port = free_port()
    assert dpa(places, "trade", "kill", "--broker=ibkr", f"--ibkr-port={port}") == 1
    said = capsys.readouterr()
    assert "nobody listens" in said.err
    assert level(places) is Level.HALTED


def test_how_a_trader_was_started_is_kept_without_secrets(places):
    settings = Settings.model_validate({"alerts": {"alert_webhook": "https://x.example/secret"}})
    places.keep(Start(settings=settings, storage=places.storage, token="a-secret-token-12345"))
    text = places.start.read_text()
    assert "secret" not in text
    assert places.start.stat().st_mode & 0o077 == 0
    assert places.kept().settings.trading == settings.trading


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--broker=ibkr", "--replay=."), "TWS trades the market of now"),
        (("--replay=none.parquet",), "there is no such file"),
        (("--speed=-1",), "--speed -1; give 0 or more"),
        (("--ray=127.0.0.1:1",), "--ray"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("serve.joining.JOIN_SECONDS", 1.0)
    assert cli.main(["trade", "start", f"--storage={tmp_path}", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_alerts_are_tested_channel_by_channel(capsys):
    assert cli.main(["alerts", "test"]) == 0
    said = capsys.readouterr()
    assert "console: ok" in said.out
    assert "this is a test" in said.err
    port = free_port()
    assert cli.main(["alerts", "test", f"--alert-webhook=http://127.0.0.1:{port}/secret"]) == 1
    said = capsys.readouterr()
    assert "webhook 127.0.0.1:" in said.out
    assert "secret" not in said.out + said.err


@pytest.mark.parametrize("command", ["start", "status", "pause", "resume", "flatten", "stop"])
def test_every_command_has_examples(command, capsys):
    with pytest.raises(SystemExit):
        cli.main(["trade", command, "--help"])
    assert f"dpa trade {command}" in capsys.readouterr().out
