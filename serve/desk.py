"""HTTP in front of the graph, as a deployment."""

import asyncio
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from dpa.clock import SystemClock
from dpa.serving.graph import Graph, Links, LocalLinks, local_stages
from dpa.serving.http import make_app
from dpa.serving.meters import ServingMeters
from dpa.serving.page import page_html
from dpa.serving.tokens import read_or_make_token
from dpa.trading.places import Places
from serve.meters import ray_meters
from serve.stage import HandleLinks, Place, log_with_serve
from serve.trader_link import TraderLink

TOKEN = "token"


@serve.deployment
@serve.ingress()
class Desk:
    """HTTP in front of the graph."""

    async def __init__(self, place: Place, handles: dict[str, DeploymentHandle]) -> None:
        settings, storage = place.settings, place.storage
        links: Links
        if handles:
            links = HandleLinks(handles)
        else:
            market = await asyncio.to_thread(place.market)
            links = LocalLinks(local_stages(settings, storage, place.plugins, market))
        log_with_serve(place, "desk")
        self._meters = ServingMeters(ray_meters())
        self._settings, self._storage = settings, storage
        clock = SystemClock()
        self._graph = Graph(links, settings, storage, place.reference, self._meters, clock)
        self._watcher = asyncio.get_running_loop().create_task(self._graph.watch())

    def __serve_build_asgi_app__(self) -> Any:
        token = read_or_make_token(self._storage / "serving" / TOKEN)
        page = page_html(self._settings)
        trader = TraderLink(Places(self._storage))
        return make_app(self._graph, self._settings, token, self._meters, page, trader=trader)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """``user_config: {bundle: ...}``: the bundle to serve from now on."""
        if "bundle" in config:
            self._graph.reference = str(config["bundle"])

    async def check_health(self) -> None:
        """The watcher must live."""
        if self._watcher.done():
            raise RuntimeError("the watcher of bundles has ended")
