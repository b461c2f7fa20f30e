"""HTTP in front of a desk: who is let in, what is refused and how it is said."""

import asyncio
import contextlib
import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
import uvicorn
from fastapi import FastAPI

from dpa.config import Settings
from dpa.decision.decision import Decision
from dpa.decision.records import from_arrow, plain
from dpa.errors import ClusterUnavailable, DataError, RunError
from dpa.market.panel import Panel
from dpa.serving import wire
from dpa.serving.http import allowed_hosts, make_app
from dpa.serving.page import page_html
from dpa.serving.types import Request, RequestError
from dpa.serving.wire import ARROW, JSON, history_arrow, request_arrow, request_json, to_stream
from tests.serving.conftest import ComputingDesk, ToldTrader, make_request, same_request

TOKEN = "a-token-for-the-tests"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
HERE = "http://127.0.0.1:8000"


class Recorder:
    """Meters that keep what they are told."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append(name)

    def decided(self, reasons: Mapping[str, int], actions: Mapping[str, int]) -> None: ...

    def family(self, name: str, ok: bool, why: str = "") -> None: ...


def settings_with(**serving: Any) -> Settings:
    return Settings.model_validate({"serving": serving})


def app_of(desk: Any = None, settings: Settings | None = None, token: str = TOKEN) -> FastAPI:
    settings = settings or Settings()
    desk = desk or ComputingDesk(settings)
    return make_app(desk, settings, token, Recorder(), page_html(settings))


def ask(app: FastAPI, method: str, path: str, base: str = HERE, **more: Any) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, **more)

    return asyncio.run(exchange())


def post(app: FastAPI, path: str, body: Any, kind: str = JSON, **headers: str) -> httpx.Response:
    return ask(
        app,
        "POST",
        path,
        content=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers={**AUTHORISED, "Content-Type": kind, **headers},
    )


def refusal(response: httpx.Response, status: int, code: str) -> dict[str, str]:
    """The error of an answer, after checking its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == JSON
    error = response.json()["error"]
    assert set(error) == {"code", "what", "cure", "field"}
    assert (error["code"], bool(error["what"]), bool(error["cure"])) == (code, True, True)
    return dict(error)


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "write"), [(JSON, request_json), (ARROW, request_arrow)])
def test_a_decision_over_http_is_the_one_made(kind: str, write: Any) -> None:
    desk, request = ComputingDesk(Settings()), make_request(40)
    app = app_of(desk)
    response = post(app, "/v1/decide", write(request), kind)
    same_request(desk.requests[0], request)
    made = desk.newest["default"]
    assert response.headers["content-type"] == JSON
    assert response.json() == plain(made.to_dict())
    brief = post(app, "/v1/decide?trace=false", write(request), kind).json()
    assert brief == plain(made.to_dict(trace=False))
    assert "trace" not in brief
    table = post(app, "/v1/decide", write(request), kind, Accept=ARROW)
    assert table.headers["content-type"] == ARROW
    with pa.ipc.open_stream(table.content) as stream:
        assert plain(from_arrow(stream.read_all())) == plain(made.to_dict())
    assert ask(app, "GET", "/v1/decisions/latest").json() == plain(made.to_dict())


def test_a_prediction_comes_in_both_formats() -> None:
    app, request = app_of(), make_request(4)
    answer = post(app, "/v1/predict", request_json(request)).json()
    assert [row["symbol"] for row in answer["symbols"]] == list(request.names)
    table = post(app, "/v1/predict", request_arrow(request), ARROW, Accept=ARROW)
    with pa.ipc.open_stream(table.content) as stream:
        read = stream.read_all()
    forecasts = [row["forecasts"][0][1] for row in answer["symbols"]]
    assert read["forecast_5m_ridge"].to_pylist() == forecasts
    body = {"time": "2024-07-01T14:35:00Z", "symbols": [{"symbol": "AAA"}]}
    assert post(app, "/v1/predict", body).status_code == 200
    assert refusal(post(app, "/v1/decide", body), 422, "invalid")["field"] == "nav_usd"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", JSON),
        ("", JSON),
        (f"{ARROW}, {JSON};q=0.5", ARROW),
        (f"{ARROW};q=0.5, {JSON}", JSON),
        ("text/html, application/*;q=0.9", JSON),
        (f"{ARROW};q=nonsense, */*;q=0.1", JSON),
    ],
)
def test_accept_chooses_the_format(accept: str, kind: str) -> None:
    response = post(app_of(), "/v1/decide", request_json(make_request()), Accept=accept)
    assert response.headers["content-type"] == kind


