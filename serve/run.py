"""Serve the decision graph on this machine: ``python serve/run.py --help``.

Without a bundle of your own it invents a market, trains a small bundle on its first part, keeps it
for the next time, serves it and replays the rest, so that there is something to look at.
"""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpa.cli import STORAGE, guarded
from dpa.config import Settings
from dpa.errors import ConfigError, DpaError
from dpa.horizons.promotion import read_pointer
from dpa.hosts.token import ensure_token
from dpa.market.panel import Panel
from dpa.market.shard_files import ShardManifest, write_shards
from dpa.options import OneLineParser, add_settings_options, read_overrides, settings_from
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from dpa.stores.places import plain_path

ROOT = Path(__file__).resolve().parents[1]
DEMO = "demo"
DEMO_MARKET = IntradayMarket(
    n_clusters=5,
    names_per_cluster=8,
    n_sessions=85,
    fast_payoff=6.0,
    medium_payoff=17.0,
    slow_payoff=72.0,
)
DEMO_SEED = 7
TRAINED_SESSIONS, WARM_SESSIONS = 55, 12  # the rest is replayed
DEMO_TRAINING = (
    "--train-sessions=30",
    "--test-sessions=12",
    "--gbdt-trees=40",
    "--encoder-epochs=10",
    "--epochs=10",
)
DEMO_COMMISSION_BPS = 0.2  # of the served graph; the replay's quotes are narrow too
DEMO_QUOTES = ("--half-spread-bps=0.5", "--account=demo")
SERVING_SECTIONS = (
    "data",
    "standardise",
    "confidence",
    "blend",
    "online",
    "arbitration",
    "costs",
    "gates",
    "sizing",
    "risk",
    "serving",
    "logging",
)
EXAMPLES = """examples:
  python serve/run.py
  python serve/run.py --storage runs --bundle promoted --data us_5min_bars.parquet
  python serve/run.py --storage runs --bundle s3://bucket/runs --data us_5min_bars.parquet
  python serve/run.py --topology fused --http-port 8123 --no-replay
"""


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(
        prog="run.py",
        description="Serve the decision graph over HTTP with Ray Serve, on this machine. Without "
        "--storage on an invented market:\na small bundle is trained on its first part (minutes, "
        "once), and the rest is replayed.",
        epilog=EXAMPLES,
    )
    run = parser.add_argument_group("what is served")
    run.add_argument(
        "--storage",
        type=plain_path,
        metavar="PATH",
        help=f"where runs are kept, bars and accounts beside them in serving/ [{STORAGE}/{DEMO}, "
        "an invented market]",
    )
    run.add_argument(
        "--bundle",
        default="promoted",
        metavar="BUNDLE",
        help="a bundle's folder, a run with one, or promoted, which is followed; or the URI of "
        "one in a store, or of a storage there, whose promoted one is followed [promoted]",
    )
    run.add_argument(
        "--plugins",
        action="append",
        default=[],
        metavar="FILE",
        help="file with features or families of your own; it is run, give it again for more",
    )
    run.add_argument(
        "--fresh", action="store_true", help="forget the bars, accounts and record kept there"
    )
    run.add_argument("--no-replay", action="store_true", help="do not replay the invented market")
    run.add_argument(
        "--bars-per-second", type=float, default=2.0, metavar="X", help="pace of the replay [2]"
    )
    run.add_argument("--num-cpus", type=int, metavar="N", help="cores Ray may use here [all]")
    run.add_argument("--no-dashboard", action="store_true", help="without Ray's dashboard")
    add_settings_options(parser, SERVING_SECTIONS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.num_cpus is not None and arguments.num_cpus < 1:
        raise ConfigError(f"--num-cpus {arguments.num_cpus}", "give 1 or more")
    if not arguments.bars_per_second > 0:
        raise ConfigError(f"--bars-per-second {arguments.bars_per_second}", "give more than 0")
    settings = settings_from(arguments)
    demo = arguments.storage is None
    storage = (Path(STORAGE) / DEMO if demo else arguments.storage).resolve()
    given: dict[str, Any] = settings.model_dump(mode="json", include=set(SERVING_SECTIONS))
    if demo:
        _refuse_with_demo(arguments, settings)
        bars, until = prepare_demo(storage)
        given["data"] |= {"path": str(bars), "end": until}
        if "commission_bps" not in read_overrides(arguments).get("costs", {}):
            given["costs"]["commission_bps"] = DEMO_COMMISSION_BPS
    if arguments.fresh:
        shutil.rmtree(storage / "serving", ignore_errors=True)
    return _serve(arguments, storage, given, bars if demo else None)


def _refuse_with_demo(arguments: argparse.Namespace, settings: Settings) -> None:
    if settings.data.path is not None or arguments.bundle != "promoted":
        flag = "--data" if settings.data.path is not None else "--bundle"
        raise ConfigError(f"{flag}: is for bundles of your own", "name their --storage too")


# the invented market


def prepare_demo(storage: Path) -> tuple[Path, str]:
    """Shards of the invented market, and the last date of the history to begin with.

    A small bundle is trained on the sessions before, unless there is one already.
    """
    bars = storage / "bars"
    panel = _demo_bars(bars)
    dates = panel.times.tz_convert("America/New_York").normalize().unique()
    if read_pointer(storage) is None:
        print("training a small bundle on an invented market; a few minutes, once", flush=True)
        command = [
            sys.executable,
            str(ROOT / "tune" / "horizons.py"),
            f"--data={bars}",
            f"--end={dates[TRAINED_SESSIONS - 1].date()}",
            f"--storage={storage}",
            "--no-dashboard",
            *DEMO_TRAINING,
        ]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise DpaError("the bundle could not be trained", "see the message above")
    return bars, str(dates[TRAINED_SESSIONS + WARM_SESSIONS - 1].date())


def _demo_bars(bars: Path) -> Panel:
    panel = simulate_bars(DEMO_MARKET, DEMO_SEED).panel
    if not bars.is_dir() or ShardManifest.load(bars).altered_files():
        write_shards(panel, bars, force=True)
    return panel


# serving


def _serve(
    arguments: argparse.Namespace, storage: Path, given: dict[str, Any], replayed: Path | None
) -> int:
    serving = given["serving"]
    os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")  # read when Ray starts
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    print("starting Ray and the graph", flush=True)
    if address := os.environ.get("RAY_ADDRESS"):
        from serve.joining import find_cluster

        find_cluster(address)
    import ray
    from ray import serve

    from serve.app import DESK, TOKEN, Arguments, app  # noqa: F401

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    bound = app(
        Arguments(
            storage=str(storage),
            bundle=arguments.bundle,
            plugins=tuple(arguments.plugins),
            settings=given,
        )
    )
    ensure_token()  # Ray would leave it readable by everybody
    context = ray.init(
        num_cpus=arguments.num_cpus,
        include_dashboard=not arguments.no_dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    replay = None
    try:
        http = _http_options(serving)
        serve.start(http_options=http)
        serve.run(bound, name="dpa", route_prefix="/")
        scheme = "https" if serving["ssl_certificate"] else "http"
        url = f"{scheme}://{http['host']}:{http['port']}"
        token = storage / "serving" / TOKEN
        print(_words(url, token, context.dashboard_url), flush=True)
        if replayed is not None and not arguments.no_replay:
            log = storage / "serving" / "replay.log"
            replay = _start_replay(url, token, replayed, arguments.bars_per_second, log)
            print(f"replaying the rest of the invented market; its log is {log}", flush=True)
        while not stop.wait(1.0):
            if replay is not None and replay.poll() is not None:
                print("the replay has ended; the graph keeps serving", flush=True)
                replay = None
    finally:
        if replay is not None:
            replay.terminate()
        print("stopping", flush=True)
        serve.shutdown()
        ray.shutdown()
    return 0


def _http_options(serving: dict[str, Any]) -> dict[str, Any]:
    """Where Serve listens, and with which certificate."""
    return {
        "host": serving["http_host"],
        "port": serving["http_port"],
        "ssl_certfile": serving["ssl_certificate"],
        "ssl_keyfile": serving["ssl_key"],
    }


def _words(url: str, token: Path, dashboard: str) -> str:
    lines = [
        f"serving at {url}",
        f"  page       {url}/",
        f"  decisions  curl {url}/v1/decisions/latest",
        f"  operations {url}/docs",
        f"  token      {token}",
    ]
    if dashboard:
        lines.append(f"  Ray        http://{dashboard}")
    return "\n".join([*lines, "Ctrl-C ends it"])


def _start_replay(
    url: str, token: Path, bars: Path, pace: float, log: Path
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "dpa.cli",
        "serve",
        "replay",
        f"--url={url}",
        f"--token-file={token}",
        f"--data={bars}",
        f"--speed={pace}",
        *DEMO_QUOTES,
    ]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main())
