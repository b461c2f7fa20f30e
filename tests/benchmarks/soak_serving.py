"""The graph under load while parts of it are killed: is any answer wrong, and how long is it away?

    python tests/benchmarks/soak_serving.py --minutes 5

Two clients post each bar at the same moment, for accounts of their own. Every answer must be the
one that the pure pipeline gives in this process for the same requests; where a family was left
out, as the answer says, the one without that family. Exit code 1 when one is not.
"""

from serving_runs import (  # noqa: I001
    BEGUN, NAV_USD, Served, Universe, add_options, as_settings, describe, machine, make_universe,
    percentiles, serving,
)  # fmt: skip

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any, TypeVar

import orjson

from dpa.clock import SystemClock
from dpa.config import Settings
from dpa.decision.decision import State
from dpa.decision.learning import LearningState, learn
from dpa.decision.pipeline import decide, decision_id
from dpa.decision.risk import RiskState
from dpa.decision.types import Snapshot
from dpa.errors import DpaError
from dpa.horizons.bundle import HorizonBundle
from dpa.horizons.promotion import promote_bundle
from dpa.market.last_bars import last_bars
from dpa.serving.client import Client
from dpa.serving.market_stage import MarketStage, Taken
from dpa.serving.replay import NaiveAccount, target_shares
from dpa.serving.stages import CHECKPOINT
from dpa.serving.store import unpack
from dpa.serving.types import Request
from dpa.serving.wire import decision_json

ACCOUNTS = ("default", "second")
SLOW_SECONDS = 1.0  # an answer that took longer is put down to the fault before it
PROXY_HEALTH = {
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "1",
}
Answer = dict[str, Any]
Known = TypeVar("Known", LearningState, RiskState)


# the load


@dataclass
class Posted:
    """A request that was answered in the end."""

    row: int
    request: Request
    sent: float
    answered: float
    answer: Answer


class CountingClient(Client):
    """A client that keeps what went wrong before an answer came."""

    def __init__(self, served: Served, failures: list[tuple[float, str]]) -> None:
        super().__init__(served.url, served.token, retry_seconds=120.0)
        self._failures = failures

    def _once(self, *arguments: Any) -> tuple[int, bytes]:
        try:
            status, content = super()._once(*arguments)
        except Exception as e:
            self._failures.append((time.perf_counter(), type(e).__name__))
            raise
        if status >= 400:
            self._failures.append((time.perf_counter(), f"{status}"))
        return status, content


# what is done to it


