"""The trader as an actor: one only, refusals in words, and HTTP without one."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from dpa.clock import SystemClock
from dpa.config import Settings
from dpa.errors import UserError
from dpa.serving.types import RequestError
from dpa.trading.places import Places, Start
from dpa.trading.switch import Level, Switch
from serve.trader import start_trader, stop_trader
from serve.trader_link import TraderLink, find_trader
from tests.serving.conftest import ComputingDesk
from tests.serving.http_server import TOKEN, serving

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def url(ray_session) -> Iterator[str]:
    with serving(ComputingDesk(Settings())) as address:
        yield address
    if (left := find_trader()) is not None:
        ray.kill(left, no_restart=True)


def start_with(url: str, storage: Path, **ibkr: Any) -> Start:
    tree = {
        "trading": {"broker": "ibkr"},
        "ibkr": ibkr,
        "alerts": {"alert_console": False},
    }
    return Start(settings=Settings.model_validate(tree), storage=storage, url=url, token=TOKEN)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_there_is_one_trader_and_it_waits_for_tws(url, tmp_path):
    start = start_with(url, tmp_path, ibkr_port=free_port())
    handle, status = start_trader(start)
    assert status["state"] == "waiting"
    assert "nobody listens" in status["why"]
    assert Places(tmp_path).kept().settings.ibkr == start.settings.ibkr
    with pytest.raises(UserError, match="a trader runs already"):
        start_trader(start)
    link = TraderLink(Places(tmp_path))
    paused = asyncio.run(link.command("pause", "ann", "a test"))
    assert (paused["level"], paused["level_by"]) == ("PAUSED", "ann")
    with pytest.raises(RequestError, match="PAUSED by now") as refused:
        asyncio.run(link.command("resume", "ann", "fine", "something else"))
    assert refused.value.status == 409
    mark = asyncio.run(link.status())["level_mark"]
    assert asyncio.run(link.command("resume", "ann", "fine", mark))["level"] == "RUNNING"
    last = stop_trader(handle)
    assert last is not None
    assert last["state"] == "stopped"
    assert find_trader() is None


def test_a_live_port_is_refused_in_words_and_no_actor_is_left(url, tmp_path):
    with pytest.raises(UserError, match="where TWS trades real money"):
        start_trader(start_with(url, tmp_path, ibkr_port=7496))
    assert find_trader() is None


def test_without_a_trader_a_kill_halts_all_the_same(url, tmp_path):
    Places(tmp_path).make()
    link = TraderLink(Places(tmp_path))
    with pytest.raises(RequestError, match="no trader runs") as refused:
        asyncio.run(link.status())
    assert refused.value.status == 503
    with pytest.raises(RequestError, match="halted all the same"):
        asyncio.run(link.command("kill", "ann", "a test"))
    assert Switch(Places(tmp_path).switch, SystemClock()).level is Level.HALTED
