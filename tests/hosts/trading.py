"""A trader on a worker, the gateway on the head: the worker is lost in the middle of a session."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dpa.errors import DpaError
from tests.hosts.cluster import BIN, TOKEN, Cluster
from tests.hosts.facts import Facts
from tests.hosts.host import SHARED, Host, end, wait_for_port
from tests.hosts.market import invent, make_storage, settings_tree
from tests.hosts.serving import ON_HOST, URL, deploy

PORT, CONTROL_PORT, SERVE_PORT = 4002, 4003, 8000
SPEED = 400.0
STORAGE = SHARED / "trade"
SETTINGS = "trade.json"
TRIES = 6  # to have the trader put on a worker
TURN_SECONDS, LOOK_SECONDS = 900.0, 0.25
Say = Callable[[str], None]
Status = Mapping[str, Any]


def trade_settings(n_names: int) -> dict[str, Any]:
    """What the trader is told; patient, because time waits for it."""
    return settings_tree(
        serving={"request_seconds": 120.0, "family_ms": 60_000.0, "topology": "fused"},
        ibkr={"ibkr_host": "127.0.0.1", "ibkr_port": PORT, "history_requests": 1000,
              "market_data_lines": 2 * n_names + 2},
        trading={"broker": "ibkr", "bar_wait_seconds": 0.0, "session_end": "flatten"},
    )  # fmt: skip


class TradingScenario:
    """All of it.

    Parameters
    ----------
    cluster : Cluster
    say : callable
    """

    def __init__(self, cluster: Cluster, say: Say) -> None:
        self.cluster, self.say = cluster, say
        self.machines = cluster.machines
        self.facts = Facts("Trading, the trader's host lost")

    def run(self) -> Facts:
        """Run it; the cluster is up and is left up, with all its hosts."""
        self.say("trading: a market, a bundle, and the graph")
        invented = invent(self.cluster.outside())
        make_storage(invented, self.cluster.outside("trade"), self.machines.folder / "trained")
        shutil.copytree(ON_HOST, self.cluster.outside("on_host"), dirs_exist_ok=True)
        settings = trade_settings(invented.panel.n_assets)
        given = {"storage": str(STORAGE), "url": URL, "port": PORT, "control_port": CONTROL_PORT,
                 "speed": SPEED, "settings": settings}  # fmt: skip
        self.cluster.outside(SETTINGS).write_text(json.dumps(given), encoding="utf-8")
        graph = {name: part for name, part in settings.items() if name not in ("trading", "ibkr")}
        deploy(self.cluster, STORAGE, graph)
        with ExitStack() as stack:
            self._gateway(stack, invented.panel.names, invented.first_day)
            for name in self.machines.names[1:]:
                self._tunnel(stack, self.machines.hosts[name])
            self._session()
        return self.facts

    def _gateway(self, stack: ExitStack, names: tuple[str, ...], day: str) -> None:
        """The simulated gateway, on the head's loopback."""
        self.say("trading: the gateway simulator on the head, a tunnel to it from every worker")
        head = self.cluster.head
        (self.cluster.outside("trade") / "trading").mkdir(mode=0o700, exist_ok=True)
        process = head.start(
            f"{BIN}/python", "-m", "dpa.cli", "sim", "tws", f"--replay={SHARED / 'bars'}",
            f"--start={day}", "--sessions=1", "--half-spread-bps=0.1",
            f"--lines={3 * len(names)}", f"--token-file={STORAGE / 'trading' / 'gateway.token'}",
            "--stepped", f"--port={PORT}", f"--control-port={CONTROL_PORT}",
            log=self.machines.folder / "gateway.log",
        )  # fmt: skip
        stack.callback(end, process)
        wait_for_port(head, head, PORT, "127.0.0.1")

    def _tunnel(self, stack: ExitStack, host: Host) -> None:
        """What is on the head's loopback, on the loopback of `host`, as docs/clusters.md says."""
        forwards = [word for port in (PORT, CONTROL_PORT, SERVE_PORT)
                    for word in ("-L", f"{port}:127.0.0.1:{port}")]  # fmt: skip
        process = host.start(
            "ssh", "-N", "-i", str(Path.home() / ".ssh" / "key"), "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=accept-new", "-o", "ServerAliveInterval=5", *forwards,
            f"root@{self.machines.head.address}", log=self.machines.folder / "tunnels.log",
        )  # fmt: skip
        stack.callback(end, process)
        wait_for_port(host, host, PORT, "127.0.0.1")

    # the session

    def _session(self) -> None:
        victim = self._started_on_a_worker()
        before = self._until(lambda s: s["state"] == "trading" and s.get("fills", 0) >= 4, "fills")
        self.facts.measured("the trader was put on", f"{victim}, the gateway is on the head")
        at = time.monotonic()
        self.machines.kill(victim)
        self.say(f"trading: {victim} killed with the trader, after {before['fills']} fills")
        after = self._until(
            lambda s: s["state"] == "trading" and host_of(s) not in ("", victim), "the trader again"
        )
        back = time.monotonic() - at
        self.facts.promised(
            "the trader is started on another host, with its state",
            f"on {host_of(after)} after {back:.1f} s; {after['fills']} fills known",
            after["fills"] >= before["fills"],
        )
        old, new = before["lease"]["token"], after["lease"]["token"]
        self.facts.promised("the lease's token is above the one before", f"{old}, then {new}",
                            new > old)  # fmt: skip
        self.say("trading: to the end of the session")
        ended = self._until(lambda s: s["state"] in ("ended", "refused"), "the end")
        self.facts.promised("the session ends", f"{ended['state']} {ended['why']}".strip(),
                            ended["state"] == "ended")  # fmt: skip
        self._compare()
        self._step("stop", self.cluster.head)
        self.say(f"trading: {victim} is switched on again")
        self.machines.boot(victim)
        self.facts.measured("switched on again, it joins", self.cluster.rejoin())

    def _started_on_a_worker(self) -> str:
        """Start the trader, again until Ray puts it on a worker; that worker."""
        for _ in range(TRIES):
            self._step("start", self.machines.hosts[self.machines.names[1]])
            where = host_of(self._until(lambda s: s["state"] == "trading", "the trader"))
            if where in self.machines.names[1:]:
                return where
            self.say(f"trading: the trader is on {where or 'no host'}; started again")
            self._step("stop", self.cluster.head)
        raise DpaError(f"Ray put the trader on no worker in {TRIES} attempts")

    def _compare(self) -> None:
        found = self._step("compare", self.cluster.head)
        self.facts.promised(
            "one order an intent, at the gateway",
            f"{found['told']} orders of {found['told_once']} intents",
            found["told"] == found["told_once"] and found["told"] > 0,
        )
        differ = found["differences"] + found["damage"]
        self.facts.promised(
            "the ledger is the gateway's",
            "; ".join(differ[:3]) or f"{found['fills']} fills, every position, cash to the cent",
            not differ,
        )

    # asking

    def _step(self, step: str, host: Host) -> Any:
        done = host.run(
            f"{BIN}/python", str(SHARED / "on_host" / "trade.py"), step, str(SHARED / SETTINGS),
            seconds=TURN_SECONDS, env=TOKEN,
        )  # fmt: skip
        return json.loads(done.stdout.strip().splitlines()[-1])

    def _status(self) -> Status | None:
        ask = f"r.urlopen('{URL}/v1/trading', timeout=5).read().decode()"
        code = f"import urllib.request as r; print({ask})"
        done = self.cluster.head.attempt(f"{BIN}/python", "-c", code)
        if done.returncode:
            return None
        found: Status = json.loads(done.stdout)
        return found

    def _until(self, fits: Callable[[Status], bool], what: str) -> Status:
        until, status = time.monotonic() + TURN_SECONDS, None
        while time.monotonic() < until:
            status = self._status()
            if status is not None and fits(status):
                return status
            if status is not None and status["state"] == "refused":
                raise DpaError(f"trading: {what}: the trader gave up: {status['why']}")
            time.sleep(LOOK_SECONDS)
        said = "nobody answers" if status is None else f"{status['state']} {status['why']}"
        raise DpaError(f"trading: {what}: not within {TURN_SECONDS:g} s; {said}")


def host_of(status: Status) -> str:
    """The host of the trader, as its lease says: ``trader (process 7 on worker1, last ...)``."""
    words = str(status["lease"]["holder"]).partition(" on ")[2]
    return words.partition(",")[0]
