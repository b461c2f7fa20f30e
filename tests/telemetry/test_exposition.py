"""A real Prometheus reads what the meters say: every panel of dpa's own metrics has data.

The metrics are exported by prometheus_client, which speaks the same words as Ray's agent, so that
no Ray needs to be started; `make dashboards-test` does the same with Ray.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from dpa.telemetry.boards import BOARDS
from dpa.telemetry.catalogue import ALL, Kind
from dpa.telemetry.meters import InstrumentMeters
from dpa.telemetry.panels import WINDOW
from tests.telemetry import fed
from tests.telemetry.live_run import free_port, prometheus, until

RAYS_OWN = ("ray_node_", "ray_object_store_", "ray_serve_")


class Exported:
    """An instrument of prometheus_client that is used as one of Ray's."""

    def __init__(self, instrument: Any) -> None:
        self._instrument = instrument

    def _of(self, tags: dict[str, str]) -> Any:
        return self._instrument.labels(**tags) if tags else self._instrument

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self._of(tags).inc(value)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._of(tags).set(value)

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self._of(tags).observe(value)


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="module")
def meters(registry: CollectorRegistry) -> InstrumentMeters:
    def plain(kind: Any) -> Any:
        return lambda name, words, tags: Exported(
            kind(f"ray_{name}", words, tags, registry=registry)
        )

    def histogram(name: str, words: str, bounds: Sequence[float], tags: Any) -> Exported:
        made = prometheus_client.Histogram(
            f"ray_{name}", words, tags, buckets=bounds, registry=registry
        )
        return Exported(made)

    found = InstrumentMeters(
        plain(prometheus_client.Counter), plain(prometheus_client.Gauge), histogram
    )
    fed.feed_research(found)
    fed.feed_serving(found)
    fed.feed_trading(found, datetime.now(UTC))
    return found


def test_names_in_prometheus_are_those_of_the_catalogue(meters, registry):
    text = generate_latest(registry).decode()
    for metric in ALL:
        end = "_count" if metric.kind is Kind.HISTOGRAM else ""
        assert f"\n{metric.exported}{end}" in text
        assert f"# HELP {metric.exported} {metric.help}" in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_words_have_no_lint(meters, registry):
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


@contextmanager
def scraped(folder: Path, registry: CollectorRegistry) -> Iterator[Any]:
    port = free_port()
    server, thread = start_http_server(port, "127.0.0.1", registry)
    target = {"targets": [f"127.0.0.1:{port}"]}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "ray", "static_configs": [target]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    try:
        with prometheus(folder) as running:
            yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_every_panel_has_data(meters, registry, tmp_path):
    with scraped(tmp_path, registry) as running:
        readings = "count_over_time(up{job='ray'}[1m]) >= 3"
        until(lambda: running.now(readings), "three readings", 30.0)
        fed.feed_serving(meters)  # something happens while it is looked at
        later = f"timestamp(up{{job='ray'}}) > {time.time()}"
        until(lambda: running.now(later), "a reading after that", 30.0)
        empty = [
            (board.name, panel.title, query.expr)
            for board in BOARDS
            for panel in board.panels
            for query in panel.queries
            if not any(name in query.expr for name in RAYS_OWN)
            and not running.now(query.expr.replace(WINDOW, "30s").replace("$run", ".*"))
        ]
    assert empty == []