def test_what_cannot_be_accepted_is_406() -> None:
    app = app_of()
    refusal(post(app, "/v1/decide", {}, Accept="text/html"), 406, "not_acceptable")
    refusal(post(app, "/v1/decide", {}, Accept=f"{JSON};q=0"), 406, "not_acceptable")


def test_the_latest_decision_of_an_account() -> None:
    app = app_of()
    assert (
        "there is no decision yet"
        in refusal(ask(app, "GET", "/v1/decisions/latest"), 404, "not_found")["what"]
    )
    post(app, "/v1/decide", request_json(make_request(account="ana")))
    answer = ask(app, "GET", "/v1/decisions/latest?account=ana").json()
    assert answer["account"] == "ana"
    error = refusal(ask(app, "GET", "/v1/decisions/latest?account=bob"), 404, "not_found")
    assert "'bob'" in error["what"]
    error = refusal(ask(app, "GET", "/v1/decisions/latest?account=a b"), 422, "invalid")
    assert error["field"] == "account"


def test_a_history_becomes_the_panel_of_the_bundle() -> None:
    times = pd.DatetimeIndex(["2024-07-01 13:35", "2024-07-01 13:40"], tz="UTC")
    prices = np.array([[10.0, 20.0], [np.nan, 21.0]])
    panel = Panel(times, ("AAA", "BBB"), prices, np.isfinite(prices), "5m")
    desk = ComputingDesk(Settings())
    response = post(app_of(desk), "/v1/history", history_arrow(panel), ARROW)
    assert response.json() == {"bars": 2}
    assert desk.panel is not None
    assert (desk.panel.interval, desk.panel.calendar) == ("5m", "XNYS")
    np.testing.assert_array_equal(desk.panel.prices, prices)
    error = refusal(post(app_of(desk), "/v1/history", {}), 415, "unsupported")
    assert ARROW in error["cure"]
    table = pa.table(
        {"time": times + pd.Timedelta(1, "s"), "symbol": ["A", "A"], "close": [1, 1.0]}
    )
    error = refusal(post(app_of(desk), "/v1/history", to_stream(table), ARROW), 422, "invalid")
    assert error["field"] == "rows[0].time"


def test_an_account_is_halted_and_resumed_by_somebody_for_a_reason() -> None:
    app, body = app_of(), {"by": "ana", "why": "odd fills"}
    assert post(app, "/v1/accounts/default/halt", body).json() == {
        "account": "default",
        "level": "HALTED",
        "why": "ana: odd fills",
    }
    assert post(app, "/v1/accounts/default/resume", body).json()["level"] == "NORMAL"
    error = refusal(post(app, "/v1/accounts/default/halt", {"by": "ana"}), 422, "invalid")
    assert error["field"] == "why"
    error = refusal(post(app, "/v1/accounts/my account/halt", body), 422, "invalid")
    assert error["field"] == "account"


class Waiting(ComputingDesk):
    async def ready(self) -> dict[str, Any]:
        return {"ready": False, "stages": {"market": "no bars on record"}}


