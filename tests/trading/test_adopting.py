"""Where books differ a person looks at both sides, adopts the broker's, and goes on."""

import argparse
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpa.config import Settings
from dpa.errors import UserError
from dpa.serving.client import Client
from dpa.trading.places import Places, Start
from dpa.trading.service import TradingService
from dpa.trading.switch import Level
from dpa.trading.trade_commands import adopt_command
from tests.trading.dealing import run, scripted


def trader(tmp_path: Path) -> tuple[Any, Any, TradingService]:
    """A service whose trader found shares of a split at the broker."""
    made, broker = scripted(tmp_path / "trading")
    run(made.dealer.start())
    broker.extra["MSFT"] = Decimal(7)
    made.wait(20)
    run(made.dealer.reconcile())
    service = TradingService(Start(settings=Settings(), storage=tmp_path))
    service._trader = SimpleNamespace(  # type: ignore[assignment]
        dealer=made.dealer, clock=made.clock, engine=None, status=dict
    )
    assert Places(tmp_path).switch == made.switch.path
    return made, broker, service


def test_books_that_differ_are_shown_adopted_and_traded_on(tmp_path: Path) -> None:
    made, _, service = trader(tmp_path)
    status = service.status()
    assert status["level"] == "HALTED"
    assert status["differences"] == ["MSFT: the ledger has 0, the broker 7"]
    with pytest.raises(UserError, match="a name and a reason"):
        run(service.command("adopt", " ", "a split", status["level_mark"]))
    made.wait(20)
    after = run(service.command("adopt", "Ada", "a split", status["level_mark"]))
    assert (after["level"], after["differences"]) == ("HALTED", [])
    assert made.dealer.positions == {"MSFT": 7}
    run(service.command("resume", "Ada", "adopted", after["level_mark"]))
    assert made.switch.level is Level.RUNNING
    assert made.dealer.ready
    made.close()


def test_the_command_shows_both_sides_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, _, service = trader(tmp_path)
    monkeypatch.setattr(Client, "trading", lambda _: service.status())
    monkeypatch.setattr(Client, "tell_trader", lambda _, *said: run(service.command(*said)))
    made.wait(20)
    asked = argparse.Namespace(url="http://127.0.0.1:9", by="Ada", why="a split", yes=True)
    adopt_command(asked)
    assert "MSFT: the ledger has 0, the broker 7" in capsys.readouterr().out
    assert made.dealer.positions == {"MSFT": 7}
    adopt_command(asked)
    assert "nothing to adopt" in capsys.readouterr().out
    made.close()
