"""The decision graph over three hosts, under a steady load, while hosts are lost."""

import copy
import json
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dpa.errors import DpaError
from tests.hosts.cluster import BIN, TOKEN, Cluster
from tests.hosts.facts import Facts
from tests.hosts.host import SHARED, end
from tests.hosts.machines import REPOSITORY
from tests.hosts.market import invent, make_storage, settings_tree

CONFIG = "serve/config.yaml"
URL = "http://127.0.0.1:8000"
ON_HOST = Path(__file__).with_name("on_host")
PACE = 4.0  # bars a second
STEADY = 20  # answers in a row, each prompt
SLOW_SECONDS = 1.0
READY_SECONDS, RECOVER_SECONDS, LOOK_SECONDS = 900.0, 600.0, 0.25
REPLICA = "ray::ServeReplica:dpa:"
PROXY = "ray::ProxyActor"
Say = Callable[[str], None]


def filled(
    written: Mapping[str, Any], storage: Path, data: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The project's Serve file with the arguments of its application given; the rest as it is."""
    config: dict[str, Any] = copy.deepcopy(dict(written))
    [application] = config["applications"]
    unknown = {"storage", "data", "settings"} - set(application["args"])
    if unknown:
        raise DpaError(f"{CONFIG}: no argument {', '.join(sorted(unknown))}", "see serve/app.py")
    application["args"] |= {"storage": str(storage), "data": str(data), "settings": dict(settings)}
    return config


# what the load recorded


@dataclass(frozen=True)
class Attempt:
    """One request.

    Parameters
    ----------
    row : int
    sent, seconds : float
    error : str
        Empty: answered.
    left_out : int
        Families that were.
    """

    row: int
    sent: float
    seconds: float
    error: str
    left_out: int

    @property
    def prompt(self) -> bool:
        """Answered, by every family, and not slowly."""
        return not self.error and not self.left_out and self.seconds < SLOW_SECONDS


def read_attempts(path: Path) -> list[Attempt]:
    """All whole lines."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Attempt(**json.loads(line)) for line in lines]


def recovered_at(attempts: Sequence[Attempt], since: float) -> float | None:
    """When the first of a steady row of prompt answers was sent, after `since`; none: not yet."""
    row: list[Attempt] = []
    for attempt in attempts:
        if attempt.sent >= since:
            row = [*row, attempt] if attempt.prompt else []
            if len(row) == STEADY:
                return row[0].sent
    return None


# the scenario


class ServingScenario:
    """All of it.

    Parameters
    ----------
    cluster : Cluster
    say : callable
    """

    def __init__(self, cluster: Cluster, say: Say) -> None:
        self.cluster, self.say = cluster, say
        self.machines = cluster.machines
        self.facts = Facts("Serving from three hosts")
        self.record = cluster.outside("load.jsonl")

    def run(self) -> Facts:
        """Run it; the cluster is up and is left up, with all its hosts."""
        self.say("serving: a market, a bundle, and the graph")
        invented = invent(self.cluster.outside())
        make_storage(invented, self.cluster.outside("live"), self.machines.folder / "training")
        deploy(self.cluster, SHARED / "live", settings_tree(serving={"family_ms": 2000.0}))
        self._say_where("placed by Serve on")
        shutil.copytree(ON_HOST, self.cluster.outside("on_host"), dirs_exist_ok=True)
        load = self.cluster.head.start(
            f"{BIN}/python", str(SHARED / "on_host" / "load.py"), URL, str(SHARED / "live"),
            str(SHARED / "bars"), str(invented.begun), str(PACE), str(SHARED / "load.jsonl"),
            log=self.machines.folder / "load.log",
        )  # fmt: skip
        try:
            self._undisturbed(load)
            lost: list[str] = []
            for _ in self.machines.names[1:]:
                lost.append(self._lose(load, lost))
        finally:
            end(load)
        for name in lost:
            self.say(f"serving: {name} is switched on again")
            self.machines.boot(name)
        self.facts.measured("switched on again, it joins", self.cluster.rejoin())
        return self.facts

    def _undisturbed(self, load: Any) -> None:
        self.say("serving: a steady load")
        self._recovered(load, 0.0)
        since = time.time()
        while len([a for a in read_attempts(self.record) if a.sent > since]) < 10 * STEADY:
            self._alive(load)
            time.sleep(LOOK_SECONDS)
        attempts = [a for a in read_attempts(self.record) if a.sent > since]
        self._latency(f"latency over {len(self.machines.names)} hosts", attempts)
        failed = sum(bool(a.error) for a in attempts)
        self.facts.promised("undisturbed: requests failed", f"{failed} of {len(attempts)}",
                            not failed)  # fmt: skip

    def _lose(self, load: Any, lost: list[str]) -> str:
        """Kill the worker with the most replicas that is left, and watch."""
        left = [name for name in self.machines.names[1:] if name not in lost]
        victim = max(left, key=lambda name: self.machines.hosts[name].runs(REPLICA))
        replicas = self._replicas(victim)
        self.say(f"serving: {victim} is killed, with {', '.join(replicas) or 'no replica'}")
        at = time.time()
        self.machines.kill(victim)
        back = self._recovered(load, at)
        attempts = [a for a in read_attempts(self.record) if a.sent >= at - 1.0]
        during = [a for a in attempts if a.sent <= back]
        failed = [a for a in during if a.error]
        what = f"{victim} killed with {len(replicas)} replicas ({', '.join(replicas)})"
        kinds = Counter(a.error.split(";")[0][:60] for a in failed)
        self.facts.measured(
            f"{what}: attempts failed",
            f"{len(failed)} of {len(during)} until recovered"
            + "".join(f"; {count} x {kind}" for kind, count in kinds.most_common(2)),
        )
        late = sum(not a.error and not a.prompt for a in during)
        self.facts.measured("... slow, or without a family", f"{late}")
        self.facts.promised("... recovered without help", f"after {back - at:.1f} s", True)
        unanswered = {a.row for a in failed} - {a.row for a in attempts if not a.error}
        self.facts.promised("... bars never answered", len(unanswered), not unanswered)
        alone = len(left) == 1
        if alone:
            after = [a for a in attempts if a.sent > back]
            self._latency("the head alone carries on; latency", after)
        self._say_where("now on")
        return victim

    def _recovered(self, load: Any, since: float) -> float:
        until = time.monotonic() + RECOVER_SECONDS
        while time.monotonic() < until:
            self._alive(load)
            found = recovered_at(read_attempts(self.record), since)
            if found is not None:
                return found
            time.sleep(LOOK_SECONDS)
        last = [a.error or f"{a.seconds:.1f} s" for a in read_attempts(self.record)[-3:]]
        raise DpaError(f"the graph did not recover in {RECOVER_SECONDS:g} s", "; ".join(last))

    def _alive(self, load: Any) -> None:
        if load.poll() is not None:
            text = (self.machines.folder / "load.log").read_text(encoding="utf-8")
            raise DpaError(f"the load ended by itself: {text[-1500:]}")

    def _latency(self, what: str, attempts: Sequence[Attempt]) -> None:
        seconds = sorted(1e3 * a.seconds for a in attempts if not a.error)
        if len(seconds) > 1:
            p99 = seconds[int(0.99 * len(seconds))]
            self.facts.measured(
                what,
                f"p50 {statistics.median(seconds):.0f} ms, p99 {p99:.0f} ms "
                f"({len(seconds)} at {PACE:g}/s)",
            )

    def _replicas(self, name: str) -> list[str]:
        titles = self.machines.hosts[name].titles()
        return sorted(t.removeprefix(REPLICA).split(".")[0].split()[0]
                      for t in titles if t.startswith(REPLICA))  # fmt: skip

    def _say_where(self, what: str) -> None:
        parts = []
        for name in self.machines.names:
            if self.machines.hosts[name].lives:
                proxy = "proxy + " if self.machines.hosts[name].runs(PROXY) else ""
                parts.append(f"{name}: {proxy}{', '.join(self._replicas(name)) or 'none'}")
        self.facts.measured(f"replicas {what}", "; ".join(parts))


def deploy(cluster: Cluster, storage: Path, settings: Mapping[str, Any]) -> None:
    """``serve deploy`` of the project's file, from the operator; until it answers.

    Raises
    ------
    DpaError
        It is not ready in time.
    """
    written = yaml.safe_load((REPOSITORY / CONFIG).read_text(encoding="utf-8"))
    config = filled(written, storage, SHARED / "begun", settings)
    path = cluster.operator.layout.home / "serve.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    with cluster.dashboard() as address:
        at = ("--address", address)
        cluster.operator.attempt(f"{BIN}/serve", "shutdown", "--yes", *at, env=TOKEN)
        _await_readiness(cluster, False)  # what ran before must not answer for what comes
        cluster.operator.run(f"{BIN}/serve", "deploy", *at, str(Path.home() / "serve.yaml"),
                             env=TOKEN)  # fmt: skip
    _await_readiness(cluster, True)


def _await_readiness(cluster: Cluster, wanted: bool) -> None:
    code = f"import urllib.request as r; r.urlopen('{URL}/readyz', timeout=5)"
    until = time.monotonic() + READY_SECONDS
    while (cluster.head.attempt(f"{BIN}/python", "-c", code).returncode == 0) != wanted:
        if time.monotonic() > until:
            said = cluster.head.attempt(f"{BIN}/serve", "status", env=TOKEN, seconds=60.0)
            raise DpaError(
                f"the graph is {'not ' if wanted else ''}ready after {READY_SECONDS:g} s:\n"
                + said.stdout
            )
        time.sleep(LOOK_SECONDS)