def test_health_and_readiness() -> None:
    assert ask(app_of(), "GET", "/healthz").json() == {"status": "ok"}
    assert ask(app_of(), "GET", "/readyz").json() == {"ready": True, "stages": {"market": "ok"}}
    waiting = app_of(Waiting(Settings()))
    assert ask(waiting, "GET", "/healthz").status_code == 200
    response = ask(waiting, "GET", "/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "stages": {"market": "no bars on record"}}


def test_times_of_reading_and_writing_are_metered() -> None:
    meters, settings = Recorder(), Settings()
    app = make_app(ComputingDesk(settings), settings, TOKEN, meters, "<p>page</p>")
    post(app, "/v1/decide", request_json(make_request()))
    assert meters.stages == ["http:parse", "http:answer"]


# --- bad input -------------------------------------------------------------------------------

BODY: dict[str, Any] = {
    "time": "2024-07-01T14:35:00Z",
    "nav_usd": 1e6,
    "prior_nav_usd": 1e6,
    "symbols": [{"symbol": "AAA", "close": 10.0}, {"symbol": "BBB", "close": 20.0}],
}


def row(**changes: Any) -> dict[str, Any]:
    return {**BODY, "symbols": [BODY["symbols"][0], {**BODY["symbols"][1], **changes}]}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({**BODY, "symbols": [{"close": 10.0}]}, "symbols[0].symbol", "is missing"),
        (row(close=float("nan")), "symbols[1].close", "nan is not a finite number"),
        (row(volume=-5), "symbols[1].volume", "-5 is not at least 0"),
        (row(volum=5), "symbols[1].volum", "is not known"),
        ({**BODY, "nav": 5}, "nav", "is not known"),
    ],
)
def test_bad_input_is_422_with_the_field_and_the_cure(
    body: dict[str, Any], field: str, words: str
) -> None:
    error = refusal(post(app_of(), "/v1/decide", body), 422, "invalid")
    assert error["field"] == field
    assert error["what"].startswith(f"{field}: {words}")


def test_a_misspelt_parameter_is_refused() -> None:
    error = refusal(ask(app_of(), "GET", "/v1/decisions/latest?acount=ana"), 422, "invalid")
    assert (error["field"], error["cure"]) == ("acount", "did you mean 'account'?")
    refusal(ask(app_of(), "GET", "/v1/bundle?x=1"), 422, "invalid")
    assert ask(app_of(), "GET", "/?x=1").status_code == 200


def test_what_is_not_json_is_400() -> None:
    error = refusal(post(app_of(), "/v1/decide", b"symbol,close\nAAA,10\n"), 400, "invalid")
    assert "not JSON" in error["what"]


@pytest.mark.parametrize("kind", ["text/csv", "application/x-www-form-urlencoded", ""])
def test_another_media_type_is_415(kind: str) -> None:
    error = refusal(post(app_of(), "/v1/decide", BODY, kind), 415, "unsupported")
    assert JSON in error["cure"]
    encoded = post(app_of(), "/v1/decide", BODY, **{"Content-Encoding": "gzip"})
    refusal(encoded, 415, "unsupported")


def test_a_media_type_may_have_parameters() -> None:
    assert post(app_of(), "/v1/decide", BODY, f"{JSON}; charset=utf-8").status_code == 200


