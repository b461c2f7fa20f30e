"""The decision graph on Ray Serve: ``serve run serve.app:app``. Wiring only, no maths.

Each stage is a deployment and the desk behind HTTP composes them by handles; with
``topology: fused`` all stages live in the desk. See docs/serving.md.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from dpa.clock import SystemClock
from dpa.config import Settings, load_settings
from dpa.errors import RunError
from dpa.horizons.bundle import HorizonBundle, read_bundle_manifest
from dpa.horizons.promotion import find_bundle
from dpa.market.last_bars import last_bars
from dpa.market.panel import Panel
from dpa.serving.graph import (
    ARBITER,
    BLENDER,
    FAMILY,
    GATE,
    MARKET,
    SIZER,
    Graph,
    Links,
    LocalLinks,
    local_stages,
)
from dpa.serving.http import make_app
from dpa.serving.market_stage import MarketStage, read_active
from dpa.serving.page import page_html
from dpa.serving.stages import ArbiterStage, BlenderStage, FamilyStage, GateStage, SizerStage
from dpa.serving.tokens import read_or_make_token
from serve.meters import RayMeters

DESK = "desk"
TOKEN = "token"
BULKY = frozenset({"past"})  # methods whose answers do not fit into a message
RETRY_SECONDS = 0.05
QUEUE = 100  # requests a replica takes at once; Ray's default of 5 is too few
log = logging.getLogger("dpa.serving")
HEALTH = {"health_check_period_s": 2.0, "health_check_timeout_s": 10.0}


class Arguments(BaseModel):
    """What ``serve run serve.app:app name=value ...`` and ``args`` of a config file may give."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str = "runs"
    bundle: str = "promoted"
    plugins: tuple[str, ...] = ()
    config: str | None = None
    topology: Literal["graph", "fused"] | None = None
    data: str | None = None
    settings: dict[str, dict[str, Any]] = {}

    def load(self) -> Settings:
        """The settings: defaults < YAML < environment < what is given here."""
        overrides = {section: dict(values) for section, values in self.settings.items()}
        if self.topology is not None:
            overrides.setdefault("serving", {})["topology"] = self.topology
        if self.data is not None:
            overrides.setdefault("data", {})["path"] = str(Path(self.data).resolve())
        return load_settings(self.config, overrides)


class Place:
    """Where a deployment finds what it serves; small, and sent to every replica.

    Parameters
    ----------
    settings : Settings
    storage : Path
        Absolute.
    reference : str
    plugins : tuple of str
    """

    def __init__(
        self, settings: Settings, storage: Path, reference: str, plugins: tuple[str, ...]
    ) -> None:
        self.settings, self.storage = settings, storage
        self.reference, self.plugins = reference, plugins

    def stage(self, name: str) -> Any:
        """The stage called `name`, made here."""
        if name == MARKET:
            return self.market()
        if name == BLENDER:
            return BlenderStage(self.settings, self.storage)
        if name == ARBITER:
            return ArbiterStage(self.settings)
        if name == GATE:
            return GateStage(self.settings)
        if name == SIZER:
            return SizerStage(self.settings, self.storage)
        return FamilyStage(name.removeprefix(FAMILY), self.plugins, self.storage)

    def market(self) -> MarketStage:
        """The market stage; the history named in the settings is read when none is on record."""
        return MarketStage(
            self.settings, self.storage, self.reference, self.plugins, SystemClock(), self._history
        )

    def _history(self, bundle: HorizonBundle, n_bars: int) -> Panel | None:
        data = self.settings.data
        return None if data.path is None else last_bars(data, n_bars)


def _log_with_serve() -> None:
    """What dpa logs goes where Serve's own log goes."""
    ours = logging.getLogger("dpa")
    ours.handlers = logging.getLogger("ray.serve").handlers
    ours.setLevel(logging.INFO)


@dataclass(frozen=True)
class Parcel:
    """Something in the object store; Serve's messages hold 4 MiB, and it would unpack a bare
    reference before sending."""

    content: ray.ObjectRef[Any]


