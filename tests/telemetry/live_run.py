"""A live run under a real Prometheus: a grid, predictors, the decision graph and a trader.

Everything listens on loopback and lives in a folder of its own. The programs are those a user
starts, with Ray's dashboard on, since that writes the file from which Prometheus learns where the
metrics are.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpa.market.shard_files import write_shards
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from dpa.telemetry.prometheus import export

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 600.0  # seconds of a step, as a bound of failure
SCRAPE_SECONDS = 2
TRIES, NOT_STARTED = 3, ("timed out during startup", "ActorDiedError")  # words of Ray
FEATURES = "return_scaled_5m,close_location_5m,range_surprise_5m,volume_surprise_5m,reversal_30m"
MARKET = IntradayMarket(
    n_clusters=2,
    names_per_cluster=4,
    n_sessions=12,
    start="2024-06-24",
    fast_payoff=12.0,
    medium_payoff=34.0,
)
TRAINED_SESSIONS, TRADED_SESSION = 8, 10  # of the twelve, counted from 0
TRADED_BARS = 36  # three hours
GRID = (
    "--window=10,12",
    "--n-clusters=2",
    "--similarity-threshold=0.3",
    "--signal-window=6",
    "--epochs=1",
    "--start=2020-06-01",
)
PREDICTORS = (
    f"--horizons=5m,30m --feature-list={FEATURES} --cluster=absent --families=ridge,gbdt "
    "--sigma-minutes=390 --train-sessions=3 --test-sessions=1 --sessions-per-block=4 "
    "--gbdt-trees=40 --gbdt-min-rows=50"
).split()
PAPER: dict[str, Any] = {
    "standardise": {"score_samples": 20},
    "confidence": {"ic_prior_samples": 10.0},
    "online": {"online_warmup": 20},
    "arbitration": {"reserve_bps": 0.0, "timing_factor": 0.0},
    "costs": {"commission_bps": 0.2, "impact_coefficient": 0.0, "half_spread_bps": 0.5},
    "gates": {"barrier_block": 0.9, "barrier_exit": 0.95},
    "serving": {"warm_sessions": 2, "family_ms": 60000.0, "checkpoint_bars": 3},
    "trading": {"decision_seconds": 60.0},
}


def free_port() -> int:
    """A port nobody listens on, as the kernel says."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def until(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What `found` returns once that is something."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.3)
    return answer


@dataclass
class Prometheus:
    """A Prometheus process, asked over HTTP.

    Parameters
    ----------
    url : str
    process : Popen
    """

    url: str
    process: "subprocess.Popen[bytes]"

    def get(self, path: str, **arguments: Any) -> Any:
        """The data of an answer; raises where Prometheus says that it is an error."""
        words = urllib.parse.urlencode(arguments, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{words}", timeout=30) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{arguments}: {e.read().decode()}") from e

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def series(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """What a query returns over time."""
        found: list[dict[str, Any]] = self.get(
            "query_range", query=expr, start=start, end=end, step=step
        )["result"]
        return found

    def now(self, expr: str) -> list[dict[str, Any]]:
        """What a query returns now."""
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """A Prometheus with the configuration in `folder`, until the end."""
    port = free_port()
    command = [
        str(shutil.which("prometheus")),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    running = Prometheus(f"http://127.0.0.1:{port}", process)
    try:
        until(running.is_ready, "Prometheus", 30.0)
        yield running
    finally:
        process.terminate()
        process.wait(20.0)


@dataclass
class LiveRun:
    """What ran, and when.

    Parameters
    ----------
    prometheus : Prometheus
    spans : dict of str to (float, float)
        Beginning and end of each part, seconds since 1970.
    """

    prometheus: Prometheus
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)

    def counted_since(self, begun: float) -> float:
        """When something of dpa was counted first, at `begun` or later."""
        (found,) = self.prometheus.series(
            'count({__name__=~"ray_dpa_.*"})', begun, time.time(), 2.0
        )
        return float(found["values"][0][0])

    def span(self, name: str) -> tuple[float, float]:
        """Of a dashboard."""
        return self.spans[name]


@contextmanager
def live_run(speed: float = 90.0) -> Iterator[LiveRun]:
    """Run everything, one after the other; Prometheus is there until the end.

    Parameters
    ----------
    speed : float
        Seconds of the traded session a second.
    """
    folder = Path(tempfile.mkdtemp(prefix="dpa-m.", dir="/tmp"))  # Ray's sockets want short paths
    try:
        monitoring = folder / "monitoring"
        export(
            monitoring,
            str(folder / "ray" / "prom_metrics_service_discovery.json"),
            SCRAPE_SECONDS,
        )
        with prometheus(monitoring) as running:
            live = LiveRun(running)
            _research(folder, live)
            _trade(folder, live, speed)
            yield live
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "2000",
        "RAY_worker_niceness": "0",  # trials and replicas are what is looked at
        "OMP_NUM_THREADS": "1",
    }


def _run(folder: Path, name: str, command: Sequence[str]) -> None:
    """Run a program to its end; once more where a busy machine did not get Ray started."""
    for _ in range(TRIES):
        code = _run_once(folder, name, command)
        words = (folder / f"{name}.log").read_text(errors="replace")
        if code == 0 or not any(word in words for word in NOT_STARTED):
            break
    assert code == 0, f"{name} ended with {code}:\n{words[-4000:]}"


def _run_once(folder: Path, name: str, command: Sequence[str]) -> int:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=_environment(folder),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        return process.wait(PATIENCE)
    except BaseException:
        process.terminate()
        process.wait(60.0)
        raise


def _research(folder: Path, live: LiveRun) -> None:
    panel = simulate_bars(MARKET, 5).panel
    dates = panel.times.tz_convert("America/New_York").strftime("%Y-%m-%d")
    days = dates.unique()
    first = int((dates == days[TRADED_SESSION]).argmax())
    write_shards(panel.window(0, first + TRADED_BARS), folder / "bars")
    begun = time.time()
    grid = [str(REPOSITORY / "tune" / "grid.py"), f"--storage={folder / 'runs'}", *GRID]
    _run(folder, "grid", grid)
    predictors = [
        str(REPOSITORY / "tune" / "horizons.py"),
        f"--storage={folder / 'paper'}",
        f"--data={folder / 'bars'}",
        f"--end={days[TRAINED_SESSIONS - 1]}",
        *PREDICTORS,
    ]
    _run(folder, "predictors", predictors)
    live.spans["research"] = live.counted_since(begun), time.time()
    (folder / "day").write_text(str(days[TRADED_SESSION]))


def _trade(folder: Path, live: LiveRun, speed: float) -> None:
    settings = folder / "settings.yaml"
    settings.write_text(json.dumps(PAPER))
    begun = time.time()
    command = [
        str(REPOSITORY / "serve" / "paper.py"),
        f"--config={settings}",
        f"--storage={folder / 'paper'}",
        "--bundle=promoted",
        f"--replay={folder / 'bars'}",
        f"--start={(folder / 'day').read_text()}",
        f"--http-port={free_port()}",
        "--topology=fused",
        "--replica-cpus=0",
        "--num-cpus=2",
        f"--speed={speed:g}",
        "--dashboard",
        "--fresh",
    ]
    _run(folder, "paper", command)
    live.spans["serving"] = live.spans["trading"] = live.counted_since(begun), time.time()
