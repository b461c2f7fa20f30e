"""A whole universe decided over HTTP, beside the same computation in process.

    python tests/benchmarks/bench_serving.py

Each way of serving runs in a session of Ray of its own. Every request is a new bar. With a second
client, both send each bar at the same moment, for accounts of their own.
"""

from serving_runs import (  # noqa: I001
    BEGUN, NAV_USD, Poster, Served, Universe, add_options, as_settings, describe, machine,
    make_universe, percentiles, served_settings, serving,
)  # fmt: skip

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dpa.clock import SystemClock
from dpa.horizons.promotion import promote_bundle
from dpa.market.last_bars import last_bars
from dpa.serving.graph import Graph, LocalLinks, local_stages
from dpa.serving.market_stage import MarketStage
from dpa.serving.meters import NoMeters
from dpa.serving.replay import NaiveAccount
from dpa.serving.wire import (
    ARROW,
    JSON,
    decision_arrow,
    decision_json,
    parse_arrow,
    parse_json,
    request_arrow,
    request_json,
)

TARGET_MS = 100.0
WARMED = 20  # bars sent before anything is timed
FLUSH_SECONDS = 12.0  # until Ray has exported what was metered
KINDS = {"JSON": JSON, "Arrow": ARROW}
WAYS = ("in process", "fused", "graph", "fused, untuned", "graph, untuned")
_SAMPLE = re.compile(r'ray_dpa_stage_seconds_(sum|count)\{.*stage="([^"]+)".*\} (\S+)')


def bodies(universe: Universe, rows: range, kind: str, account: str) -> list[bytes]:
    """Requests of an account that holds a little of everything."""
    write = request_json if kind == JSON else request_arrow
    money = NaiveAccount(account, universe.panel.n_assets, NAV_USD, 1.0)
    money.shares = np.random.default_rng(3).integers(-50, 50, universe.panel.n_assets) * 1.0
    return [write(universe.bars.request(row, money)) for row in rows]


# in process


class DirectLinks(LocalLinks):
    """Stages called where they are, without a thread."""

    async def call(self, stage: str, method: str, *arguments: Any) -> Any:
        return getattr(self._stages[stage], method)(*arguments)


class Recorder(NoMeters):
    """Seconds of every stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def stage(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds)


def in_process(universe: Universe, n_bars: int) -> dict[str, Any]:
    """Parse, decide and write the answer without any server."""
    settings = as_settings(served_settings(universe))
    recorder, clock = Recorder(), SystemClock()
    found: dict[str, Any] = {"latency": {}, "cpu": {}}
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(scratch)
        promote_bundle(universe.bundles[0], storage, clock, "hand")

        def history(_: Any, n: int) -> Any:
            return last_bars(settings.data, n)

        market = MarketStage(settings, storage, "promoted", (), clock, history)
        stages = local_stages(settings, storage, (), market)
        graph = Graph(DirectLinks(stages), settings, storage, "promoted", recorder, clock)

        async def run() -> None:
            await graph.begin()
            first = BEGUN
            for label, kind in KINDS.items():
                rows = range(first, first + n_bars + WARMED)
                first = rows.stop
                parse = parse_json if kind == JSON else parse_arrow
                write = decision_json if kind == JSON else _written_arrow
                wall, cpu = [], []
                recorder.seconds.clear()
                for body in bodies(universe, rows, kind, "default"):
                    began, used = time.perf_counter(), time.process_time()
                    request = parse(body, 5000, decide=True)
                    parsed = time.perf_counter()
                    decision = await graph.decide(request)
                    decided = time.perf_counter()
                    write(decision, True)
                    ended = time.perf_counter()
                    recorder.stage("http:parse", parsed - began)
                    recorder.stage("http:answer", ended - decided)
                    wall.append(ended - began)
                    cpu.append(time.process_time() - used)
                found["latency"][f"{label}, alone"] = wall[WARMED:]
                found["cpu"][label] = float(np.mean(cpu[WARMED:]))
                if kind == JSON:
                    means = {k: float(np.mean(v[WARMED:])) for k, v in recorder.seconds.items()}
                    found["stages"] = means

        asyncio.run(run())
    return found


def _written_arrow(decision: Any, _: bool) -> bytes:
    return decision_arrow(decision)


# over HTTP


def over_http(universe: Universe, way: str, n_bars: int) -> dict[str, Any]:
    """The four ways to ask one way of serving."""
    topology, _, untuned = way.partition(", ")
    found: dict[str, Any] = {"latency": {}, "second": {}, "bytes": {}}
    with serving(universe, topology, throughput=not untuned) as served:
        first = BEGUN
        for label, kind in KINDS.items():
            rows = range(first, first + n_bars + WARMED)
            first = rows.stop
            metered = kind == JSON and not untuned
            before = _metered(served) if metered else {}
            seconds, sizes = alone(served, bodies(universe, rows, kind, "default"), kind)
            found["latency"][f"{label}, alone"] = seconds[WARMED:]
            found["bytes"][label] = sizes
            if metered:
                found["stages"] = _means(before, _metered(served))
            rows = range(first, first + n_bars + WARMED)
            first = rows.stop
            pairs = [bodies(universe, rows, kind, name) for name in ("default", "second")]
            one, two = together(served, pairs, kind)
            found["latency"][f"{label}, beside a second client"] = one[WARMED:]
            found["second"][label] = two[WARMED:]
    return found


def alone(served: Served, sent: list[bytes], kind: str) -> tuple[list[float], list[int]]:
    """Seconds of each answer; bytes of a request and of its answer."""
    poster = Poster(served, kind)
    found = [poster.post(body) for body in sent]
    poster.close()
    return [seconds for seconds, _ in found], [len(sent[-1]), len(found[-1][1])]


def together(served: Served, pairs: list[list[bytes]], kind: str) -> list[list[float]]:
    """Seconds of each answer, of two clients that send every bar at the same moment."""
    meet = threading.Barrier(len(pairs))
    spent: list[list[float]] = [[] for _ in pairs]
    failed: list[BaseException] = []

    def client(mine: list[bytes], seconds: list[float]) -> None:
        poster = Poster(served, kind)
        try:
            for body in mine:
                meet.wait(60)
                seconds.append(poster.post(body)[0])
        except BaseException as e:
            failed.append(e)
            meet.abort()
        finally:
            poster.close()

    threads = [
        threading.Thread(target=client, args=each) for each in zip(pairs, spent, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return spent


def _metered(served: Served) -> dict[str, tuple[float, float]]:
    """Milliseconds and calls by stage so far, of Ray's metrics."""
    import ray

    time.sleep(FLUSH_SECONDS)
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for what, stage, value in _SAMPLE.findall(text):
        of = found.setdefault(stage, {"sum": 0.0, "count": 0.0})
        of[what] += float(value)
    return {stage: (of["sum"], of["count"]) for stage, of in found.items()}


