"""The client against the real HTTP application, and against services that misbehave."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpa.clock import FixedClock
from dpa.decision.records import plain
from dpa.errors import ClusterUnavailable, ConfigError, OutcomeUnknown
from dpa.market.panel import Panel
from dpa.serving.client import Client, read_token
from dpa.serving.types import RequestError
from tests.horizons.small_run import CLOCK
from tests.serving.conftest import ComputingDesk, make_request, same_request
from tests.serving.http_server import TOKEN, serving
from tests.serving.planted_decisions import settings_for_few_bars

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n" + (
    b'{"id": "one"}'
)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ComputingDesk, str]]:
    desk = ComputingDesk(settings_for_few_bars())
    with serving(desk) as url:
        yield desk, url


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_a_snapshot_arrives_as_it_is_and_the_decision_comes_back(served, form):
    desk, url = served
    request = make_request(7, account=form)
    with Client(url, TOKEN) as client:
        answer = client.decide(request, form=form)
        again = client.latest(form)
    same_request(desk.requests[-1], request)
    expected = json.loads(json.dumps(plain(desk.newest[form].to_dict())))
    assert answer == again == expected


def test_a_trace_is_left_out_where_it_is_not_wanted(served):
    with Client(served[1], TOKEN) as client:
        assert client.decide(make_request(3), trace=False).get("trace") is None


def test_the_other_operations(served):
    with Client(served[1], TOKEN) as client:
        assert client.ready() == {"ready": True, "stages": {"market": "ok"}}
        assert client.bundle()["version"] == "0123456789ab"
        assert client.predict(make_request(4))["symbols"][3]["symbol"] == "S003"
        assert client.latest("nobody") is None
        assert client.halt("default", "Ada", "a test")["level"] == "HALTED"
        assert client.resume("default", "Ada", "it is over")["why"] == "Ada: it is over"


def test_a_history_arrives(served):
    desk, url = served
    request = make_request(2)
    prices = np.array([[10.0, 20.0], [10.1, np.nan]])
    times = pd.DatetimeIndex([request.time, request.time + pd.Timedelta(5, "m")])
    panel = Panel(times, ("AAA", "BBB"), prices, np.isfinite(prices), "5m", "XNYS")
    with Client(url, TOKEN) as client:
        assert client.history(panel) == {"bars": 2}
    np.testing.assert_array_equal(desk.panel.prices, prices)


def test_a_refusal_has_field_and_cure(served):
    request = make_request(3, nav_usd=-1.0)
    with Client(served[1], TOKEN) as client, pytest.raises(RequestError) as refused:
        client.decide(request)
    assert (refused.value.status, refused.value.field) == (422, "nav_usd")
    assert refused.value.cure


def test_a_wrong_token_is_refused_at_once(served):
    with Client(served[1], "wrong-token-of-length") as client, pytest.raises(RequestError) as e:
        client.decide(make_request(2))
    assert (e.value.status, e.value.code) == (401, "unauthorized")


class Script:
    """A service that does with each connection what it is told, byte by byte."""

    def __init__(self, *acts: Callable[[socket.socket], None]) -> None:
        self._acts = list(acts)
        self.seen: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for act in self._acts:
            connection, _ = self._listening.accept()
            with connection:
                connection.settimeout(5)
                self.seen.append(connection.recv(65536))
                act(connection)

    def end(self) -> None:
        self._thread.join()
        self._listening.close()


def reset(connection: socket.socket) -> None:
    """Close without a word."""


def half(connection: socket.socket) -> None:
    connection.sendall(OK[:-4])


def answer(connection: socket.socket) -> None:
    connection.sendall(OK)


def away(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 503 Away\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


class Sleeper:
    """Waits by moving a clock, and remembers for how long."""

    def __init__(self, clock: FixedClock) -> None:
        self._clock, self.waits = clock, []  # type: ignore[var-annotated]

    def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._clock.advance(seconds)


def patient(url: str, **more: Any) -> tuple[Client, Sleeper]:
    clock = FixedClock(CLOCK.now())
    sleeper = Sleeper(clock)
    return Client(url, clock=clock, sleep=sleeper, uniform=max, **more), sleeper


def test_a_decision_is_asked_for_again_when_the_connection_dies():
    script = Script(reset, half, away, answer)
    client, sleeper = patient(script.url)
    with client:
        assert client.decide(make_request(2)) == {"id": "one"}
    script.end()
    assert len({seen.partition(b"\r\n\r\n")[0] for seen in script.seen}) == 1
    assert sleeper.waits == [0.05, 0.1, 0.2]


def test_a_kept_connection_that_died_is_opened_again():
    script = Script(answer, answer)
    client, sleeper = patient(script.url)
    with client:
        assert client.latest() == {"id": "one"}
        assert client.latest() == {"id": "one"}
    script.end()
    assert len(sleeper.waits) <= 1


def test_resuming_is_never_sent_twice():
    script = Script(reset)
    client, sleeper = patient(script.url)
    with client, pytest.raises(OutcomeUnknown, match="no answer came to POST"):
        client.resume("default", "Ada", "why not")
    script.end()
    assert len(script.seen) == 1
    assert sleeper.waits == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_nobody_there_is_one_error_after_a_bounded_wait():
    client, sleeper = patient(f"http://127.0.0.1:{free_port()}", retry_seconds=4.0)
    with pytest.raises(ClusterUnavailable, match=r"nobody answers \(Connection refused\)"):
        client.latest()
    assert 2.0 < sum(sleeper.waits) <= 4.0
    assert max(sleeper.waits) == 1.0
    with pytest.raises(ClusterUnavailable):
        client.resume("default", "Ada", "why not")  # nothing was sent, so nothing is unknown


def test_another_service_is_told_apart():
    def page(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")

    script = Script(page)
    client, _ = patient(script.url)
    with client, pytest.raises(ClusterUnavailable, match="not as the decision service"):
        client.bundle()
    script.end()


def test_an_error_without_a_body_says_its_status():
    def nothing(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    script = Script(nothing)
    client, _ = patient(script.url)
    with client, pytest.raises(RequestError, match="Not Found"):
        client.latest()
    script.end()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999",
                                 "http://x/?a=1", "http://[::1"])  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="--url"):
        Client(url)


def test_tokens_are_read_from_files(tmp_path):
    path = tmp_path / "token"
    assert read_token(path) is None
    path.write_text("secret-secret-secret\n")
    assert read_token(path) == "secret-secret-secret"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_token(path)
    with pytest.raises(ConfigError, match="no token has"):
        Client("http://x", "two\r\nlines")
