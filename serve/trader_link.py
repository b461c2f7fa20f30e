"""The trader behind HTTP: found by name, asked and told."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

import ray
from ray.exceptions import RayActorError, RayTaskError

from dpa.clock import SystemClock
from dpa.errors import DpaError, UserError
from dpa.serving.types import RequestError, no_trader
from dpa.trading.places import Places
from dpa.trading.switch import Switch

log = logging.getLogger("dpa.trading")
NAME: Final = "trader"
NAMESPACE: Final = "dpa"


def find_trader() -> Any:
    """The handle of the actor; none when there is none. Ray must be connected."""
    try:
        return ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        return None


class TraderLink:
    """The trader, as HTTP asks it (:class:`dpa.serving.types.Trader`).

    Parameters
    ----------
    places : Places
        Of the storage that is served.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    async def status(self) -> Mapping[str, Any]:
        """See :class:`dpa.serving.types.Trader`."""
        handle = await self._handle()
        found: Mapping[str, Any] = await self._asked(handle.status.remote())
        return found

    async def command(
        self, name: str, by: str, why: str, seen: str | None = None
    ) -> Mapping[str, Any]:
        """See :class:`dpa.serving.types.Trader`."""
        halted = False
        if name == "kill":  # the file first: it holds whoever lives or comes
            try:
                halted = await asyncio.to_thread(self._halt, by, why)
            except (DpaError, OSError) as e:  # the trader is told all the same
                log.critical("the switch cannot be halted: %s", e)
                if await asyncio.to_thread(find_trader) is None:
                    raise
        handle = await self._handle(name == "kill", halted)
        if name == "stop":
            found: Mapping[str, Any] = await self._asked(handle.stop.remote())
            ray.kill(handle, no_restart=True)
            return found
        asked: Mapping[str, Any] = await self._asked(handle.command.remote(name, by, why, seen))
        return asked

    def _halt(self, by: str, why: str) -> bool:
        """Halt what was ever traded in the storage; whether anything was."""
        if not self._places.folder.is_dir():
            return False
        Switch(self._places.switch, SystemClock()).halt(by, why)
        return True

    async def _handle(self, killed: bool = False, halted: bool = False) -> Any:
        handle = await asyncio.to_thread(find_trader)
        if handle is None:
            if killed and not halted:
                none = f", and nothing was ever traded in {self._places.storage}: nothing is halted"
                raise no_trader(none, "'dpa kill --storage PATH' with the storage of the trader")
            if killed:
                done = "; trading is halted all the same"
                raise no_trader(done, "cancel at the broker with 'dpa kill'")
            raise no_trader()
        return handle

    async def _asked(self, call: Any) -> Any:
        try:
            return await call
        except RayTaskError as e:
            cause = e.cause
            if isinstance(cause, UserError):
                raise RequestError(409, "conflict", cause.what, cause.cure) from None
            if isinstance(cause, DpaError):
                raise RequestError(503, "not_ready", cause.what, cause.cure) from None
            raise
        except RayActorError as e:
            raise RequestError(
                503, "not_ready", "the trader does not answer; it is started again", "try again"
            ) from e