def _means(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Seconds a call between two readings."""
    found = {}
    for stage, (total, count) in after.items():
        total_before, count_before = before.get(stage, (0.0, 0.0))
        if count > count_before:
            found[stage] = (total - total_before) / (count - count_before)
    return found


# the whole


def print_latencies(results: dict[str, dict[str, Any]]) -> None:
    """One row a way of serving and of asking."""
    base = np.median(results["in process"]["latency"]["JSON, alone"])
    print(
        "| how it is served | asked | p50, ms | p99, ms | p50 over in process |\n"
        "|---|---|---|---|---|"
    )
    for way, found in results.items():
        for asked, seconds in found["latency"].items():
            median, late = percentiles(seconds)
            mark = f" (target {TARGET_MS:.0f})" if "second" in asked else ""
            print(
                f"| {way} | {asked} | {median:.1f} | {late:.1f}{mark} "
                f"| {median / (1e3 * base):.2f} |"
            )
    cpu = results["in process"]["cpu"]
    print(
        "\nin process, CPU of a request: "
        + ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in cpu.items())
    )
    sizes = next((f["bytes"] for f in results.values() if "bytes" in f), {})
    for label, (sent, answered) in sizes.items():
        print(f"{label}: request {sent / 1e3:.0f} kB, answer {answered / 1e3:.0f} kB")


def print_parts(results: dict[str, dict[str, Any]]) -> None:
    """Where the time of a JSON request goes, alone."""
    ways = [way for way in results if "stages" in results[way]]
    names = list(dict.fromkeys(name for way in ways for name in results[way]["stages"]))
    order = ["http:parse", "market", *(n for n in names if n.startswith("family:")), "blender",
             "arbiter", "gate", "sizer", "http:answer"]  # fmt: skip
    print("\n| mean, ms | " + " | ".join(ways) + " |\n|---|" + "---|" * len(ways))
    for name in order:
        cells = [results[way]["stages"].get(name) for way in ways]
        print(
            f"| {name} | " + " | ".join("" if c is None else f"{1e3 * c:.1f}" for c in cells) + " |"
        )
    totals, rest = [], []
    for way in ways:
        stages = results[way]["stages"]
        total = float(np.mean(results[way]["latency"]["JSON, alone"]))
        families = [v for k, v in stages.items() if k.startswith("family:")]
        spent = sum(v for k, v in stages.items() if k in order and not k.startswith("family:"))
        spent += sum(families) if way == "in process" else max(families)
        totals.append(total)
        rest.append(total - spent)
    print(
        "| the rest: HTTP, combining, waiting | "
        + " | ".join(f"{1e3 * c:.1f}" for c in rest)
        + " |"
    )
    print("| whole | " + " | ".join(f"{1e3 * c:.1f}" for c in totals) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--bars", type=int, default=300, help="timed for each row")
    parser.add_argument("--ways", default=";".join(WAYS), help=f"which of {';'.join(WAYS)}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    universe = make_universe(given)
    if given.one is not None:
        run: Callable[..., dict[str, Any]] = in_process if given.one == "in process" else over_http
        arguments = (
            (universe, given.bars) if run is in_process else (universe, given.one, given.bars)
        )
        print(json.dumps(run(*arguments)))
        return
    print(f"## Decisions over HTTP\n\n{describe(universe)}; {machine()}\n", flush=True)
    results = {}
    for way in given.ways.split(";"):
        command = [sys.executable, __file__, "--one", way, "--bars", str(given.bars),
                   "--names", str(given.names), "--cache", str(given.cache)]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        results[way] = json.loads(done.stdout.splitlines()[-1])
        for asked, seconds in results[way]["latency"].items():
            median, late = percentiles(seconds)
            words = f"{way}, {asked}: p50 {median:.1f} ms, p99 {late:.1f} ms; {machine()}"
            print(words, file=sys.stderr, flush=True)
    print_latencies(results)
    print_parts(results)
    late = [percentiles(s)[1] for way, f in results.items() if "untuned" not in way
            for asked, s in f["latency"].items() if "second" in asked]  # fmt: skip
    print(f"\nlargest p99 beside a second client: {max(late, default=float('nan')):.1f} ms")


if __name__ == "__main__":
    main()