@serve.deployment
class Stage:
    """Any stage as a deployment; calls run in threads, so that health checks are answered."""

    def __init__(self, place: Place, name: str) -> None:
        _log_with_serve()
        self._stage = place.stage(name)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the stage; what is bulky travels through the object store."""
        whole = [await each.content if isinstance(each, Parcel) else each for each in arguments]
        answer = await asyncio.to_thread(getattr(self._stage, method), *whole)
        return Parcel(ray.put(answer)) if method in BULKY else answer


class HandleLinks:
    """Stages behind handles.

    A call that a dying replica loses is made again: every stage answers the same call with the
    same answer.

    Parameters
    ----------
    handles : mapping of str to DeploymentHandle
    """

    def __init__(self, handles: Mapping[str, DeploymentHandle]) -> None:
        self._handles = dict(handles)

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families that are deployed."""
        names = (name for name in self._handles if name.startswith(FAMILY))
        return tuple(name.removeprefix(FAMILY) for name in names)

    async def call(self, stage: str, method: str, *arguments: Any) -> Any:
        """Call a method of a stage; what it raises is raised here."""
        while True:
            try:
                return await self._handles[stage].call.remote(method, *arguments)
            except RayTaskError as e:
                cause = e.cause
                raise cause if isinstance(cause, Exception) else e from None
            except (RayActorError, DeploymentUnavailableError) as e:
                log.warning("%s.%s is asked again: %s", stage, method, e)
                await asyncio.sleep(RETRY_SECONDS * (1.0 + random.random()))


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
        _log_with_serve()
        self._meters = RayMeters()
        self._settings, self._storage = settings, storage
        clock = SystemClock()
        self._graph = Graph(links, settings, storage, place.reference, self._meters, clock)
        self._watcher = asyncio.get_running_loop().create_task(self._graph.watch())

    def __serve_build_asgi_app__(self) -> Any:
        token = read_or_make_token(self._storage / "serving" / TOKEN)
        page = page_html(self._settings)
        return make_app(self._graph, self._settings, token, self._meters, page)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """``user_config: {bundle: ...}``: the bundle to serve from now on."""
        if "bundle" in config:
            self._graph.reference = str(config["bundle"])

    async def check_health(self) -> None:
        """The watcher must live."""
        if self._watcher.done():
            raise RuntimeError("the watcher of bundles has ended")


def app(args: Arguments) -> serve.Application:
    """The graph, bound; the builder behind ``serve run``, ``serve build`` and ``serve deploy``.

    Raises
    ------
    DpaError
        When settings are wrong, or there is no bundle to begin with.
    """
    settings = args.load()
    storage = Path(args.storage).resolve()
    reference = args.bundle
    if reference != "promoted" and Path(reference).exists():
        reference = str(Path(reference).resolve())
    place = Place(settings, storage, reference, args.plugins)
    serving = settings.serving
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": serving.replica_cpus},
        "max_ongoing_requests": QUEUE,
        **HEALTH,
    }
    handles: dict[str, Any] = {}
    if serving.topology == "graph":
        for name in (MARKET, BLENDER, ARBITER, GATE, SIZER):
            handles[name] = Stage.options(name=name, **options).bind(place, name)
        for family in _families(storage, reference):
            name = FAMILY + family
            several = {**options, "num_replicas": serving.family_replicas}
            handles[name] = Stage.options(name=f"family-{family}", **several).bind(place, name)
    config = {"bundle": reference}
    bound: serve.Application = Desk.options(name=DESK, user_config=config, **options).bind(
        place, handles
    )
    return bound


def _families(storage: Path, reference: str) -> tuple[str, ...]:
    """Families to deploy: those of the bundle asked for and of the one in use."""
    found: dict[str, None] = dict.fromkeys(
        read_bundle_manifest(find_bundle(reference, storage)).families
    )
    active = read_active(storage)
    if active is not None:
        with contextlib.suppress(RunError):
            found.update(dict.fromkeys(read_bundle_manifest(active).families))
    return tuple(found)
