"""Deciders over real HTTP and in this process give the same decisions."""

import asyncio
import threading

import pytest

from dpa.clock import SystemClock
from dpa.config import Settings
from dpa.errors import ClusterUnavailable
from dpa.serving.client import Client
from dpa.serving.types import RequestError
from dpa.serving.wire import to_json
from dpa.trading.decider import DeskDecider, HttpDecider
from tests.serving.conftest import ComputingDesk, make_request
from tests.serving.http_server import TOKEN, serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def http_decider(url: str, **options) -> HttpDecider:
    return HttpDecider(lambda: Client(url, TOKEN, clock=SystemClock(), **options))


def test_over_http_and_in_this_process_it_is_the_same_decision():
    settings = Settings()
    requests = [make_request(seed=seed) for seed in range(3)]

    async def ask(decider):
        return [await decider.decide(request) for request in requests]

    here = asyncio.run(ask(DeskDecider(ComputingDesk(settings))))
    with serving(ComputingDesk(settings)) as url:
        decider = http_decider(url)
        there = asyncio.run(ask(decider))
        decider.close()
    assert [to_json(d) for d in there] == [to_json(d) for d in here]
    assert all("trace" not in decision for decision in there)


def test_requests_are_sent_one_after_another_in_order():
    """All at once from the engine's side; the client is for one thread at a time."""
    order, threads = [], set()

    class Slow:
        def decide(self, request, *, form, trace):
            threads.add(threading.get_ident())
            order.append(request.account)
            return {"id": request.account}

        def close(self):
            pass

    async def go():
        decider = HttpDecider(Slow)
        asked = [make_request(account=str(k)) for k in range(20)]
        answers = await asyncio.gather(*(decider.decide(request) for request in asked))
        decider.close()
        return answers

    answers = asyncio.run(go())
    assert order == [str(k) for k in range(20)]
    assert [a["id"] for a in answers] == order
    assert len(threads) == 1


def test_a_service_that_is_away_is_said_so():
    with serving(ComputingDesk(Settings())) as url:
        pass
    decider = http_decider(url, retry_seconds=0.0, timeout_seconds=5.0)
    with pytest.raises(ClusterUnavailable):
        asyncio.run(decider.decide(make_request()))
    decider.close()


def test_a_refusal_keeps_its_words():
    class Refusing(ComputingDesk):
        async def decide(self, request):
            raise RequestError(409, "stale", "the bar is older than the newest", "send later bars")

    with serving(Refusing(Settings())) as url:
        decider = http_decider(url)
        with pytest.raises(RequestError, match="older than the newest"):
            asyncio.run(decider.decide(make_request()))
        decider.close()


def test_in_this_process_requests_take_turns():
    running, most = 0, 0

    class Desk(ComputingDesk):
        async def decide(self, request):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return await super().decide(request)

    async def go():
        decider = DeskDecider(Desk(Settings()))
        await asyncio.gather(*(decider.decide(make_request(seed=k)) for k in range(5)))

    asyncio.run(go())
    assert most == 1
