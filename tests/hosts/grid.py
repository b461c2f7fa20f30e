"""The grid on one host, on three, and on three of which one is lost half-way."""

import csv
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dpa.errors import DpaError
from dpa.simulation.planted import PlantedMarket, simulate
from tests.hosts.cluster import BIN, TOKEN, Cluster
from tests.hosts.facts import Facts
from tests.hosts.host import SHARED, SOURCE
from tests.hosts.machines import REPOSITORY

POINTS = ("--window=10,12", "--n-clusters=2,3", "--similarity-threshold=0.3")
SIZES = ("--train-bars=40", "--test-bars=20", "--epochs=32")
N_TRIALS, N_BARS = 4, 230
BYTES_THAT_COUNT = ("returns.parquet", "weights.parquet", "clusters.parquet",
                    "checkpoint/model.safetensors")  # fmt: skip
MEASURED = ("seconds", "peak_memory_mb")  # columns of the tables that no run repeats
RUN_SECONDS, LOOK_SECONDS = 1200.0, 0.05
LOST_AT_MOST = 2  # folds
SAVED_AT_MOST = 6  # of 9: a trial that is further may end before the kill
Say = Callable[[str], None]


def write_prices(path: Path) -> None:
    """A planted market of eight names."""
    planted = simulate(PlantedMarket(n_clusters=2, names_per_cluster=4, n_bars=N_BARS), 3).panel
    dates = planted.times.tz_convert("America/New_York").normalize().tz_localize(None)
    pd.DataFrame(planted.prices, dates.rename("date"), list(planted.names)).to_parquet(path)


def arguments(storage: str) -> list[str]:
    """Flags of the grid, as a host sees its files."""
    return [f"--storage={SHARED / storage}", f"--data={SHARED / 'prices.parquet'}",
            *POINTS, *SIZES]  # fmt: skip


# one run and what it left


