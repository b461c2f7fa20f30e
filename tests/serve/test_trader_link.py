"""What HTTP tells the trader gets there, whatever the disk says."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import serve.trader_link as module
from dpa.errors import HaltError
from dpa.serving.types import RequestError
from dpa.trading import switch
from dpa.trading.places import Places
from serve.trader_link import TraderLink


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_kill_reaches_the_trader_though_the_switch_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(tmp_path)
    places.make()
    told: list[tuple[Any, ...]] = []

    async def command(*said: Any) -> dict[str, Any]:
        told.append(said)
        return {"level": "HALTED"}

    trader = SimpleNamespace(command=SimpleNamespace(remote=command))
    monkeypatch.setattr(module, "find_trader", lambda: trader)
    monkeypatch.setattr(switch.tempfile, "mkstemp", full)
    link = TraderLink(places)
    assert asyncio.run(link.command("kill", "Ada", "panic")) == {"level": "HALTED"}
    assert told == [("kill", "Ada", "panic", None)]
    monkeypatch.setattr(module, "find_trader", lambda: None)
    other = Places(tmp_path / "other")
    other.make()
    with pytest.raises(HaltError, match="No space left"):
        asyncio.run(TraderLink(other).command("kill", "Ada", "panic"))


def test_a_kill_where_nothing_was_ever_traded_does_not_say_that_trading_is_halted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trader that was meant has another storage, and goes on."""
    monkeypatch.setattr(module, "find_trader", lambda: None)
    places = Places(tmp_path)
    with pytest.raises(RequestError, match="nothing is halted"):
        asyncio.run(TraderLink(places).command("kill", "Ada", "panic"))
    assert not places.switch.exists()
    places.make()
    with pytest.raises(RequestError, match="halted all the same"):
        asyncio.run(TraderLink(places).command("kill", "Ada", "panic"))
    assert places.switch.exists()
