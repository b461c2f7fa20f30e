"""Who decides: the graph over HTTP, or the graph in this process."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from dpa.serving.client import Client
from dpa.serving.types import Desk, Request


class Decider(Protocol):
    """Turns a snapshot into a decision."""

    async def decide(self, request: Request) -> Mapping[str, Any]:
        """The decision as :func:`dpa.decision.records.to_dict` gives it, without the trace.

        Raises
        ------
        DpaError
            When there is none: nobody answers, or the request is refused.
        """
        ...


class HttpDecider:
    """Asks a decision service.

    Requests are sent one after another from one thread, in the order in which they were asked:
    the service takes bars in order, and a client is for one thread.

    Parameters
    ----------
    make_client : callable
        Called once, in that thread.
    """

    def __init__(self, make_client: Callable[[], Client]) -> None:
        self._make_client = make_client
        self._client: Client | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decider")

    async def decide(self, request: Request) -> Mapping[str, Any]:
        """See :class:`Decider`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, request)

    def _ask(self, request: Request) -> dict[str, Any]:
        if self._client is None:
            self._client = self._make_client()
        return self._client.decide(request, form="arrow", trace=False)

    def close(self) -> None:
        """Let the thread and the connection go; what is asked already is not waited for."""
        if self._client is not None:
            self._thread.submit(self._client.close)
        self._thread.shutdown(wait=False, cancel_futures=False)


class DeskDecider:
    """Asks a graph in this process, such as :class:`dpa.serving.graph.Graph`.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turn = asyncio.Lock()

    async def decide(self, request: Request) -> Mapping[str, Any]:
        """See :class:`Decider`."""
        async with self._turn:
            decision = await self._desk.decide(request)
        return decision.to_dict(trace=False)