def test_the_latest_decision_again_is_not_sent_again() -> None:
    app = app_of()
    made = post(app, "/v1/decide", request_json(make_request())).json()
    tag = ask(app, "GET", "/v1/decisions/latest").headers["etag"]
    assert tag == f'"{made["id"]}"'
    again = ask(app, "GET", "/v1/decisions/latest", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    other = ask(app, "GET", "/v1/decisions/latest", headers={"If-None-Match": '"old"'})
    assert other.json()["id"] == made["id"]


def test_no_decision_is_none_whatever_the_client_has() -> None:
    app = app_of()
    for tag in ('"None"', "None", '""'):
        response = ask(app, "GET", "/v1/decisions/latest", headers={"If-None-Match": tag})
        refusal(response, 404, "not_found")
        assert "etag" not in response.headers


def test_a_field_that_is_there_twice_is_refused() -> None:
    body = json.dumps(BODY).replace('"close": 20.0', '"shares": 1.5, "shares": -7')
    error = refusal(post(app_of(), "/v1/decide", body.encode()), 422, "invalid")
    assert (error["field"], error["what"]) == (
        "symbols[1].shares",
        "symbols[1].shares: is there twice",
    )


def test_a_stream_that_unpacks_to_gigabytes_is_refused() -> None:
    name = pa.DictionaryArray.from_arrays(np.zeros(5000, np.int8), ["A" * 1_500_000])
    about = {b"dpa": json.dumps({k: v for k, v in BODY.items() if k != "symbols"}).encode()}
    body = to_stream(pa.table({"symbol": name}).replace_schema_metadata(about))
    assert len(body) < 2e6
    error = refusal(post(app_of(), "/v1/decide", body, ARROW), 422, "invalid")
    assert error["field"] == "symbols[].symbol"


def test_large_bodies_and_answers_are_left_to_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, threading.Thread] = {}
    for name in ("parse_json", "parse_arrow", "decision_json", "decision_arrow",
                 "prediction_json", "prediction_arrow", "to_json"):  # fmt: skip

        def noted(*args: Any, _name: str = name, **more: Any) -> Any:
            threads[_name] = threading.current_thread()
            return getattr(wire, _name)(*args, **more)

        monkeypatch.setattr(f"dpa.serving.http.{name}", noted)
    app, loop = app_of(), threading.current_thread()
    for count, padding, apart in ((1000, 0, False), (1001, 10**6, True)):
        request = make_request(count)
        body = request_json(request) + b" " * padding
        about = request_arrow(request) + bytes(padding)
        for path in ("/v1/decide", "/v1/predict"):
            assert post(app, path, body).status_code == 200
            assert post(app, path, about, ARROW, Accept=ARROW).status_code == 200
        assert ask(app, "GET", "/v1/decisions/latest").status_code == 200
        assert len(threads) == 7
        assert {name for name, thread in threads.items() if thread is not loop} == (
            set(threads) if apart else set()
        )
        threads.clear()


def test_a_history_may_be_larger_than_a_snapshot() -> None:
    app, body = app_of(), bytes(9 * 10**6)
    refusal(post(app, "/v1/decide", body, ARROW), 413, "too_large")
    refusal(post(app, "/v1/history", body, ARROW), 400, "invalid")


