"""Requests that name every symbol on record, as the graph wants them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dpa.serving.types import Request
from dpa.trading.decider import Decider


class WholeRequests:
    """A :class:`~dpa.trading.decider.Decider` for a trader that follows only some names.

    Names of the bundle that are not traded here, or that the broker does not know, are sent as
    names without a bar that are no members, and left out of the answer.

    Parameters
    ----------
    decider : Decider
    names : sequence of str
        All of the bundle.
    """

    def __init__(self, decider: Decider, names: Sequence[str]) -> None:
        self._decider, self._names = decider, tuple(names)

    async def decide(self, request: Request) -> Mapping[str, Any]:
        """See :class:`~dpa.trading.decider.Decider`."""
        known = set(request.names)
        others = tuple(name for name in self._names if name not in known)
        if not others:
            return await self._decider.decide(request)
        answer = await self._decider.decide(whole(request, others))
        asked = [record for record in answer["symbols"] if record["symbol"] in known]
        return {**answer, "symbols": asked}


def whole(request: Request, others: Sequence[str]) -> Request:
    """A request with more names, of which nothing is known."""
    count = len(others)
    unknown, none = np.full(count, np.nan), np.zeros(count)

    def more(array: Any, added: Any) -> Any:
        return np.concatenate([array, added])

    return replace(
        request,
        names=(*request.names, *others),
        bars={name: more(array, unknown) for name, array in request.bars.items()},
        member=more(request.member, np.zeros(count, dtype=bool)),
        bid=more(request.bid, unknown),
        ask=more(request.ask, unknown),
        quote_age_ms=more(request.quote_age_ms, unknown),
        adv_usd=more(request.adv_usd, unknown),
        shares=more(request.shares, none),
        lot=more(request.lot, none + 1.0),
    )
