"""The trader as an actor: named, detached, started again when it dies. Wiring only.

There is one in a cluster, ``trader`` in the namespace ``dpa``; what it knows is on the disk, so
that one that was killed comes up where it was. See dpa/trading/service.py and docs/trading.md.
"""

import asyncio
import contextlib
import logging
import os
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from dpa.errors import UserError
from dpa.telemetry.logs import log_to_files
from dpa.trading.places import Places, Start
from dpa.trading.service import TradingService
from serve.meters import ray_meters
from serve.trader_link import NAME, NAMESPACE, find_trader

START_SECONDS: Final = 120.0  # for the first attempt to begin
STOP_SECONDS: Final = 30.0


class Trader:
    """Runs a trading service in a task of its own, and answers for it.

    Parameters
    ----------
    start : Start
    """

    async def __init__(self, start: Start) -> None:
        logging.getLogger("dpa").setLevel(logging.INFO)
        settings = start.settings
        secrets = (start.token, settings.alerts.alert_webhook)
        log_to_files(settings.logging, start.storage, "trader", secrets=secrets)
        self._service = TradingService(start, meters=ray_meters())
        self._task = asyncio.get_running_loop().create_task(self._service.run())

    async def begun(self) -> dict[str, Any]:
        """The status once the first attempt to begin is over."""
        await self._service.settled.wait()
        return self._service.status()

    async def status(self) -> dict[str, Any]:
        """See :meth:`TradingService.status`."""
        return self._service.status()

    async def command(
        self, name: str, by: str, why: str, seen: str | None = None
    ) -> dict[str, Any]:
        """See :meth:`TradingService.command`."""
        return await self._service.command(name, by, why, seen)

    async def stop(self) -> dict[str, Any]:
        """Cancel what works and end; the last status."""
        await self._service.stop()
        await asyncio.wait({self._task}, timeout=STOP_SECONDS)
        return self._service.status()


def start_trader(start: Start, seconds: float = START_SECONDS) -> tuple[Any, dict[str, Any]]:
    """Start the actor; its handle, and its status after the first attempt to begin.

    Raises
    ------
    UserError
        One is there already, says who; or nobody may trade there, says why.
    """
    if (running := find_trader()) is not None:
        raise UserError(_taken(running), "see 'dpa trade status'; end it with 'dpa trade stop'")
    Places(start.storage).keep(start)
    options: dict[str, Any] = {
        "name": NAME,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "max_restarts": -1,
        "max_task_retries": 0,
        "num_cpus": 0,
    }
    try:
        handle = ray.remote(Trader).options(**options).remote(start)
    except ValueError as e:  # somebody else was faster
        raise UserError(_taken(find_trader()), "see 'dpa trade status'") from e
    try:
        status: dict[str, Any] = ray.get(handle.begun.remote(), timeout=seconds)
    except BaseException:
        ray.kill(handle, no_restart=True)
        raise
    if status["state"] == "refused":
        ray.kill(handle, no_restart=True)
        raise UserError(f"nothing is traded: {status['why']}")
    return handle, status


def _taken(handle: Any) -> str:
    with contextlib.suppress(Exception):  # whatever it is, it is there
        status = ray.get(handle.status.remote(), timeout=5.0)
        holder = status["lease"]["holder"] or f"process {status['pid']}"
        return f"a trader runs already: {holder}, since {status['since']}"
    return "a trader runs already"


def stop_trader(handle: Any, seconds: float = STOP_SECONDS + 10.0) -> dict[str, Any] | None:
    """Let the trader cancel and end, and take the actor away; its last status, or none."""
    status = None
    with contextlib.suppress(RayActorError, GetTimeoutError):
        status = ray.get(handle.stop.remote(), timeout=seconds)
    ray.kill(handle, no_restart=True)
    return status


def connect_ray(address: str | None) -> None:
    """Connect to a cluster that :func:`serve.joining.find_cluster` has found."""
    ray.init(
        address=address or os.environ.get("RAY_ADDRESS") or "auto",
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
