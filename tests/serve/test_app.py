"""The graph on a real Ray Serve, against the same graph in this process and the pure pipeline."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import ray
from ray.exceptions import RayActorError

from dpa.clock import SystemClock
from dpa.decision.decision import Decision, State
from dpa.decision.learning import LearningState
from dpa.decision.pipeline import decide
from dpa.horizons.bundle import read_bundle_manifest
from dpa.horizons.promotion import promote_bundle
from dpa.market.shard_files import write_shards
from dpa.serving.client import Client, read_token
from dpa.serving.graph import ARBITER, BLENDER, FAMILY, GATE, MARKET, SIZER, Graph, LocalLinks
from dpa.serving.meters import NoMeters
from dpa.serving.types import Request, RequestError
from dpa.serving.wire import decision_json
from tests.horizons.small_run import CLOCK
from tests.serving.served import (
    BEGUN,
    FAMILIES,
    TREE,
    Bundles,
    make_bundles,
    make_request,
    open_graph,
    served_settings,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),  # a busy machine takes minutes to start eight replicas
    # Serve's own, on import and from its threads
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),
]

APP = "dpa"
SERVING = {"replica_cpus": 0.0, "watch_seconds": 0.1, "request_seconds": 100.0, "family_ms": 3000.0}
PATIENCE = 120.0  # seconds a deadline allows; an idle machine needs a tenth of it


def until(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What `found` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return answer


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class OracleLinks(LocalLinks):
    """Stages in this process, and the state they decide from; families late when told to be."""

    late: frozenset[str] = frozenset()
    learned: LearningState
    state: State

    async def call(self, stage: str, method: str, *arguments: Any) -> Any:
        if method == "predict" and stage.removeprefix(FAMILY) in self.late:
            raise TimeoutError
        if method == "blend":
            self.learned, _ = self._stages[BLENDER]._state_before(arguments[0])
        if method != "size":
            return await super().call(stage, method, *arguments)
        known = self._stages[SIZER]._account(arguments[0].account)
        sized = await super().call(stage, method, *arguments)
        begun = known.before if sized.digest == known.before.digest else known.after
        self.state = State(self.learned, begun)
        return sized


class Oracle:
    """The graph in this process, never disturbed, each decision checked by the pure function."""

    def __init__(self, bundles: Bundles, storage: Path, **serving: Any) -> None:
        self.settings = served_settings(serving={**SERVING, **serving})
        self.graph = open_graph(bundles, storage, self.settings, OracleLinks)
        self.links: Any = self.graph._links
        asyncio.run(self.graph.begin())

    def decide(self, request: Request) -> Decision:
        decision = asyncio.run(self.graph.decide(request))
        pure = decide(decision.snapshot, self.links.state, self.settings)
        assert decision_json(pure, True) == decision_json(decision, True)
        return decision


@dataclass
class Service:
    """The deployed graph, its oracle, and the bar they stand at."""

    bundles: Bundles
    storage: Path
    oracle_storage: Path
    url: str
    client: Client
    oracle: Oracle
    row: int = BEGUN - 1
    shares: Any = 0.0

    def request(self, row: int, **changes: Any) -> Request:
        panel = self.bundles.panel
        held = np.zeros(panel.n_assets) + changes.pop("shares", self.shares)
        return make_request(panel, row, shares=held, **changes)

    def step(self, form: str = "json", **changes: Any) -> dict[str, Any]:
        """Send the next bar; positions follow the targets."""
        self.row += 1
        found = self.same(self.request(self.row, **changes), form)
        self.shares = [record["target_shares"] for record in found["symbols"]]
        return found

    def same(self, request: Request, form: str = "json") -> dict[str, Any]:
        """The decision over HTTP, which is the one in this process, trace and all."""
        found = self.client.decide(request, form=form)
        self.oracle.links.late = frozenset(found["left_out"])
        wanted = orjson.loads(decision_json(self.oracle.decide(request), True))
        assert [name for name in wanted if found[name] != wanted[name]] == []
        assert list(found) == list(wanted)
        return found

    def promote(self, folder: Path) -> None:
        for storage in (self.storage, self.oracle_storage):
            promote_bundle(folder, storage, CLOCK, "hand")
        asyncio.run(self.oracle.graph.follow())

    def follow(self, reference: str) -> None:
        """What ``user_config`` does."""
        from ray import serve

        serve.get_app_handle(APP).reconfigure.remote({"bundle": reference}).result()
        self.oracle.graph.reference = reference
        asyncio.run(self.oracle.graph.follow())

    @property
    def version(self) -> str:
        return str(self.client.bundle()["fingerprint"])

    @property
    def other(self) -> Path:
        """The bundle that is not served."""
        both = (self.bundles.first, self.bundles.second)
        (found,) = (b for b in both if fingerprint(b) != self.version)
        return found


def fingerprint(bundle: Path) -> str:
    return read_bundle_manifest(bundle).fingerprint


def replica(deployment: str) -> Any:
    """The actor of a deployment with one replica."""
    named = ray.util.list_named_actors(all_namespaces=True)
    wanted = f"#{APP}#{deployment}#"
    for actor in named:
        if wanted in f"#{actor['name'].replace('::', '#')}":
            with contextlib.suppress(ValueError, RayActorError):
                found = ray.get_actor(**actor)
                ray.get(found.__ray_call__.remote(lambda self: 0), timeout=PATIENCE)
                return found
    return None


def pid(deployment: str) -> int:
    """Process of a deployment's replica."""
    actor = until(lambda: replica(deployment), f"a replica of {deployment}")
    return int(ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=PATIENCE))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return make_bundles(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def port(ray_session: None) -> Iterator[int]:
    """Serve, started once."""
    from ray import serve

    chosen = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": chosen})
    yield chosen
    serve.shutdown()


def arguments(storage: Path, **given: Any) -> dict[str, Any]:
    return {
        "storage": str(storage),
        "settings": {**TREE, "serving": {**TREE["serving"], **SERVING}},
        **given,
    }


@pytest.fixture(scope="module")
def service(
    port: int, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    from ray import serve

    from serve.app import Arguments, app

    storage = tmp_path_factory.mktemp("storage")
    promote_bundle(bundles.first, storage, CLOCK, "hand")
    bars = storage / "bars"
    write_shards(bundles.panel.window(0, BEGUN), bars)
    serve.run(app(Arguments(**arguments(storage, data=str(bars)))), name=APP, route_prefix="/")
    url = f"http://127.0.0.1:{port}"
    token = read_token(storage / "serving" / "token")
    beside = tmp_path_factory.mktemp("oracle")
    oracle = Oracle(bundles, beside)
    with Client(url, token, timeout_seconds=PATIENCE, retry_seconds=PATIENCE) as client:
        until(lambda: client.ready()["ready"], "ready")
        yield Service(bundles, storage, beside, url, client, oracle)
    serve.delete(APP)


def test_http_decides_bar_after_bar_what_the_pure_pipeline_decides(service):
    actions = set()
    for form in ("json", "arrow", "json", "arrow", "json", "json"):
        actions |= {record["action"] for record in service.step(form)["symbols"]}
    assert actions & {"enter", "increase", "reduce", "exit", "flip"}


def test_an_account_decides_alone(service):
    service.step()
    mine = service.same(service.request(service.row, account="other", nav_usd=5e5, shares=0.0))
    assert (mine["account"], mine["nav_usd"]) == ("other", 5e5)
    assert service.step()["account"] == "default"


def test_handles_decide_what_http_decides(service, tmp_path):
    from ray import serve

    from serve.stage import HandleLinks

    names = [MARKET, BLENDER, ARBITER, GATE, SIZER, *(FAMILY + name for name in FAMILIES)]
    links = HandleLinks(
        {n: serve.get_deployment_handle(n.replace(FAMILY, "family-"), APP) for n in names}
    )
    graph = Graph(links, service.oracle.settings, tmp_path, "promoted", NoMeters(), SystemClock())
    request = service.request(service.row + 1)
    found = service.step()

    async def ask() -> Decision:
        await graph.begin()
        return await graph.decide(request)

    assert orjson.loads(decision_json(asyncio.run(ask()), True)) == found
    with pytest.raises(RequestError, match="older than the newest") as e:
        asyncio.run(graph.decide(service.request(service.row - 1)))
    assert (e.value.status, e.value.field) == (409, "time")


def test_a_swap_under_load_fails_no_request(service):
    service.step()
    old, new = service.version, service.other
    request = service.request(service.row)
    token = read_token(service.storage / "serving" / "token")
    seen: list[str] = []
    stop = threading.Event()

    def post() -> None:
        with Client(service.url, token, timeout_seconds=PATIENCE, retry_seconds=0.0) as client:
            while not stop.is_set():
                seen.append(client.decide(request, trace=False)["bundle"])

    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(post)
        until(lambda: posting.done() or seen, "a decision")
        service.promote(new)
        until(lambda: posting.done() or fingerprint(new) in seen, "a decision of the new bundle")
        stop.set()
        posting.result()
    assert sorted(seen, key=[old, fingerprint(new)].index) == seen
    assert len(set(seen)) == 2
    assert service.same(request)["bundle"] == fingerprint(new)
    assert service.step()["bundle"] == fingerprint(new)


def test_user_config_names_the_bundle(service):
    service.step()
    new = service.other
    service.follow(str(new))
    until(lambda: service.version == fingerprint(new), "the bundle of user_config")
    assert service.step()["bundle"] == fingerprint(new)
    assert service.client.bundle()["reference"] == str(new)
    service.promote(new)
    service.follow("promoted")


def test_a_damaged_bundle_is_refused_by_name_and_the_old_one_serves(service, tmp_path):
    old, copy = service.version, tmp_path / "copy"
    shutil.copytree(service.other, copy)
    pointer = promote_bundle(copy, tmp_path / "elsewhere", CLOCK, "hand")
    weights = copy / "stacker.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    shutil.copy(pointer, tmp_path / "pointer")
    before = (service.storage / pointer.name).read_bytes()
    (tmp_path / "pointer").replace(service.storage / pointer.name)
    refused = until(lambda: service.client.bundle()["refused"], "the bundle is refused")
    assert refused["bundle"] == str(copy)
    assert "stacker.safetensors: was altered" in refused["reason"]
    assert service.step()["bundle"] == old
    (tmp_path / "pointer").write_bytes(before)
    (tmp_path / "pointer").replace(service.storage / pointer.name)
    until(lambda: service.client.bundle()["refused"] is None, "all is well again")


@pytest.mark.long
def test_killed_stages_decide_as_if_nothing_had_happened(service):
    service.step()
    stages = (MARKET, BLENDER, ARBITER, GATE, SIZER)
    killed = [pid(name) for name in stages]
    for process in killed:
        os.kill(process, signal.SIGKILL)
    service.step()
    service.step()
    assert not set(killed) & {pid(name) for name in stages}


@pytest.mark.long
def test_a_killed_family_is_left_out_until_it_is_back(service):
    service.step()
    os.kill(pid("family-ridge"), signal.SIGKILL)
    begun = time.monotonic()
    assert set(service.step()["left_out"]) <= {"ridge"}
    assert time.monotonic() - begun < PATIENCE / 2
    until(lambda: not service.step()["left_out"], "the family is back")


def test_a_family_that_hangs_is_left_out_by_name(service):
    until(lambda: not service.step()["left_out"], "all families answer")
    process = pid("family-gbdt")
    os.kill(process, signal.SIGSTOP)
    try:
        left_out = service.step()["left_out"]
    finally:
        os.kill(process, signal.SIGCONT)
    assert left_out == {"gbdt": "late: no answer within 3000 ms"}
    until(lambda: not service.step()["left_out"], "the family is back")


def test_state_changes_only_with_the_token(service):
    with Client(service.url, "a-wrong-token-of-good-length", retry_seconds=0.0) as client:
        with pytest.raises(RequestError) as e:
            client.halt("default", "eve", "no reason")
        assert (e.value.status, e.value.code) == (401, "unauthorized")
    service.client.halt("held", "ann", "odd fills")
    asyncio.run(service.oracle.graph.risk("held", "halt", "ann", "odd fills"))
    service.step()
    mine = service.same(service.request(service.row, account="held", shares=0.0))
    assert mine["risk"]["level"] == "HALTED"


def test_metrics_reach_ray(service):
    service.step()
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = (
        r'^ray_dpa_stage_seconds_count\{.*stage="sizer".*\} [1-9]',
        r"^ray_dpa_decisions_total\{.*\} [1-9]",
        r'^ray_dpa_family_answers_total\{.*family="ridge".*outcome="ok".*\} [1-9]',
    )

    def there() -> bool:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            text = answer.read().decode()
        return all(re.search(each, text, re.MULTILINE) for each in wanted)

    until(there, "metrics of decisions")


@pytest.mark.long
def test_the_fused_topology_decides_the_same(port, bundles, tmp_path):
    from ray import serve

    from serve.app import Arguments, app

    storage = tmp_path / "storage"
    promote_bundle(bundles.first, storage, CLOCK, "hand")
    bound = app(Arguments(**arguments(storage, topology="fused")))
    serve.run(bound, name="fused", route_prefix="/fused")
    url, token = f"http://127.0.0.1:{port}/fused", read_token(storage / "serving" / "token")
    with Client(url, token, timeout_seconds=PATIENCE, retry_seconds=PATIENCE) as client:
        assert client.ready()["stages"]["market"] == "no bars on record"
        client.history(bundles.panel.window(0, BEGUN))
        until(lambda: client.ready()["ready"], "ready")
        oracle = Oracle(bundles, tmp_path / "oracle")
        fused = Service(bundles, storage, tmp_path / "oracle", url, client, oracle)
        for _ in range(3):
            fused.step()
    serve.delete("fused")
