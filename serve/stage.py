"""A stage of the graph as a deployment, and the handles that reach it.

Only what a stage needs is imported, where it is made: torch and the like stay out of the replicas
that hold no model.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from dpa.clock import SystemClock
from dpa.config import Settings
from dpa.serving.stages import (
    ARBITER,
    BLENDER,
    FAMILY,
    GATE,
    MARKET,
    SIZER,
    ArbiterStage,
    BlenderStage,
    FamilyStage,
    GateStage,
    SizerStage,
)
from dpa.telemetry.logs import log_to_files

if TYPE_CHECKING:
    from dpa.horizons.bundle import HorizonBundle
    from dpa.market.panel import Panel
    from dpa.serving.market_stage import MarketStage

BULKY = frozenset({"past"})  # methods whose answers do not fit into a message
RETRY_SECONDS = 0.05
log = logging.getLogger("dpa.serving")


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
        threads = self.settings.serving.family_threads
        return FamilyStage(name.removeprefix(FAMILY), self.plugins, self.storage, threads)

    def market(self) -> "MarketStage":
        """The market stage; the history named in the settings is read when none is on record."""
        from dpa.serving.market_stage import MarketStage

        return MarketStage(
            self.settings, self.storage, self.reference, self.plugins, SystemClock(), self._history
        )

    def _history(self, bundle: "HorizonBundle", n_bars: int) -> "Panel | None":
        from dpa.market.last_bars import last_bars

        data = self.settings.data
        return None if data.path is None else last_bars(data, n_bars)


def log_with_serve(place: Place, name: str) -> None:
    """What dpa logs goes where Serve's own log goes, and into the logs of the storage."""
    ours = logging.getLogger("dpa")
    ours.handlers = logging.getLogger("ray.serve").handlers
    ours.setLevel(logging.INFO)
    log_to_files(place.settings.logging, place.storage, f"serve-{name.replace(':', '-')}")


@dataclass(frozen=True)
class Parcel:
    """Something in the object store; Serve's messages hold 4 MiB, and it would unpack a bare
    reference before sending."""

    content: ray.ObjectRef[Any]


@serve.deployment
class Stage:
    """Any stage as a deployment; calls run in threads, so that health checks are answered."""

    def __init__(self, place: Place, name: str) -> None:
        log_with_serve(place, name)
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
            except TaskCancelledError:  # Serve cancels the calls of a request whose client left
                raise asyncio.CancelledError from None
            except (RayActorError, DeploymentUnavailableError) as e:
                log.warning("%s.%s is asked again: %s", stage, method, e)
                await asyncio.sleep(RETRY_SECONDS * (1.0 + random.random()))