def test_ten_megabytes_are_413() -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield bytes(65536)

    app = app_of()
    headers = {**AUTHORISED, "Content-Type": JSON}
    declared = ask(app, "POST", "/v1/decide", content=bytes(10**7), headers=headers)
    assert refusal(declared, 413, "too_large")["cure"].startswith(
        "send less, or raise serving.body_megabytes"
    )
    assert declared.headers["connection"] == "close"
    counted = ask(app, "POST", "/v1/decide", content=body(), headers=headers)
    refusal(counted, 413, "too_large")
    small = app_of(settings=settings_with(body_megabytes=1e-4))
    refusal(post(small, "/v1/decide", BODY), 413, "too_large")


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    """The application on a socket of its own; the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def test_who_sends_much_and_is_refused_hears_so_over_a_socket() -> None:
    headers = {**AUTHORISED, "Content-Type": JSON}
    with listening(app_of()) as port:
        for body in (bytes(10**7), iter([bytes(65536)] * 160)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("POST", "/v1/decide", body, headers)
            response = connection.getresponse()
            assert (response.status, response.getheader("connection")) == (413, "close")
            assert json.loads(response.read())["error"]["code"] == "too_large"
            connection.close()
        for header, status in ({"Authorization": "Bearer wrong"}, 401), ({"Host": "evil"}, 421):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("POST", "/v1/decide", bytes(7 * 10**6), {**headers, **header})
            assert connection.getresponse().status == status
            connection.close()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as waiting:
            waiting.sendall(
                b"POST /v1/decide HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n"
                b"Expect: 100-continue\r\n\r\n"
            )
            assert waiting.recv(12) == b"HTTP/1.1 413"


def test_the_largest_body_is_what_the_settings_say() -> None:
    content = json.dumps(BODY).encode()
    exact = app_of(settings=settings_with(body_megabytes=len(content) / 1e6))
    assert post(exact, "/v1/decide", content).status_code == 200
    refusal(post(exact, "/v1/decide", content + b" "), 413, "too_large")


def test_more_symbols_than_allowed_are_refused() -> None:
    app = app_of(settings=settings_with(max_symbols=3))
    error = refusal(post(app, "/v1/decide", request_json(make_request(4))), 422, "invalid")
    assert error["field"] == "symbols"


def test_a_path_or_method_that_is_not_there() -> None:
    app = app_of()
    refusal(ask(app, "GET", "/v1/nothing"), 404, "not_found")
    refusal(ask(app, "GET", "/v1/bundle/"), 404, "not_found")
    response = ask(app, "GET", "/v1/decide")
    refusal(response, 405, "not_allowed")
    assert response.headers["allow"] == "POST"


# --- who is let in ---------------------------------------------------------------------------

CHANGES = [
    "/v1/decide",
    "/v1/predict",
    "/v1/history",
    "/v1/accounts/default/halt",
    "/v1/accounts/default/resume",
]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN]
)
def test_what_changes_state_needs_the_token(path: str, header: str | None) -> None:
    desk = ComputingDesk(Settings())
    headers = {"Content-Type": JSON} | ({} if header is None else {"Authorization": header})
    response = ask(app_of(desk), "POST", path, content=json.dumps(BODY), headers=headers)
    error = refusal(response, 401, "unauthorized")
    assert "Authorization: Bearer" in error["cure"]
    assert response.headers["www-authenticate"] == 'Bearer realm="dpa"'
    assert TOKEN not in response.text
    assert desk.requests == []


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v1/bundle", "/healthz"])
def test_reading_needs_no_token(path: str) -> None:
    assert ask(app_of(), "GET", path).status_code == 200


READS = ["/v1/bundle", "/v1/decisions/latest", "/v1/trading", "/v1/trading/orders"]
GOOD = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize(
    ("settings", "base"),
    [
        ({"http_host": "0.0.0.0"}, "http://10.0.0.5:8000"),
        ({"http_host": "192.0.2.7"}, "http://192.0.2.7:8000"),
        ({"reads_need_token": True}, HERE),
        ({}, "http://10.0.0.5:8000"),  # the proxy was bound otherwise, by the file of serve deploy
    ],
)
def test_reading_needs_the_token_wherever_others_may_reach_it(
    path: str, settings: dict[str, Any], base: str
) -> None:
    app = app_of(settings=settings_with(**settings))
    loopback = {"Host": "127.0.0.1"}  # as a stranger could say, too
    for header in ({}, {"Authorization": "Bearer old"}):
        refusal(ask(app, "GET", path, base, headers=header | loopback), 401, "unauthorized")
    assert ask(app, "GET", path, base, headers=GOOD | loopback).status_code != 401
    for open_path in ("/", "/healthz", "/readyz"):
        answer = ask(app, "GET", open_path, base, headers=loopback)
        assert answer.status_code == 200


def test_reading_without_a_token_can_be_chosen() -> None:
    app = app_of(settings=settings_with(http_host="0.0.0.0", reads_need_token=False))
    assert ask(app, "GET", "/v1/bundle", "http://10.0.0.5:8000").status_code == 200
    shown = app_of(settings=settings_with(reads_need_token=True)).openapi()["paths"]
    assert all("security" in shown[path]["get"] for path in READS)


def test_every_operation_that_writes_is_documented_to_need_the_token() -> None:
    for path, operations in app_of().openapi()["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == (method == "post"), path


def test_without_a_token_anybody_may_for_tests() -> None:
    response = ask(
        app_of(token=""), "POST", "/v1/decide", json=BODY, headers={"Content-Type": JSON}
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("base", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("http://localhost:9", 200),
        ("http://LOCALHOST", 200),
        ("http://[::1]:8000", 200),
        ("http://evil.example:8000", 421),
        ("http://127.0.0.1.evil.example", 421),
        ("http://localhost.evil.example", 421),
    ],
)
def test_a_name_made_to_point_here_is_refused(base: str, status: int) -> None:
    response = ask(app_of(), "GET", "/v1/bundle", base)
    assert response.status_code == status
    if status == 421:
        refusal(response, 421, "misdirected")


def test_any_name_will_do_where_it_listens_to_the_world() -> None:
    assert allowed_hosts("0.0.0.0") is None
    assert allowed_hosts("127.0.0.1") == ("localhost", "127.0.0.1", "::1")
    assert "127.0.0.7" in (allowed_hosts("127.0.0.7") or ())
    app = app_of(settings=settings_with(http_host="0.0.0.0"))
    assert ask(app, "GET", "/healthz", "http://dpa.example").status_code == 200


def test_no_other_origin_is_invited() -> None:
    response = ask(app_of(), "GET", "/v1/bundle", headers={"Origin": "http://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/bundle", "/v1/nothing", "/openapi.json"])
def test_security_headers_are_everywhere(path: str) -> None:
    headers = ask(app_of(), "GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["content-security-policy"]


# --- what goes wrong behind it ---------------------------------------------------------------


class Failing(ComputingDesk):
    def __init__(self, error: Exception) -> None:
        super().__init__(Settings())
        self.error = error

    async def decide(self, request: Request) -> Decision:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError(409, "stale", "the bar is old", "send later ones", "time"), 409, "stale"),
        (RequestError(503, "not_ready", "no bars", "send them"), 503, "not_ready"),
        (DataError("too few bars", "send more"), 422, "invalid"),
        (ClusterUnavailable("no answer from the stage", "wait"), 503, "not_ready"),
    ],
)
def test_errors_of_the_desk_keep_their_words(error: Any, status: int, code: str) -> None:
    response = post(app_of(Failing(error)), "/v1/decide", BODY)
    said = refusal(response, status, code)
    assert (said["what"], said["cure"]) == (error.what, error.cure)
    assert ("retry-after" in response.headers) == (status == 503)


@pytest.mark.parametrize(
    "error", [ValueError("secret /srv/x"), RunError("/srv/x is damaged", "mend it"), KeyError("x")]
)
def test_what_nobody_foresaw_shows_nothing_from_inside(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = post(app_of(Failing(error)), "/v1/decide", BODY)
    said = refusal(response, 500, "internal")
    assert "/srv" not in response.text
    mark = re.search(r"\(([0-9a-f]{12})\)", said["what"])
    assert mark is not None
    assert mark.group(1) in caplog.text
    assert str(error) in caplog.text
    assert TOKEN not in caplog.text


class Slow(ComputingDesk):
    def __init__(self) -> None:
        super().__init__(settings_with(request_seconds=0.05))
        self.ended = asyncio.Event()

    async def decide(self, request: Request) -> Decision:
        await asyncio.sleep(10)
        raise AssertionError

    async def ready(self) -> dict[str, Any]:
        await asyncio.sleep(10)
        raise AssertionError

    async def risk(self, account: str, action: str, by: str, why: str) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        self.ended.set()
        return {"level": "HALTED", "why": why}


def test_no_answer_in_time_is_503() -> None:
    desk = Slow()
    app = app_of(desk, desk.settings)
    error = refusal(post(app, "/v1/decide", BODY), 503, "not_ready")
    assert "no answer within 0.05 s" in error["what"]
    response = ask(app, "GET", "/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "stages": {"desk": "no answer within 0.05 s"}}


def test_a_body_that_trickles_is_given_up() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(10)

    desk = Slow()
    headers = {**AUTHORISED, "Content-Type": JSON}
    response = ask(
        app_of(desk, desk.settings), "POST", "/v1/decide", content=body(), headers=headers
    )
    refusal(response, 503, "not_ready")


def test_a_halt_is_not_broken_off_when_time_is_up() -> None:
    async def exchange() -> None:
        desk = Slow()
        transport = httpx.ASGITransport(app_of(desk, desk.settings))
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            response = await client.post(
                "/v1/accounts/default/halt",
                json={"by": "ana", "why": "odd fills"},
                headers=AUTHORISED,
            )
            refusal(response, 503, "not_ready")
            await asyncio.wait_for(desk.ended.wait(), 5)

    asyncio.run(exchange())


def test_a_desk_s_own_timeout_is_not_taken_for_ours() -> None:
    refusal(post(app_of(Failing(TimeoutError())), "/v1/decide", BODY), 500, "internal")


def test_surrogates_in_a_message_do_not_break_the_answer() -> None:
    error = RequestError(422, "invalid", "symbol '\ud800'", "correct it")
    refusal(post(app_of(Failing(error)), "/v1/decide", BODY), 422, "invalid")


# --- pages -----------------------------------------------------------------------------------


def test_pages_load_nothing_from_elsewhere() -> None:
    app = app_of()
    for path in ("/", "/docs"):
        response = ask(app, "GET", path)
        assert response.headers["content-type"].startswith("text/html")
        assert not re.search(r"(src|href)=.(https?:)?//", response.text)
    docs = ask(app, "GET", "/docs").text
    for operation in ("POST /v1/decide", "GET /readyz", "POST /v1/accounts/{account}/halt"):
        assert f"<code>{operation}</code>" in docs
    assert "<script" not in docs


def test_the_openapi_document_is_whole() -> None:
    document = ask(app_of(), "GET", "/openapi.json").json()
    text = json.dumps(document)
    wanted = set(re.findall(r"#/components/schemas/([A-Za-z0-9_]+)", text))
    assert wanted <= set(document["components"]["schemas"])
    assert document["components"]["schemas"]["DecideBody"]["properties"]["symbols"]["maxItems"] == (
        Settings().serving.max_symbols
    )
    assert document == orjson.loads(orjson.dumps(app_of().openapi()))


# --- the trader ------------------------------------------------------------------------------


def trading_app(trader: Any = None) -> FastAPI:
    settings = Settings()
    desk = ComputingDesk(settings)
    return make_app(desk, settings, TOKEN, Recorder(), page_html(settings), trader=trader)


def test_without_a_trader_everything_about_it_is_503_with_the_cure() -> None:
    app = app_of()
    for path in ("/v1/trading", "/v1/trading/orders"):
        assert "dpa trade start" in refusal(ask(app, "GET", path), 503, "not_ready")["cure"]
    assert ask(app, "GET", "/v1/trading?quiet=true").status_code == 204
    for name in ("pause", "flatten", "stop", "kill"):
        refusal(post(app, f"/v1/trading/{name}", {}), 503, "not_ready")
    body = {"by": "Ada", "why": "all is well", "seen": "x"}
    refusal(post(app, "/v1/trading/resume", body), 503, "not_ready")


def test_a_trader_is_told_who_says_what_and_why() -> None:
    trader = ToldTrader()
    app = trading_app(trader)
    assert post(app, "/v1/trading/pause", {}).json()["level"] == "PAUSED"
    assert post(app, "/v1/trading/kill", {"by": "Ada"}).json()["level"] == "HALTED"
    resumed = {"by": "Ada", "why": "all is well", "seen": "seen"}
    assert post(app, "/v1/trading/resume", resumed).json()["level"] == "RUNNING"
    assert trader.told == [
        ("pause", "somebody over HTTP", "pause over HTTP", None),
        ("kill", "Ada", "kill over HTTP", None),
        ("resume", "Ada", "all is well", "seen"),
    ]
    status = ask(app, "GET", "/v1/trading").json()
    assert status["nav"] is None
    said = ask(app, "GET", "/v1/trading/orders").json()
    assert said == {"account": "DU1234567", "orders": status["orders"]}


@pytest.mark.parametrize("name", ["pause", "resume", "flatten", "stop", "kill", "adopt"])
def test_nobody_without_the_token_tells_the_trader_anything(name: str) -> None:
    trader = ToldTrader()
    body = json.dumps(
        {"by": "Eve", "why": "fun", "seen": "seen"} if name in ("resume", "adopt") else {}
    )
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = ask(
            trading_app(trader),
            "POST",
            f"/v1/trading/{name}",
            content=body,
            headers={"Content-Type": JSON, **headers},
        )
        refusal(response, 401, "unauthorized")
    assert trader.told == []


def test_a_resume_needs_a_person_who_looked() -> None:
    app = trading_app(ToldTrader())
    for missing in ("by", "why", "seen"):
        body = {"by": "Ada", "why": "all is well", "seen": "seen"}
        del body[missing]
        for name in ("resume", "adopt"):
            found = refusal(post(app, f"/v1/trading/{name}", body), 422, "invalid")
            assert found["field"] == missing
    old = {"by": "Ada", "why": "all is well", "seen": "older"}
    refusal(post(app, "/v1/trading/resume", old), 409, "conflict")
