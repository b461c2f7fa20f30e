"""A universe to be served: an invented market, two bundles of four families, a graph over HTTP.

The bundles are trained once and kept in a cache folder, by size.
"""

import json
import os

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import argparse  # noqa: E402
import http.client  # noqa: E402
import logging  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import cached_property  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

import numpy as np  # noqa: E402
from bench_inference import TRAINED_SESSIONS, sizes, trained_bundle  # noqa: E402

from dpa.clock import SystemClock  # noqa: E402
from dpa.config import Settings, load_settings  # noqa: E402
from dpa.horizons.bundle import HorizonBundle  # noqa: E402
from dpa.horizons.promotion import promote_bundle  # noqa: E402
from dpa.market.panel import Panel  # noqa: E402
from dpa.market.shard_files import write_shards  # noqa: E402
from dpa.serving.client import Client  # noqa: E402
from dpa.serving.replay import Bars  # noqa: E402
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars  # noqa: E402

DAY, LEARNED_SESSIONS, LIVE_SESSIONS = 78, 10, 40
BEGUN = (TRAINED_SESSIONS + LEARNED_SESSIONS) * DAY  # bars on record to begin with
HALF_SPREAD_BPS, NAV_USD = 1.0, 1e8
SETTINGS: dict[str, dict[str, Any]] = {
    "costs": {"commission_bps": 0.2},
    "serving": {"warm_sessions": LEARNED_SESSIONS},
}


@dataclass(frozen=True)
class Universe:
    """A market and the folders of two bundles trained on its first sessions."""

    folder: Path
    panel: Panel
    bundles: tuple[Path, ...]

    @cached_property
    def bars(self) -> Bars:
        """The market as it is sent, with quotes made up."""
        return Bars(self.panel, HALF_SPREAD_BPS)

    @cached_property
    def shards(self) -> Path:
        """Shards of the bars on record to begin with."""
        folder = self.folder / "begun"
        if not folder.is_dir():
            write_shards(self.panel.window(0, BEGUN), folder)
        return folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark of serving."""
    cache = Path(tempfile.gettempdir()) / "dpa-serving-universe"
    parser.add_argument("--names", type=int, default=500, help="a multiple of 20")
    parser.add_argument("--cache", type=Path, default=cache, help=f"keeps bundles [{cache}]")


def make_universe(given: argparse.Namespace, n_bundles: int = 1) -> Universe:
    """The market, and bundles that differ by their seed; those missing are trained."""
    market = IntradayMarket(
        n_clusters=20,
        names_per_cluster=-(-given.names // 20),
        n_sessions=TRAINED_SESSIONS + LEARNED_SESSIONS + LIVE_SESSIONS,
        fast_payoff=6.0,
        medium_payoff=17.0,
        slow_payoff=72.0,
    )
    panel = simulate_bars(market, 1).panel
    folder = given.cache / str(panel.n_assets)
    folder.mkdir(parents=True, exist_ok=True)
    places = []
    for seed in range(n_bundles):
        place = folder / f"bundle{seed}"
        if not place.is_dir():
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                first = panel.window(0, TRAINED_SESSIONS * DAY)
                made = trained_bundle(first, Path(scratch), seed)
                shutil.copytree(made.folder, place)
            print(f"bundle {seed} trained in {time.perf_counter() - began:.0f} s", flush=True)
        places.append(place)
    return Universe(folder, panel, tuple(places))


def describe(universe: Universe) -> str:
    """How large it is, in words."""
    return sizes(HorizonBundle.load(universe.bundles[0]))


def served_settings(
    universe: Universe, port: int = 8000, **sections: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Settings of the graph that differ from the defaults."""
    tree = {name: {**SETTINGS.get(name, {}), **sections.get(name, {})}
            for name in {*SETTINGS, *sections}}  # fmt: skip
    tree.setdefault("data", {})["path"] = str(universe.shards)
    tree["serving"]["http_port"] = port
    return tree


def as_settings(tree: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The same as settings."""
    return load_settings(None, tree, {})


@dataclass(frozen=True)
class Served:
    """A graph behind HTTP."""

    url: str
    token: str
    storage: Path
    tree: dict[str, dict[str, Any]]

    def client(self, **options: Any) -> Client:
        """A client of it."""
        return Client(self.url, self.token, **options)


@contextmanager
def serving(
    universe: Universe,
    topology: str,
    *,
    throughput: bool = True,
    environment: Mapping[str, str] | None = None,
    **sections: Mapping[str, Any],
) -> Iterator[Served]:
    """Ray and the graph in this process's session, on a free port, with a storage of its own."""
    wanted = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1" if throughput else "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **(environment or {}),
    }
    os.environ.update(wanted)  # read when Ray is imported
    import ray
    from ray import serve

    from serve.app import TOKEN, Arguments, app

    port = free_port()
    sections = {**sections, "serving": {**sections.get("serving", {}), "topology": topology}}
    tree = served_settings(universe, port, **sections)
    with tempfile.TemporaryDirectory(prefix="dpa-served-") as scratch:
        storage = Path(scratch)
        promote_bundle(universe.bundles[0], storage, SystemClock(), "hand")
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=500 * 2**20,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            bound = app(Arguments(storage=str(storage), settings=tree))
            serve.run(bound, name="dpa", route_prefix="/")
            token = (storage / "serving" / TOKEN).read_text(encoding="utf-8").strip()
            served = Served(f"http://127.0.0.1:{port}", token, storage, tree)
            wait_until_ready(served)
            yield served
        finally:
            serve.shutdown()
            ray.shutdown()


class Poster:
    """Posts ready-made bodies to ``/v1/decide`` over one connection, answers not looked into.

    Parameters
    ----------
    served : Served
    kind : str
        Media type of bodies and answers.
    """

    def __init__(self, served: Served, kind: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = {
            "Authorization": f"Bearer {served.token}",
            "Content-Type": kind,
            "Accept": kind,
        }

    def post(self, body: bytes) -> tuple[float, bytes]:
        """Seconds until the whole answer was there, and the answer."""
        began = time.perf_counter()
        self._connection.request("POST", "/v1/decide", body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        seconds = time.perf_counter() - began
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content[:300]!r}")
        return seconds, content

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_ready(served: Served, seconds: float = 300.0) -> None:
    """Return when decisions are answered."""
    until = time.monotonic() + seconds
    with served.client() as client:
        while not client.ready()["ready"]:
            if time.monotonic() > until:
                raise TimeoutError(json.dumps(client.ready()))
            time.sleep(0.2)


def percentiles(seconds: Any) -> tuple[float, float]:
    """Median and 99th percentile, milliseconds."""
    median, late = 1e3 * np.percentile(np.asarray(seconds, dtype=float), (50, 99))
    return float(median), float(late)


def machine() -> str:
    """Cores and the load now, in words."""
    one, five, _ = os.getloadavg()
    return f"{os.cpu_count()} cores, load {one:.2f} now and {five:.2f} over 5 minutes"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the universe of the benchmarks of serving.")
    add_options(parser)
    universe = make_universe(parser.parse_args(), 2)
    print(describe(universe))


if __name__ == "__main__":
    main()