def descendants() -> dict[int, str]:
    """Titles of the processes that this one started, and those they started, by their ids."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                title = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            parents[int(folder.name)], titles[int(folder.name)] = int(fields[1]), title.strip()
    found = {}
    for process in titles:
        above = parents.get(process)
        while above is not None and above != os.getpid():
            above = parents.get(above)
        if above == os.getpid():
            found[process] = titles[process]
    return found


def kill(title: str) -> None:
    """SIGKILL the one process of this session of Ray with such a title."""
    found = [process for process, each in descendants().items()
             if each == title or each.startswith((title + ".", title + " "))]  # fmt: skip
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} processes are called {title}")
    os.kill(found[0], signal.SIGKILL)


def faults(
    universe: Universe, served: Served, topology: str
) -> list[tuple[str, Callable[[], Any]]]:
    """What is done, in order."""
    promote = [sys.executable, "-m", "dpa.cli", "bundle", "promote", str(universe.bundles[1]),
               "--storage", str(served.storage)]  # fmt: skip

    def swap() -> None:
        subprocess.run(promote, check=True, stdout=subprocess.DEVNULL)

    def killed(title: str) -> Callable[[], None]:
        return lambda: kill(f"ray::{title}")

    names = ["desk"]
    if topology == "graph":
        families = HorizonBundle.load(universe.bundles[0]).families
        names = ["market", *(f"family-{name}" for name in families),
                 "blender", "arbiter", "gate", "sizer", "desk"]  # fmt: skip
    swaps = [("another bundle is promoted", swap)]
    kills = [(f"replica of {name} killed", killed(f"ServeReplica:dpa:{name}")) for name in names]
    kills += [("controller killed", killed("ServeController")),
              ("HTTP proxy killed", killed("ProxyActor"))]  # fmt: skip
    half = len(kills) // 2
    return [*kills[:half], *swaps, *kills[half:]]


@dataclass
class Done:
    """A fault and when it happened."""

    name: str
    at: float
    error: str = ""


# the truth


@dataclass
class Truth:
    """The pure pipeline on the same requests, in this process.

    Where an answer can have come about in several ways (which family was late when a bar was
    learned from), the ways that fit all answers so far are kept.
    """

    universe: Universe
    settings: Settings
    storage: Path
    served: Served
    wrong: list[str] = field(default_factory=list)
    n_right: int = 0
    n_left_out: int = 0
    guessed: int = 0

    def __post_init__(self) -> None:
        clock = SystemClock()
        promote_bundle(self.universe.bundles[0], self.storage, clock, "hand")
        self.market = MarketStage(
            self.settings, self.storage, "promoted", (), clock,
            lambda _, n: last_bars(self.settings.data, n),
        )  # fmt: skip
        self.bundles = {}
        for place in self.universe.bundles:
            bundle = HorizonBundle.load(place)
            self.bundles[bundle.manifest.fingerprint] = bundle
        self.version = self.market.version()
        past = self.market.past(self.version)
        self.before: list[LearningState] = []
        self.after = [learned(past, self.settings)[1]]
        self.risk = {name: [RiskState.start(name)] for name in ACCOUNTS}
        self.bar = -1
        self.ticks: dict[int, int] = {}
        self.again: Callable[[], list[LearningState]] | None = None

    def check(self, posted: list[Posted]) -> None:
        """Compare all answers of one bar."""
        old = [each for each in posted if each.answer["bundle"] == self.version]
        new = [each for each in posted if each.answer["bundle"] != self.version]
        if old:
            self._check_bar(old)
        if new:
            self._swap(new[0])
            self._check_bar(new)

    def _swap(self, first: Posted) -> None:
        """Use the other bundle, with the record the graph made for it."""
        self.version = str(first.answer["bundle"])
        self.market.load(str(self.bundles[self.version].folder))
        with sqlite3.connect(f"file:{self.served.storage}/serving/learning.sqlite?mode=ro",
                             uri=True) as database:  # fmt: skip
            (payload,) = database.execute(
                "SELECT payload FROM named WHERE name = ?", (CHECKPOINT,)
            ).fetchone()
        prepared = int(unpack(bytes(payload))[1]["state"]["bar"])
        before, after = learned(self._past(prepared), self.settings)
        self.market.activate(self.version)
        self.after = [after if after.bar < first.answer["bar"] else before]
        self.bar, self.again = -1, None

    def _past(self, until: int) -> tuple[Snapshot, ...]:
        """What the other bundle says of the bars on record up to one."""
        market, (bundle, model) = self.market, self.market._candidates[self.version]
        wanted = market._wanted(bundle)
        rows = [row for row in market._store.last(2 * wanted) if row[0] <= self.ticks[until]]
        return market._past(bundle, model, market._panel(bundle, rows[-wanted:]))

    def _check_bar(self, posted: list[Posted]) -> None:
        taken = [self.market.take(each.request) for each in posted]
        bar, model = taken[0].market.bar, taken[0].model
        self.ticks[bar] = int(posted[0].request.time.value)
        if bar != self.bar:
            self.bar, self.before = bar, self.after
            new_bar = True
        else:
            new_bar = False
        bundle = self.bundles[model.fingerprint]
        said = {n: f.predict(taken[0].rows.features) for n, f in bundle.families.items()}

        def snapshot(of: Taken, left_out: Mapping[str, str]) -> Snapshot:
            kept = {name: each for name, each in said.items() if name not in left_out}
            whole = model.combiner.combine(of.rows, kept)
            return Snapshot(of.market, model.forecasts(whole, left_out))

        found = [
            snapshot(t, each.answer["left_out"]) for t, each in zip(taken, posted, strict=True)
        ]
        pairs = list(zip(posted, found, strict=True))

        def with_some() -> list[Snapshot]:
            names = tuple(said)
            some = chain.from_iterable(combinations(names, k) for k in range(len(names) + 1))
            return [snapshot(taken[0], dict.fromkeys(left, "")) for left in some]

        ways = self._fitting(self.before, pairs)
        if not ways:
            self.guessed += 1
            if new_bar and self.again is not None:
                self.before = distinct([*self.before, *self.again()])
            ways = self._fitting(self.before, pairs)
        if not ways:  # an attempt whose answer was lost was counted by the account
            for each, seen in pairs:
                self._with_lost_attempts(each, seen, with_some())
            ways = self._fitting(self.before, pairs)
        self.before = ways or self.before
        for each, seen in pairs:
            self._compare(each, seen)
        learned_from = {tuple(f.forecasts.left_out): f for f in found}.values()
        before = self.before
        self.after = distinct(learn(b, f, self.settings)[0] for b in before for f in learned_from)
        self.again = lambda: distinct(
            learn(b, f, self.settings)[0] for b in before for f in with_some()
        )

    def _with_lost_attempts(self, each: Posted, seen: Snapshot, some: list[Snapshot]) -> None:
        """Add what an account may be after an attempt that left out some families."""
        name, state = each.request.account, self.before[0]
        for risk in list(self.risk[name]):
            for other in some:
                tried = Snapshot(seen.market, other.forecasts)
                after = decide(tried, State(state, risk), self.settings).risk
                self.risk[name] = distinct([*self.risk[name], after])

    def _fitting(
        self, states: list[LearningState], pairs: list[tuple[Posted, Snapshot]]
    ) -> list[LearningState]:
        """States that give the names of all answers."""
        return [s for s in states if all(self._risks(s, *pair) for pair in pairs)]

    def _risks(self, state: LearningState, each: Posted, seen: Snapshot) -> list[RiskState]:
        """States of the account that give the name of an answer."""
        name, found = each.answer["id"], self.risk[each.request.account]
        return [
            r for r in found if decision_id(seen, state.digest, r.digest, self.settings) == name
        ]

    def _compare(self, each: Posted, seen: Snapshot) -> None:
        account, learning = each.request.account, self.before[0]
        risk = [*self._risks(learning, each, seen), *self.risk[account]][0]
        decision = decide(seen, State(learning, risk), self.settings)
        wanted = orjson.loads(decision_json(decision.only(each.request.names), False))
        differing = [key for key in wanted if wanted[key] != each.answer.get(key)]
        if differing:
            self.wrong.append(
                f"bar {self.bar}, account {account}: {', '.join(differing)} "
                f"(left out: {each.answer['left_out'] or 'nothing'}); {_first(wanted, each.answer)}"
            )
        else:
            self.n_right += 1
            self.n_left_out += bool(each.answer["left_out"])
        self.risk[account] = [decision.risk]


def _first(wanted: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """The first symbol in which two answers differ: each field as wanted and as answered."""
    for one, other in zip(wanted["symbols"], answer["symbols"], strict=False):
        differing = {k: (v, other.get(k)) for k, v in one.items() if v != other.get(k)}
        if differing:
            return f"{one['symbol']}: {differing}"
    return "no symbol differs"


def learned(past: tuple[Snapshot, ...], settings: Settings) -> tuple[LearningState, LearningState]:
    """What is known before the newest of past bars, and after it."""
    said = past[0].forecasts
    before = after = LearningState.start(
        past[0].market.names, said.horizons, said.families, said.models
    )
    for snapshot in past:
        before, after = after, learn(after, snapshot, settings)[0]
    return before, after


def distinct(states: Iterable[Known]) -> list[Known]:
    """One of each digest."""
    return list({state.digest: state for state in states}.values())


# the whole


@dataclass
class Soak:
    """One run."""

    universe: Universe
    served: Served
    truth: Truth
    seconds: float
    rate: float
    todo: list[tuple[str, Callable[[], Any]]]
    failures: list[tuple[float, str]] = field(default_factory=list)
    posted: list[Posted] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Post until time is up, checking each answer."""
        bars, panel = self.universe.bars, self.universe.panel
        accounts = [NaiveAccount(name, panel.n_assets, NAV_USD, 1.0) for name in ACCOUNTS]
        clients = [CountingClient(self.served, self.failures) for _ in accounts]
        begun = time.perf_counter()
        injecting = threading.Thread(target=self._inject, args=(begun,), daemon=True)
        injecting.start()

        def post(client: Client, account: NaiveAccount, row: int) -> Posted:
            request = bars.request(row, account)
            sent = time.perf_counter()
            answer = client.decide(request, form="arrow", trace=False)
            return Posted(row, request, sent, time.perf_counter(), answer)

        with ThreadPoolExecutor(len(accounts)) as pool:
            for row in range(BEGUN, panel.n_bars):
                ahead = begun + (row - BEGUN) / self.rate - time.perf_counter()
                time.sleep(max(ahead, 0.0))
                if time.perf_counter() - begun > self.seconds:
                    break
                for account in accounts:
                    account.close_bar(int(bars.session[row]), panel.prices[row])
                jobs = [
                    pool.submit(post, c, a, row) for c, a in zip(clients, accounts, strict=True)
                ]
                try:
                    answered = [job.result() for job in jobs]
                except DpaError as e:
                    self.lost.append(f"row {row}: {e}")
                    break  # what was learned from that bar cannot be known
                self.posted += answered
                self.truth.check(answered)
                for account, each in zip(accounts, answered, strict=True):
                    account.want(target_shares(each.answer, panel.names))
        injecting.join(5.0)

    def _inject(self, begun: float) -> None:
        """One fault after another, evenly, so that the last has time to mend."""
        every = self.seconds / (len(self.todo) + 1)
        for number, (name, act) in enumerate(self.todo, 1):
            time.sleep(max(begun + (number - 0.4) * every - time.perf_counter(), 0.0))
            done = Done(name, time.perf_counter())
            try:
                act()
            except Exception as e:
                done.error = f"{type(e).__name__}: {e}"
            self.done.append(done)

    def print_faults(self) -> None:
        """What each fault led to."""
        print("| fault | attempts that failed | answers without a family | slowest answer, s "
              "| whole again after, s |\n|---|---|---|---|---|")  # fmt: skip
        ends = [*(each.at for each in self.done[1:]), float("inf")]
        for each, end in zip(self.done, ends, strict=True):
            if each.error:
                print(f"| {each.name} | not done: {each.error} | | | |")
                continue
            failed = [(at, kind) for at, kind in self.failures if each.at <= at < end]
            after = [p for p in self.posted if each.at <= p.answered and p.sent < end]
            late = [p.answered for p in after
                    if p.answer["left_out"] or p.answered - p.sent > SLOW_SECONDS]  # fmt: skip
            kinds = Counter(kind for _, kind in failed)
            said = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) or "0"
            cut = sum(bool(p.answer["left_out"]) for p in after)
            slowest = max((p.answered - p.sent for p in after), default=float("nan"))
            trouble = max([*late, *(at for at, _ in failed)], default=each.at) - each.at
            print(f"| {each.name} | {said} | {cut} | {slowest:.1f} | {trouble:.1f} |")

    def print_sums(self) -> None:
        """The whole in a few lines."""
        truth = self.truth
        kinds = Counter(kind for _, kind in self.failures)
        reasons = Counter(why for p in self.posted for why in p.answer["left_out"].values())
        median, late = percentiles([p.answered - p.sent for p in self.posted])
        bundles = Counter(p.answer["bundle"][:12] for p in self.posted)
        print(f"\nanswers {len(self.posted)}: {truth.n_right} right, {len(truth.wrong)} wrong; "
              f"{truth.n_left_out} of the right ones without a family")  # fmt: skip
        print(f"left out: {dict(reasons)}; bars whose learning had to be inferred: {truth.guessed}")
        print(f"by bundle: {dict(bundles)}")
        print(f"attempts that failed: {sum(kinds.values())} {dict(kinds)}; "
              f"requests never answered: {len(self.lost)}")  # fmt: skip
        print(f"latency with everything in it: p50 {median:.0f} ms, p99 {late:.0f} ms")
        for line in [*self.lost, *truth.wrong[:20]]:
            print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=4.0, help="bars a second, of two requests")
    parser.add_argument("--topology", choices=("graph", "fused"), default="graph")
    given = parser.parse_args()
    universe = make_universe(given, 2)
    about = f"{given.rate:g} bars a second, two requests each; {machine()}"
    print(f"## {given.minutes:g} minutes of load, {given.topology}\n")
    print(f"{describe(universe)}; {about}\n", flush=True)
    with (
        serving(universe, given.topology, environment=PROXY_HEALTH) as served,
        tempfile.TemporaryDirectory() as scratch,
    ):
        truth = Truth(universe, as_settings(served.tree), Path(scratch), served)
        soak = Soak(universe, served, truth, 60 * given.minutes, given.rate,
                    faults(universe, served, given.topology))  # fmt: skip
        soak.run()
        soak.print_faults()
        soak.print_sums()
    print(f"\n{machine()}")
    return 1 if truth.wrong or soak.lost else 0


if __name__ == "__main__":
    sys.exit(main())