@dataclass(frozen=True)
class Ran:
    """A grid that has ended.

    Parameters
    ----------
    folder : Path
        Of the run, as this process sees it.
    wall, cpu : float
        Seconds; of processors those of all hosts together.
    """

    folder: Path
    wall: float
    cpu: float

    def rows(self) -> list[dict[str, str]]:
        """The table of results."""
        with (self.folder / "grid_search_results.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def work(self) -> float:
        """Seconds that the trials say they worked."""
        return sum(float(row["seconds"] or 0) for row in self.rows())

    def code(self) -> str:
        """Hash of the code that ran."""
        manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        return str(manifest["code_hash"])


def run_folder(storage: Path) -> Path | None:
    """The run in `storage`, once it is there."""
    found = [path.parent for path in storage.glob("*/manifest.json")]
    return found[0] if found else None


def differences(one: Path, other: Path) -> list[str]:
    """Files of two runs that differ where they may not: tables, trials, the promoted model."""
    found = [name for name in ("grid_search_results.csv", "baselines.csv")
             if comparable(one / name) != comparable(other / name)]  # fmt: skip
    trials = sorted(path.name for path in (one / "trials").iterdir())
    if trials != sorted(path.name for path in (other / "trials").iterdir()):
        found.append("trials")
    files = [f"trials/{trial}/{name}" for trial in trials for name in BYTES_THAT_COUNT]
    files += ["best/model.safetensors"]
    return found + [name for name in files if _bytes(one / name) != _bytes(other / name)]


def comparable(path: Path) -> list[dict[str, str]]:
    """A table without what was measured with a clock or a scale; rows sorted by trial."""
    with path.open(newline="") as stream:
        rows = [{k: v for k, v in row.items() if k not in MEASURED}
                for row in csv.DictReader(stream)]  # fmt: skip
    return sorted(rows, key=lambda row: row["trial_id"])


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b"missing"


# folds, and who did them


def saved_folds(run: Path) -> dict[str, int]:
    """Folds that each trial has saved; all of them where it is finished: -1."""
    found = {}
    for folder in (run / "trials").glob("*"):
        if (folder / "summary.json").is_file():
            found[folder.name] = -1
            continue
        states = [int(path.name) for path in folder.glob("state/[0-9]*")]
        found[folder.name] = max(states, default=0)
    return found


def reports(run: Path) -> dict[str, list[dict[str, Any]]]:
    """What each trial reported to Tune, a line a fold, in the order of time."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(run.glob("tune/*/*/result.json")):
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # the last may be half written
        lines = [json.loads(line) for line in whole.splitlines()]
        found.setdefault(path.parent.name, []).extend(lines)
    return found


def folds_again(before: dict[str, int], told: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """Finished folds that were done again, by trial.

    Parameters
    ----------
    before : dict
        What each trial had saved when the host was killed; see :func:`saved_folds`.
    told : dict
        See :func:`reports`; a trial that was started again has reports of two processes.
    """
    found = {}
    for trial, lines in told.items():
        pids = list(dict.fromkeys((line["node_ip"], line["pid"]) for line in lines))
        if len(pids) < 2 or before.get(trial, 0) < 0:
            continue
        first = next(line for line in lines if (line["node_ip"], line["pid"]) == pids[1])
        found[trial] = before.get(trial, 0) - (int(first["folds_done"]) - 1)
    return found


# running


class GridScenario:
    """All of it.

    Parameters
    ----------
    cluster : Cluster
    say : callable
    """

    def __init__(self, cluster: Cluster, say: Say) -> None:
        self.cluster, self.say = cluster, say
        self.machines = cluster.machines
        self.facts = Facts("The grid on one host and on three")

    def run(self) -> Facts:
        """Run it; the cluster is up and is left up, with all its hosts."""
        write_prices(self.cluster.outside("prices.parquet"))
        n = len(self.machines.names)
        one = self._timed("one host, 'python tune/grid.py'", "one", self._on_one)
        self._state(one, "one host, one core")
        plain = self._timed(f"{n} hosts, 'python tune/grid.py --address'", "plain", self._plain)
        self._state(plain, f"{n} hosts, one core each")
        self._same(f"{n} hosts give what one gives", one, plain)
        self.facts.promised("the code that ran is the same", one.code()[:12],
                            one.code() == plain.code())  # fmt: skip
        self._killed(one)
        return self.facts

    def _state(self, ran: Ran, name: str) -> None:
        slots = 1 if "one host" in name else len(self.machines.names)
        self.facts.measured(
            f"{name}: wall / CPU / work of the trials",
            f"{ran.wall:.1f} s / {ran.cpu:.1f} s / {ran.work():.1f} s; "
            f"beyond the work, per slot {ran.wall - ran.work() / slots:.1f} s",
        )

    def _same(self, what: str, one: Ran, other: Ran) -> None:
        differ = differences(one.folder, other.folder)
        n_files = len(one.rows()) * len(BYTES_THAT_COUNT) + 3
        found = f"{n_files} files identical" if not differ else f"differ: {', '.join(differ[:4])}"
        self.facts.promised(what, found, not differ)

    def _timed(self, words: str, storage: str, run: Callable[[str], None]) -> Ran:
        self.say(f"grid: {words}")
        cpu, began = self._cpu(), time.monotonic()
        run(storage)
        wall = time.monotonic() - began
        folder = run_folder(self.cluster.outside(storage))
        if folder is None:
            raise DpaError(f"grid: {words}: left no run")
        return Ran(folder, wall, self._cpu() - cpu)

    def _cpu(self) -> float:
        return sum(host.cpu_seconds() for host in self.machines.hosts.values())

    def _on_one(self, storage: str) -> None:
        self.cluster.operator.run(
            f"{BIN}/python", str(REPOSITORY / "tune" / "grid.py"), *arguments(storage),
            "--num-cpus=1", "--no-dashboard", seconds=RUN_SECONDS,
        )  # fmt: skip

    def _plain(self, storage: str) -> None:
        address = f"{self.machines.plan.of(self.cluster.head.name)}:6379"
        self.cluster.head.run(
            f"{BIN}/python", str(Path.home() / SOURCE / "tune" / "grid.py"), *arguments(storage),
            f"--address={address}", seconds=RUN_SECONDS, env=TOKEN,
        )  # fmt: skip

    # the kill

    def _killed(self, one: Ran) -> None:
        cluster, storage = self.cluster, "killed"
        log = self.machines.folder / "killed.log"
        self.say(
            f"grid: {len(self.machines.names)} hosts, submitted as a job; a worker will be lost"
        )
        began = time.monotonic()
        with cluster.submitting(
            "python", str(Path.home() / SOURCE / "tune" / "grid.py"), "--address=auto",
            *arguments(storage), log=log,
        ) as job:  # fmt: skip
            victim, folder = self._victim(storage, job)
            before = saved_folds(folder)
            self.machines.kill(victim)
            at = time.monotonic() - began
            self.say(f"grid: {victim} killed after {at:.0f} s")
            self._await(job, log)
        wall = time.monotonic() - began
        ran = Ran(folder, wall, 0.0)
        self._same(f"{victim} killed after {at:.0f} s: the results are those of one host", one, ran)
        told = reports(folder)
        again = folds_again(before, told)
        done = sum(max(n, 0) for n in before.values())
        self.facts.measured(
            "when it was killed",
            f"{sum(n < 0 for n in before.values())} of {N_TRIALS} trials finished, {done} folds of "
            f"the others saved, {len(again)} trials ran on it",
        )
        self.facts.promised(
            "finished folds done again (at most two)",
            f"{sum(again.values())}; the fold that was under way was begun again in "
            f"{len(again)} trials",
            bool(again) and sum(again.values()) + len(again) <= LOST_AT_MOST,
        )
        slowest = max((_pause(lines) for t, lines in told.items() if t in again), default=0.0)
        self.facts.measured("until the lost trial's next fold", f"{slowest:.1f} s")
        self.facts.measured("wall of the disturbed run", f"{wall:.1f} s")
        self._come_back(victim)

    def _victim(self, storage: str, job: Any) -> tuple[str, Path]:
        """A worker in the middle of a trial that has saved folds, and the run."""
        until = time.monotonic() + RUN_SECONDS
        while time.monotonic() < until and job.poll() is None:
            folder = run_folder(self.cluster.outside(storage))
            if folder is not None:
                saved, told = saved_folds(folder), reports(folder)
                at = {lines[-1]["node_ip"] for trial, lines in told.items()
                      if lines and 2 <= saved.get(trial, 0) < SAVED_AT_MOST}  # fmt: skip
                for name in self.machines.names[1:]:
                    if str(self.machines.plan.of(name)) in at:
                        return name, folder
            time.sleep(LOOK_SECONDS)
        raise DpaError("no worker was in the middle of a trial", "see killed.log")

    def _await(self, job: Any, log: Path) -> None:
        try:
            code = job.wait(RUN_SECONDS)
        finally:
            if job.poll() is None:
                job.kill()
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
            raise DpaError("the grid that lost a worker failed:\n" + "\n".join(lines))

    def _come_back(self, victim: str) -> None:
        self.say(f"grid: {victim} is switched on again")
        self.machines.boot(victim)
        self.facts.measured("switched on again, it joins", self.cluster.rejoin())


def _pause(lines: list[dict[str, Any]]) -> float:
    """Seconds between the last report before a trial was lost and the first after."""
    for last, first in itertools.pairwise(lines):
        if last["pid"] != first["pid"] or last["node_ip"] != first["node_ip"]:
            return float(first["timestamp"] - last["timestamp"])
    return 0.0
