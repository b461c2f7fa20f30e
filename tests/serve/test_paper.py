"""``make paper``: a day through a gateway, a socket, an unmodified client, the graph and an actor.

The day is disturbed as days are: the actor is killed, a person pauses and resumes, another trader
is tried, and in the end the kill switch is pulled by a process of its own.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from dpa.clock import SystemClock
from dpa.config import Settings
from dpa.market.shard_files import write_shards
from dpa.trading.journal import Journal
from dpa.trading.places import Places
from dpa.trading.types import Position
from serve import paper
from tests.serving.served import BEGUN, TREE, make_bundles

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 150.0  # seconds; an idle machine needs a fifth of it
BARS = 36  # traded: three hours


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sessions", "0"), "--sessions 0; give 1 or more"),
        (("--names", "0"), "--names 0; give 1 or more"),
        (("--speed", "0"), "--speed 0; give more than 0"),
        (("--replay", "bars.parquet"), "--replay: which bundle trades it is not said"),
        (("--replay", "bars.parquet", "--bundle", "x"), "there is no such file"),
        (("--bundle", "promoted"), "give --replay and --start"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paper.main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        paper.main(["--help"])
    said = capsys.readouterr().out
    assert "examples:" in said
    assert "--session-end" in said


def test_a_trader_that_was_stopped_over_http_is_not_waited_for(capsys, monkeypatch):
    def gone(*_: Any, **__: Any) -> Any:
        raise RayActorError

    monkeypatch.setattr("ray.get", gone)
    monkeypatch.setattr("serve.trader_link.find_trader", lambda: None)
    handle = SimpleNamespace(status=SimpleNamespace(remote=lambda: None))
    assert paper._follow(handle, "2024-07-01T13:30:00+00:00")["state"] == "stopped"
    assert capsys.readouterr().out == "the trader was stopped\n"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Run:
    """``serve/paper.py`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        bundles = make_bundles(folder / "bundles")
        panel = bundles.panel.window(0, BEGUN + BARS)
        write_shards(panel, folder / "bars")
        self.storage = folder / "paper"
        self.port = free_port()
        (folder / "settings.yaml").write_text(json.dumps(TREE))
        day = panel.times[BEGUN].tz_convert("America/New_York").strftime("%Y-%m-%d")
        self.command = [
            sys.executable,
            str(REPOSITORY / "serve" / "paper.py"),
            f"--config={folder / 'settings.yaml'}",
            f"--storage={self.storage}",
            f"--bundle={bundles.first}",
            f"--replay={folder / 'bars'}",
            f"--start={day}",
            f"--http-port={self.port}",
            "--topology=fused",
            "--replica-cpus=0",
            "--half-spread-bps=0.1",
            "--num-cpus=2",
            "--speed=400",
        ]
        self.log = folder / "log.txt"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                self.command, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT
            )

    def ask(self, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if body is not None:
            token = (self.storage / "serving" / "token").read_text().strip()
            headers["Authorization"] = f"Bearer {token}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def status(self) -> dict[str, Any] | None:
        try:
            return self.ask("/v1/trading")
        except (urllib.error.URLError, OSError):
            return None

    def until(self, found: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            status = self.status()
            if status is not None and found(status):
                return status
            assert self.process.poll() is None, f"it ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"{what}: {self.log.read_text()}"
            time.sleep(0.1)

    def dpa(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dpa.cli", *arguments, f"--storage={self.storage}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


@pytest.fixture
def run(tmp_path) -> Iterator[Run]:
    started = Run(tmp_path)
    yield started
    if started.process.poll() is None:
        started.process.send_signal(signal.SIGINT)
        try:
            started.process.wait(60)
        except subprocess.TimeoutExpired:
            started.process.kill()
            started.process.wait()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_day_with_a_killed_actor_a_pause_and_a_kill_ends_with_the_gateways_books(run):
    begun = run.until(lambda s: s["state"] == "trading" and s.get("fills", 0) >= 2, "two fills")

    second = subprocess.run(run.command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert "a trader runs already: trader (process" in second.stderr

    os.kill(begun["pid"], signal.SIGKILL)
    again = run.until(
        lambda s: s["pid"] != begun["pid"] and s["state"] == "trading" and s.get("bars", 0) >= 2,
        "the actor again",
    )
    assert again["fills"] >= begun["fills"]
    assert again["lease"]["token"] > begun["lease"]["token"]

    assert run.ask("/v1/trading/pause", {"by": "Ada"})["level"] == "PAUSED"
    resumed = run.dpa("trade", "resume", "--by=Ada", "--yes")
    assert resumed.returncode == 0, resumed.stderr
    assert "trading is PAUSED" in resumed.stdout
    assert "trading is RUNNING (Ada" in resumed.stdout

    killed = run.dpa("kill")
    assert killed.returncode == 0, killed.stderr
    assert "the broker has no open orders" in killed.stdout
    run.until(lambda s: s["level"] == "HALTED" and s["orders"] == [], "the halt")
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(PATIENCE) == 130, run.log.read_text()

    said = run.log.read_text()
    assert "stopping" in said
    assert re.search(r"the journal and the gateway agree: \d+ fills", said), said
    places = Places(run.storage)
    with Journal.reader(places.journal) as journal:
        assert journal.verify() == ()
        orders = journal.orders()
        assert len({order.ref for order in orders}) == len(orders)
    written = sorted(path.name for path in places.reports.rglob("report.*"))
    assert written == ["report.html", "report.json", "report.txt"]


def test_a_second_run_gives_the_gateway_what_the_journal_holds(tmp_path):
    storage = tmp_path / "paper"
    places = Places(storage)
    places.make()
    plan = paper.Plan(argparse.Namespace(), Settings(), storage, "bundle", tmp_path / "bars")
    assert paper._books(plan) is None
    held = Position("DU1234567", "BRK.B", Decimal(-7), Decimal("99.50"))
    with Journal(places.journal, SystemClock()) as journal:
        journal.set_value("account", "DU1234567")
        journal.set_baseline("DU1234567", (held,), Decimal("1234.56"), "a test")
    written = paper._books(plan)
    assert written is not None
    (account,) = json.loads(written.read_text())["accounts"].values()
    (kept,) = account["positions"].values()
    assert Decimal(account["cash"]) == Decimal("1234.56")
    assert list(account["positions"]) == ["BRK.B"]
    assert (Decimal(kept["shares"]), Decimal(kept["average_cost"])) == (-7, Decimal("99.50"))
