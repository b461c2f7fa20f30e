"""The graph on a real Ray Serve, against the same graph in this process and the pure pipeline."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from dpa.decision.decision import Decision, State
from dpa.decision.pipeline import decide
from dpa.horizons.promotion import promote_bundle
from dpa.market.shard_files import write_shards
from dpa.serving.client import Client, read_token
from dpa.serving.graph import BLENDER, FAMILY, SIZER, LocalLinks
from dpa.serving.types import Request
from dpa.serving.wire import decision_json
from tests.horizons.small_run import CLOCK
from tests.serving.served import (
    BEGUN,
    TREE,
    Bundles,
    make_bundles,
    make_request,
    open_graph,
    served_settings,
)

pytestmark = [
    pytest.mark.ray,
    # Serve's own, on import and from its threads
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),
]

APP = "dpa"
SERVING = {"replica_cpus": 0.0, "watch_seconds": 0.1, "request_seconds": 60.0, "family_ms": 4000.0}
PATIENCE = 60.0  # seconds a deadline allows; nothing here takes half of it on an idle machine


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
    state: State

    async def call(self, stage: str, method: str, *arguments: Any) -> Any:
        if method == "predict" and stage.removeprefix(FAMILY) in self.late:
            raise TimeoutError
        if method == "blend":
            (snapshot,), account = arguments, arguments[0].market.account
            learned, _ = self._stages[BLENDER]._state_before(snapshot)
            newest, before, after = self._stages[SIZER]._account(account)
            self.state = State(learned, before if newest == snapshot.market.bar else after)
        return await super().call(stage, method, *arguments)


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
    url: str
    client: Client
    oracle: Oracle
    row: int = BEGUN - 1
    shares: Any = 0.0

    def request(self, row: int, **changes: Any) -> Request:
        panel = self.bundles.panel
        shares = np.zeros(panel.n_assets) + self.shares
        return make_request(panel, row, **{"shares": shares, **changes})

    def wanted(self, request: Request) -> dict[str, Any]:
        decision = self.oracle.decide(request)
        return dict(orjson.loads(decision_json(decision, True)))

    def step(self, form: str = "json", **changes: Any) -> dict[str, Any]:
        """The next bar over HTTP is decided as in this process; the decision."""
        self.row += 1
        request = self.request(self.row, **changes)
        wanted = self.wanted(request)
        found = self.client.decide(request, form=form)
        assert found == wanted
        if request.account == "default":
            self.shares = [record["target_shares"] for record in found["symbols"]]
        return found


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
    oracle = Oracle(bundles, tmp_path_factory.mktemp("oracle"))
    with Client(url, token, timeout_seconds=PATIENCE, retry_seconds=PATIENCE) as client:
        until(lambda: client.ready()["ready"], "ready")
        yield Service(bundles, storage, url, client, oracle)
    serve.delete(APP)


def test_http_decides_bar_after_bar_what_the_pure_pipeline_decides(service):
    actions = set()
    for form in ("json", "arrow", "json", "arrow", "json", "json"):
        actions |= {record["action"] for record in service.step(form)["symbols"]}
    assert "enter" in actions
