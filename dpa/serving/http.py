"""HTTP in front of a desk: what is read, checked, answered and refused; no decision is made here.

Whatever goes wrong is answered as ``{"error": {"code", "what", "cure", "field"}}``. What changes
state needs a token. Nothing here keeps the event loop longer than it takes to read one body.
"""

import asyncio
import contextlib
import difflib
import html
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import Depends, FastAPI, Query, Security
from fastapi import Path as PathParameter
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import models_json_schema
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpa import __version__
from dpa.clock import Clock, SystemClock
from dpa.config import ServingConfig, Settings
from dpa.errors import ClusterUnavailable, DataError, DpaError, TransientError
from dpa.serving.meters import Meters
from dpa.serving.page import page_policy
from dpa.serving.tokens import authorised
from dpa.serving.types import Desk, NoTrader, Request, RequestError, Trader
from dpa.serving.wire import (
    ARROW,
    JSON,
    CommandBody,
    DecideBody,
    PredictBody,
    ResumeBody,
    RiskBody,
    body_model,
    decision_arrow,
    decision_json,
    parse_arrow,
    parse_command,
    parse_history,
    parse_json,
    parse_resume,
    parse_risk,
    prediction_arrow,
    prediction_json,
    to_json,
)

log = logging.getLogger("dpa.serving.http")
MEGABYTE: Final = 1_000_000
HISTORY: Final = "/v1/history"
_INLINE_BYTES: Final = MEGABYTE  # of a body that is read on the event loop
_INLINE_SYMBOLS: Final = 1000  # of an answer that is written on it
_PATIENCE_BYTES: Final = 64 * MEGABYTE  # of a body that is too large
_PATIENCE_SECONDS: Final = 2.0
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_ACCOUNT: Final = r"^[A-Za-z0-9_.\-]{1,64}$"
Answer = TypeVar("Answer")
Account = Annotated[
    str, PathParameter(pattern=_ACCOUNT, description="whose money", examples=["default"])
]


# --- what the OpenAPI document says of answers --------------------------------------------------


class Loose(BaseModel):
    """An answer that may say more later."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(BaseModel):
    """What is wrong, and what to do about it."""

    code: str = Field(
        description="invalid, too_large, unauthorized, stale, conflict, not_ready, not_found, "
        "not_allowed, not_acceptable, unsupported, misdirected or internal"
    )
    what: str = Field(description="what is wrong, naming the field and the value seen")
    cure: str = Field(description="what to do; may be empty")
    field: str = Field(description="path of the field at fault, such as symbols[3].bid, or empty")


class ErrorAnswer(BaseModel):
    """Why there is no answer."""

    error: ErrorDetail


class SymbolDecision(Loose):
    """What is to be done with one symbol, and why not more."""

    symbol: str
    action: Literal["none", "hold", "enter", "increase", "reduce", "exit", "flip"]
    side: Literal["long", "short"] | None
    horizon: str | None = Field(description="horizon that is traded")
    alpha_bps: float | None
    cost_bps: float | None
    net_bps: float | None
    gate: float | None
    held_weight: float | None = Field(description="signed fraction of NAV")
    target_weight: float | None = Field(description="signed fraction of NAV")
    held_shares: float
    target_shares: float | None
    trade_shares: float | None
    reason: str | None
    why: str | None


class RiskAnswer(Loose):
    """State of an account's limits."""

    level: str | int
    why: str


class DecisionAnswer(Loose):
    """A decision; see docs/decision.md for every name of the trace."""

    schema_version: int
    id: str = Field(description="equal inputs, state and settings give an equal id")
    account: str
    time: str
    moment: str
    nav_usd: float | None
    prior_nav_usd: float | None
    bundle: str = Field(description="fingerprint of the bundle that made the forecasts")
    horizons: list[str]
    families: list[str]
    left_out: dict[str, str] = Field(description="families that failed or were late, and why")
    risk: RiskAnswer
    symbols: list[SymbolDecision]
    trace: dict[str, JsonValue] | None = Field(
        None, description="arrays by name, the axes of each under `axes`"
    )


class SymbolPrediction(BaseModel):
    """Forecasts of one symbol, in units of sigma times the square root of the horizon's minutes."""

    symbol: str
    reason: str = Field(description="why there is no forecast, or empty")
    sigma: float | None = Field(description="bps per square root of a session minute")
    stacked: list[float | None] = Field(description="by horizon")
    confidence: list[float | None] = Field(description="by horizon")
    forecasts: list[list[float | None]] = Field(description="by horizon, then family")
    peak: float | None = Field(description="calibrated probability")
    valley: float | None = Field(description="calibrated probability")


class PredictionAnswer(BaseModel):
    """Forecasts after a bar."""

    time: str
    bundle: str
    target: Literal["excess", "return"]
    lag: int
    horizons: list[str]
    families: list[str]
    left_out: dict[str, str]
    symbols: list[SymbolPrediction]


class BundleAnswer(Loose):
    """The bundle in use."""

    version: str
    fingerprint: str
    horizons: list[JsonValue]
    families: list[str]
    interval: str
    calendar: str
    names: list[str]
    newest_bar: str | None
    refused: dict[str, JsonValue] | None = Field(
        description="the newest bundle that was refused, and why"
    )


class ReadyAnswer(BaseModel):
    """Whether decisions are answered, and what each stage waits for."""

    ready: bool
    stages: dict[str, str]


class HealthAnswer(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class HistoryAnswer(Loose):
    """What is on record now."""


class TradedPosition(Loose):
    """What is held of a symbol, at its newest price."""

    symbol: str
    shares: float = Field(description="negative: short")
    average_cost: float = Field(description="USD a share")
    price: float | None
    value: float | None = Field(description="USD")
    weight: float | None = Field(description="signed fraction of NAV")
    unrealised: float | None = Field(description="USD")


class TradedOrder(Loose):
    """An order that may still change a position."""

    ref: str = Field(description="id of its intent, orderRef at the broker")
    order_id: int
    symbol: str
    side: Literal["buy", "sell"]
    shares: int
    filled: float
    limit: float | None = Field(description="USD")
    state: str
    purpose: str


class TradingLimit(Loose):
    """A limit, where the account stands, and which share of it is used up."""

    name: str
    value: float | None
    limit: float
    unit: str
    used: float | None


class TradingAnswer(Loose):
    """What the trader is about; money in USD."""

    state: str = Field(description="starting, waiting, trading, ended, refused or stopped")
    why: str
    level: Literal["RUNNING", "PAUSED", "FLATTENING", "HALTED"]
    level_by: str
    level_why: str
    level_mark: str = Field(description="what a resume must name as seen")
    broker: str
    account: str | None
    connected: bool
    positions: list[TradedPosition]
    orders: list[TradedOrder]
    limits: list[TradingLimit]
    refusals: list[JsonValue] = Field(description="newest last")
    alerts: list[JsonValue] = Field(description="newest last")
    differences: list[str] = Field([], description="of our books from the broker's; see adopt")
    now: str | None = None
    bar: str | None = None
    nav: float | None = None
    cash: float | None = None
    cash_difference: float | None = Field(
        None, description="the broker's cash less ours, as compared last; no trade says why"
    )
    pnl_today: float | None = None
    pnl_total: float | None = None
    fees: float | None = None


class OrdersAnswer(BaseModel):
    """Orders that may still change a position."""

    account: str | None
    orders: list[TradedOrder]


_ANSWERS: Final = (
    ErrorAnswer, DecisionAnswer, PredictionAnswer, BundleAnswer, ReadyAnswer, HealthAnswer,
    HistoryAnswer, RiskAnswer, TradingAnswer, OrdersAnswer,
)  # fmt: skip
_MEANINGS: Final = {
    400: "not JSON, or not an Arrow stream",
    401: "the token is missing or wrong",
    404: "there is none",
    406: "answers are JSON or an Arrow stream",
    409: "the bar is stale, or contradicts what is on record; or the level was changed meanwhile",
    413: "the body is too large",
    415: "the body is of another media type, or compressed",
    421: "the Host header is not this service's",
    422: "a field is wrong; says which, and the cure",
    500: "something failed inside; the log has the id",
    503: "not ready, or no answer in time; try again",
}
_EVERYWHERE: Final = (421, 500)
_READS: Final = (400, 401, 413, 415, 422, 503, *_EVERYWHERE)


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Error answers of an operation for its OpenAPI entry."""
    schema = {"$ref": "#/components/schemas/ErrorAnswer"}
    return {
        code: {"description": _MEANINGS[code], "content": {JSON: {"schema": schema}}}
        for code in sorted({*codes, *_EVERYWHERE})
    }


def _answer(
    model: type[BaseModel], *codes: int, arrow: bool = False
) -> dict[int | str, dict[str, Any]]:
    """`responses` of an operation."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    if arrow:
        content[ARROW] = {"schema": _BINARY}
    described = {"description": (model.__doc__ or "").strip(), "content": content}
    return {200: described, **_refusals(*codes)}


_BINARY: Final = {"type": "string", "format": "binary"}


def _body(model: type[BaseModel] | None, arrow: str = "") -> dict[str, Any]:
    """`openapi_extra` of an operation that reads a body itself."""
    content: dict[str, Any] = {}
    if model is not None:
        content[JSON] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if arrow:
        content[ARROW] = {"schema": {**_BINARY, "description": arrow}}
    return {"requestBody": {"required": True, "content": content}}


_SNAPSHOT_ARROW: Final = (
    "one row a symbol with the columns of SymbolBody, the rest as JSON in the schema's metadata "
    "under 'dpa'; not compressed"
)
_HISTORY_ARROW: Final = (
    "one row a symbol and bar: time (timestamp with time zone, close of the bar), symbol, close, "
    "and any of open, high, low, volume, dollar_volume; not compressed"
)


# --- what surrounds every request ----------------------------------------------------------------


class Guard:
    """Host, size of the body, security headers, and a last answer to what nobody foresaw.

    Parameters
    ----------
    app : ASGI application
    hosts : tuple of str, optional
        Names the Host header may have; none: any. A page elsewhere whose name was made to point
        here (DNS rebinding) sends its own.
    most_bytes : int
        Of a body, by its Content-Length and as counted while it is read.
    most_history_bytes : int
        The same for histories.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: tuple[str, ...] | None,
        most_bytes: int,
        most_history_bytes: int,
    ) -> None:
        self._app, self._hosts = app, hosts
        self._most, self._most_history = most_bytes, most_history_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = self._most_history if scope["path"] == HISTORY else self._most
        body = _BodyReader(receive, headers, most)
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if 400 <= message["status"] < 500:
                    await body.discard()
                answered = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, "content-security-policy": _POLICY}.items():
                    answered.setdefault(name, value)
            await send(message)

        try:
            self._check_host(headers)
            body.check_length()
            await self._app(scope, body.receive, guarded)
        except ClientDisconnect:
            log.info("%s %s: the client has gone", scope["method"], scope["path"])
        except RequestError as e:
            await _error_response(e)(scope, receive, guarded)
        except Exception:
            if begun:
                raise
            await _error_response(_unforeseen(scope))(scope, receive, guarded)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            raise RequestError(
                421,
                "misdirected",
                f"the Host header {host[:60]!r} is not this service's",
                f"ask for http://{self._hosts[0]}, or set serving.http_host",
            )


class _BodyReader:
    """A body that is counted while it is read.

    Parameters
    ----------
    receive : callable
        Of the server.
    headers : Headers
    most_bytes : int
    """

    def __init__(self, receive: Receive, headers: Headers, most_bytes: int) -> None:
        self._receive, self._most, self._read = receive, most_bytes, 0
        self._length = headers.get("content-length", "0")
        self._ended = self._length == "0" and "transfer-encoding" not in headers
        self._waits = "expect" in headers  # for leave to send, which reading would give

    def check_length(self) -> None:
        """Refuse what is said to be too large."""
        length = self._length
        if not length.isascii() or not length.isdigit() or int(length[:20]) > self._most:
            raise self._too_large()

    async def receive(self) -> Message:
        """The server's next message; a body that has become too large is refused."""
        message = await self._next()
        if self._read > self._most:
            raise self._too_large()
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Take what is still sent, within reason: few clients read an answer before that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while not (self._ended or self._read > _PATIENCE_BYTES or self._untouched_wait):
                    await self._next()

    @property
    def _untouched_wait(self) -> bool:
        return self._waits and self._read == 0

    def _too_large(self) -> RequestError:
        return RequestError(
            413,
            "too_large",
            f"the body has more than {self._most} bytes",
            "send less, or raise serving.body_megabytes or serving.history_megabytes",
        )


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def allowed_hosts(bound: str) -> tuple[str, ...] | None:
    """Names the Host header may have when the service listens at `bound`; none: any.

    Who binds it to another address than loopback chooses who can reach it, by whatever name.
    """
    name = bound.strip("[]").lower()
    if name in _LOOPBACK or name.startswith("127."):
        return tuple(dict.fromkeys((*_LOOPBACK, name)))
    return None


def _unforeseen(scope: Scope) -> RequestError:
    """The answer to an error nobody foresaw: an id to look for in the log, nothing from inside."""
    mark = secrets.token_hex(6)
    log.exception("%s %s failed (%s)", scope["method"], scope["path"], mark)
    return RequestError(
        500, "internal", f"something failed inside ({mark})", f"look for {mark} in the log"
    )


def _error_response(error: RequestError) -> Response:
    parts = ("code", "what", "cure", "field")
    headers = {}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="dpa"'
    elif error.status == 413:
        headers["connection"] = "close"  # the rest of the body is not read
    elif error.status == 503:
        headers["retry-after"] = "1"
    return Response(
        to_json({"error": {part: _sayable(getattr(error, part)) for part in parts}}),
        error.status,
        headers,
        JSON,
    )


def _sayable(text: str) -> str:
    """Text without halves of surrogate pairs, which no UTF-8 has."""
    return text.encode("utf-8", "replace").decode()


# --- the application -----------------------------------------------------------------------------


def make_app(
    desk: Desk,
    settings: Settings,
    token: str,
    meters: Meters,
    page: str,
    clock: Clock | None = None,
    trader: Trader | None = None,
) -> FastAPI:
    """The HTTP application in front of a desk.

    Parameters
    ----------
    desk : Desk
    settings : Settings
        Section `serving`: ``body_megabytes``, ``max_symbols``, ``request_seconds``, ``http_host``,
        ``reads_need_token``.
    token : str
        What ``Authorization: Bearer`` must say wherever state may change: decisions and forecasts
        (they take bars in), histories, halting and resuming. Empty: none is asked for, which is
        for tests only.
    meters : Meters
        Told how long ``http:parse`` and ``http:answer`` take.
    page : str
        HTML of ``/``, with inline script and style only.
    clock : Clock, optional
        Times requests; the system's when absent.
    trader : Trader, optional
        Absent: whatever is asked of it is answered with 503.

    Notes
    -----
    Interactive docs would load scripts from elsewhere: ``/docs`` is a plain list instead.
    """
    serving = settings.serving
    timer = clock or SystemClock()
    app = FastAPI(
        title="dpa",
        version=__version__,
        description="Decisions and forecasts of the bundle in use. Numbers that are not known are "
        "null; NaN is refused.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_known_query)],
    )
    app.add_middleware(
        Guard,
        hosts=allowed_hosts(serving.http_host),
        most_bytes=int(serving.body_megabytes * MEGABYTE),
        most_history_bytes=int(serving.history_megabytes * MEGABYTE),
    )
    _handle_errors(app)
    secured: Any = {"dependencies": [Security(_Bearer(token))]}
    readable = _readable(serving, token)
    kept: set[asyncio.Task[Any]] = set()

    async def in_time(answer: Awaitable[Answer]) -> Answer:
        """An answer within ``serving.request_seconds``, else 503."""
        try:
            async with asyncio.timeout(serving.request_seconds) as limit:
                return await answer
        except TimeoutError:
            if not limit.expired():
                raise
            raise RequestError(
                503,
                "not_ready",
                f"no answer within {serving.request_seconds:g} s",
                "try again; /readyz says what is waited for",
            ) from None

    async def to_its_end(work: Coroutine[Any, Any, Answer]) -> Answer:
        """Work that is not broken off half-way when the client goes or time is up."""
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)
        return await asyncio.shield(task)

    async def read(request: HttpRequest, decide: bool) -> Request:
        body, kind = await _read_body(request, JSON, ARROW)
        begun = timer.elapsed()
        parse = parse_arrow if kind == ARROW else parse_json
        parsed = await _away_if(
            len(body) > _INLINE_BYTES,
            lambda: parse(body, serving.max_symbols, decide=decide),
        )
        meters.stage("http:parse", timer.elapsed() - begun)
        return parsed

    async def answer(write: Callable[[], bytes], kind: str, n_symbols: int) -> Response:
        begun = timer.elapsed()
        content = await _away_if(n_symbols > _INLINE_SYMBOLS, write)
        response = Response(content, media_type=kind)
        meters.stage("http:answer", timer.elapsed() - begun)
        return response

    @app.post(
        "/v1/decide",
        tags=["decisions"],
        summary="Take a bar in and decide",
        responses=_answer(DecisionAnswer, *_READS, 406, 409, arrow=True),
        openapi_extra=_body(DecideBody, _SNAPSHOT_ARROW),
        **secured,
    )
    async def decide(
        request: HttpRequest,
        trace: Annotated[
            bool, Query(description="with all numbers behind it; Arrow always has them")
        ] = True,
    ) -> Response:
        """Target positions of every symbol sent, and why.

        The same snapshot again gives the same decision. Without any `close` the newest bar on
        record is decided on.
        """
        kind = _wanted_kind(request)

        async def work() -> Response:
            asked = await read(request, decide=True)
            decision, length = await desk.decide(asked), len(asked.names)
            if kind == ARROW:
                return await answer(lambda: decision_arrow(decision), kind, length)
            return await answer(lambda: decision_json(decision, trace), kind, length)

        return await in_time(work())

    @app.post(
        "/v1/predict",
        tags=["decisions"],
        summary="Take a bar in and forecast",
        responses=_answer(PredictionAnswer, *_READS, 406, 409, arrow=True),
        openapi_extra=_body(PredictBody, _SNAPSHOT_ARROW),
        **secured,
    )
    async def predict(request: HttpRequest) -> Response:
        """Forecasts of every symbol sent, without a decision."""
        kind = _wanted_kind(request)

        async def work() -> Response:
            said = await desk.predict(await read(request, decide=False))
            write = prediction_arrow if kind == ARROW else prediction_json
            return await answer(lambda: write(said), kind, len(said.names))

        return await in_time(work())

    @app.get(
        "/v1/decisions/latest",
        tags=["decisions"],
        summary="The newest decision",
        responses={
            **_answer(DecisionAnswer, 401, 404, 422, 503),
            304: {"description": "it is the one named in If-None-Match"},
        },
        **readable,
    )
    async def latest(
        request: HttpRequest,
        account: Annotated[
            str | None, Query(pattern=_ACCOUNT, description="whose; left out: of any account")
        ] = None,
    ) -> Response:
        """The newest decision with its trace, also after a restart."""
        newest = await in_time(desk.latest_id(account))
        tag = f'"{newest}"'
        if newest is not None and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        found = await in_time(desk.latest(account))
        if found is None:
            raise RequestError(
                404,
                "not_found",
                "there is no decision yet" + ("" if account is None else f" of {account!r}"),
                "ask for one with POST /v1/decide",
            )
        large = len(found["symbols"]) > _INLINE_SYMBOLS
        content = await _away_if(large, lambda: to_json(found))
        return Response(content, headers={"etag": f'"{found["id"]}"'}, media_type=JSON)

    @app.get(
        "/v1/bundle",
        tags=["service"],
        summary="The bundle in use",
        responses=_answer(BundleAnswer, 401, 422, 503),
        **readable,
    )
    async def bundle() -> Response:
        """What forecasts are made with, and the bundle that was refused last."""
        return Response(to_json(await in_time(desk.bundle())), media_type=JSON)

    @app.get(
        "/healthz",
        tags=["service"],
        summary="Whether the process lives",
        responses=_answer(HealthAnswer),
    )
    async def healthz() -> Response:
        """Always 200 while it does."""
        return Response(b'{"status":"ok"}', media_type=JSON)

    ready_answers = _answer(ReadyAnswer)
    ready_answers[503] = {**ready_answers[200], "description": _MEANINGS[503]}

    @app.get(
        "/readyz",
        tags=["service"],
        summary="Whether decisions are answered",
        responses=ready_answers,
    )
    async def readyz() -> Response:
        """Stages, and what each waits for; 503 while any waits."""
        try:
            said: Mapping[str, Any] = await in_time(desk.ready())
        except DpaError as e:
            said = {"ready": False, "stages": {"desk": e.what}}
        return Response(to_json(said), 200 if said["ready"] else 503, media_type=JSON)

    @app.post(
        HISTORY,
        tags=["service"],
        summary="Replace the bars on record",
        responses=_answer(HistoryAnswer, *_READS, 409),
        openapi_extra=_body(None, _HISTORY_ARROW),
        **secured,
    )
    async def history(request: HttpRequest) -> Response:
        """What was learned starts anew from the bars sent; that may take longer than a decision."""
        body, _ = await in_time(_read_body(request, ARROW))
        about = await in_time(desk.bundle())
        panel = await asyncio.to_thread(
            parse_history, body, serving.max_symbols, about["interval"], about["calendar"]
        )
        return Response(to_json(await to_its_end(desk.history(panel))), media_type=JSON)

    async def set_risk(request: HttpRequest, account: str, action: str) -> Response:
        body, _ = await in_time(_read_body(request, JSON))
        said = parse_risk(body)
        state = await in_time(to_its_end(desk.risk(account, action, said.by, said.why)))
        return Response(to_json(state), media_type=JSON)

    risk_entry: Any = {
        "tags": ["risk"],
        "responses": _answer(RiskAnswer, *_READS, 404, 409),
        "openapi_extra": _body(RiskBody),
        **secured,
    }

    @app.post("/v1/accounts/{account}/halt", summary="Halt an account", **risk_entry)
    async def halt(request: HttpRequest, account: Account) -> Response:
        """Nothing is traded until a person resumes it."""
        return await set_risk(request, account, "halt")

    @app.post("/v1/accounts/{account}/resume", summary="Let an account trade again", **risk_entry)
    async def resume(request: HttpRequest, account: Account) -> Response:
        """Ends a halt or a lasting flattening; limits count from now."""
        return await set_risk(request, account, "resume")

    _add_trading(app, trader or NoTrader(), secured, readable, in_time)
    _add_pages(app, page)
    _complete_openapi(app, serving.max_symbols)
    return app


def _add_trading(
    app: FastAPI,
    trader: Trader,
    secured: dict[str, Any],
    readable: dict[str, Any],
    in_time: Callable[..., Any],
) -> None:
    """What the trader is asked and told."""

    @app.get(
        "/v1/trading",
        tags=["trading"],
        summary="What the trader is about",
        responses={
            **_answer(TradingAnswer, 401, 422, 503),
            204: {"description": "no trader runs, and `quiet` was given"},
        },
        **readable,
    )
    async def trading(
        quiet: Annotated[bool, Query(description="204 instead of 503 where none runs")] = False,
    ) -> Response:
        """Level, link, positions, orders, profit, limits and how near they are."""
        try:
            return Response(to_json(await in_time(trader.status())), media_type=JSON)
        except RequestError as e:
            if quiet and e.status == 503:
                return Response(status_code=204)
            raise

    @app.get(
        "/v1/trading/orders",
        tags=["trading"],
        summary="Orders that may still be filled",
        responses=_answer(OrdersAnswer, 401, 422, 503),
        **readable,
    )
    async def orders() -> Response:
        """Those that are known to the journal and not over."""
        status = await in_time(trader.status())
        said = {"account": status["account"], "orders": status["orders"]}
        return Response(to_json(said), media_type=JSON)

    entry: Any = {
        "tags": ["trading"],
        "responses": _answer(TradingAnswer, *_READS, 409),
        **secured,
    }

    def add(name: str, summary: str, words: str) -> None:
        async def tell(request: HttpRequest) -> Response:
            body, _ = await in_time(_read_body(request, JSON))
            said = parse_command(body)
            by, why = said.by or "somebody over HTTP", said.why or f"{name} over HTTP"
            return Response(to_json(await in_time(trader.command(name, by, why))), media_type=JSON)

        tell.__name__, tell.__doc__ = name, words
        path, extra = f"/v1/trading/{name}", _body(CommandBody)
        app.post(path, summary=summary, openapi_extra=extra, **entry)(tell)

    add("pause", "Add no more risk", "Reductions go on, until a person resumes.")
    add("flatten", "Close everything", "Cancels what works and closes what is held.")
    add("stop", "End the trader", "Cancels what works, and ends; positions stay.")
    add("kill", "Halt, and cancel everything", "Halts durably first; resuming needs a person.")

    @app.post(
        "/v1/trading/resume",
        summary="Trade again",
        openapi_extra=_body(ResumeBody),
        **entry,
    )
    async def resume(request: HttpRequest) -> Response:
        """Ends a pause, a flattening or a halt; only the one that was seen."""
        body, _ = await in_time(_read_body(request, JSON))
        said = parse_resume(body)
        status = await in_time(trader.command("resume", said.by, said.why, said.seen))
        return Response(to_json(status), media_type=JSON)

    @app.post(
        "/v1/trading/adopt",
        summary="Take over what the broker holds",
        openapi_extra=_body(ResumeBody),
        **entry,
    )
    async def adopt(request: HttpRequest) -> Response:
        """Makes the broker's positions and cash ours where books differ; trading stays halted."""
        body, _ = await in_time(_read_body(request, JSON))
        said = parse_resume(body)
        status = await in_time(trader.command("adopt", said.by, said.why, said.seen))
        return Response(to_json(status), media_type=JSON)


class _Bearer(HTTPBearer):
    """The token, as a dependency that the OpenAPI document knows as a security scheme.

    Parameters
    ----------
    token : str
        Empty: anything goes.
    """

    def __init__(self, token: str) -> None:
        super().__init__(
            scheme_name="token",
            description="what `runs/serving/token` or DPA_SERVE_TOKEN holds",
            auto_error=False,
        )
        self._token = token

    async def __call__(self, request: HttpRequest) -> None:  # type: ignore[override]
        header = request.headers.get("authorization")
        if self._token and not authorised(header, self._token):
            raise RequestError(
                401,
                "unauthorized",
                "the token is wrong" if header else "a token is needed",
                "send 'Authorization: Bearer TOKEN' with what runs/serving/token holds",
            )


def _readable(serving: ServingConfig, token: str) -> dict[str, Any]:
    """What an operation that only reads asks for: the token, wherever others may reach it.

    The file of ``serve deploy`` has its own address to listen at; so where nothing was chosen, a
    connection that was not made to loopback asks for the token, too.
    """
    bearer, chosen = _Bearer(token), serving.reads_need_token
    if chosen if chosen is not None else allowed_hosts(serving.http_host) is None:
        return {"dependencies": [Security(bearer)]}
    if chosen is not None:
        return {}

    async def beyond_loopback(request: HttpRequest) -> None:
        address = (request.scope.get("server") or ("",))[0]
        with contextlib.suppress(ValueError):
            if not ip_address(address).is_loopback:
                await bearer(request)

    return {"dependencies": [Depends(beyond_loopback)]}


async def _known_query(request: HttpRequest) -> None:
    """Refuse parameters an operation does not have: a misspelt account would be any account."""
    route = request.scope["route"]
    known = [parameter.alias for parameter in route.dependant.query_params]
    for name in request.query_params:
        if name not in known and route.path.startswith("/v1/"):
            near = difflib.get_close_matches(name, known, 1)
            cure = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise RequestError(422, "invalid", f"{name[:60]}: is not known", cure, name[:60])


async def _away_if(large: bool, work: Callable[[], Answer]) -> Answer:
    """What `work` gives, from a thread when it is large."""
    return await asyncio.to_thread(work) if large else work()


async def _read_body(request: HttpRequest, *kinds: str) -> tuple[bytes, str]:
    """The body, and which of the media types it is."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind not in kinds:
        raise RequestError(
            415,
            "unsupported",
            f"the body is said to be {given[:60]!r}",
            f"send Content-Type: {' or '.join(kinds)}",
        )
    if encoding not in ("", "identity"):
        raise RequestError(
            415, "unsupported", f"the body is encoded as {encoding[:60]!r}", "send it as it is"
        )
    return await request.body(), kind


def _wanted_kind(request: HttpRequest) -> str:
    """JSON or Arrow, whichever Accept likes better; JSON when it likes both as well."""
    header = request.headers.get("accept", "").strip()
    if not header:
        return JSON
    liked = {}
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        liked[kind] = min((_quality(p) for p in parameters if p.startswith("q=")), default=1.0)

    def quality(kind: str) -> float:
        return liked.get(kind, liked.get("application/*", liked.get("*/*", 0.0)))

    if max(quality(JSON), quality(ARROW)) <= 0:
        raise RequestError(
            406, "not_acceptable", f"there is no {header[:60]!r}", f"accept {JSON} or {ARROW}"
        )
    return ARROW if quality(ARROW) > quality(JSON) else JSON


def _quality(parameter: str) -> float:
    try:
        value = float(parameter.removeprefix("q="))
    except ValueError:
        return 0.0
    return value if 0.0 <= value <= 1.0 else 0.0


# --- errors --------------------------------------------------------------------------------------


def _handle_errors(app: FastAPI) -> None:
    async def typed(request: HttpRequest, error: Exception) -> Response:
        response = _error_response(_as_request_error(request.scope, error))
        response.headers.update(getattr(error, "headers", None) or {})  # Allow, with 405
        return response

    for kind in (DpaError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, typed)


def _as_request_error(scope: Scope, error: Exception) -> RequestError:
    """What a client is told of an error; must be called while it is handled."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, DataError):
        return RequestError(422, "invalid", error.what, error.cure)
    if isinstance(error, TransientError | ClusterUnavailable):
        return RequestError(503, "not_ready", error.what, error.cure or "try again")
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return RequestError(422, "invalid", f"{field}: {first['msg']}", "correct it", field)
    if isinstance(error, HTTPException):
        return _http_error(scope, error.status_code)
    return _unforeseen(scope)


def _http_error(scope: Scope, status: int) -> RequestError:
    method, path = scope["method"], scope["path"][:80]
    if status == 405:
        what = f"{path!r} does not take {method}"
        return RequestError(405, "not_allowed", what, "see /docs")
    if status == 404:
        return RequestError(
            404, "not_found", f"there is no {path!r}", "see /docs for what there is"
        )
    return RequestError(status, "invalid", f"{method} {path!r} is refused")


# --- pages and the OpenAPI document --------------------------------------------------------------


def _add_pages(app: FastAPI, page: str) -> None:
    def shown(text: str) -> HTMLResponse:
        return HTMLResponse(text, headers={"content-security-policy": page_policy(text)})

    @app.get("/", include_in_schema=False)
    async def front() -> HTMLResponse:
        return shown(page)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return shown(_docs_page(app.openapi()))


def _complete_openapi(app: FastAPI, max_symbols: int) -> None:
    """Add the models of bodies and answers that operations refer to."""
    make = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            models: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
                (body_model(DecideBody, max_symbols), "validation"),
                (body_model(PredictBody, max_symbols), "validation"),
                (RiskBody, "validation"),
                (CommandBody, "validation"),
                (ResumeBody, "validation"),
            ]
            models += [(model, "serialization") for model in _ANSWERS]
            _, found = models_json_schema(models, ref_template="#/components/schemas/{model}")
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= found["$defs"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]


_DOCS_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:13px/1.5 ui-monospace,monospace}pre{overflow:auto;padding:.6rem;"
    "border:1px solid #8886}h2{margin-top:2rem}td{padding:0 1rem 0 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8cf}}"
)


def _docs_page(document: Mapping[str, Any]) -> str:
    """The OpenAPI document as a page to read; no script, nothing from elsewhere."""
    parts = [
        f"<h1>{html.escape(document['info']['title'])} {html.escape(document['info']['version'])}"
        f"</h1><p>{html.escape(document['info']['description'])}</p>"
        '<p><a href="openapi.json">openapi.json</a> is the whole of it; <a href="./">the page</a> '
        "shows the newest decision.</p>"
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_docs_operation(method.upper(), path, operation))
    parts.append("<h2>Schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        text = html.escape(json.dumps(schema, indent=2, ensure_ascii=False))
        parts.append(
            f'<details id="{html.escape(name)}"><summary>{html.escape(name)}</summary>'
            f"<pre>{text}</pre></details>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dpa: operations</title>'
        f"<style>{_DOCS_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _docs_operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    needs = " (needs the token)" if operation.get("security") else ""
    rows = [
        (parameter["name"], f"{parameter['in']}: {parameter.get('description', '')}")
        for parameter in operation.get("parameters", ())
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        rows.append((f"body, {kind}", _docs_schema(content["schema"])))
    for status, answer in operation["responses"].items():
        kinds = ", ".join(
            f"{kind}: {_docs_schema(content['schema'])}"
            for kind, content in answer.get("content", {}).items()
        )
        said = " ".join(str(answer["description"]).split())
        rows.append((status, said if int(status) >= 400 else f"{said} {kinds}"))
    table = "".join(
        f"<tr><td><code>{html.escape(str(left))}</code></td><td>{html.escape(right)}</td></tr>"
        for left, right in rows
    )
    return (
        f"<h2><code>{method} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}"
        f"{needs}. {html.escape(operation.get('description', ''))}</p><table>{table}</table>"
    )


def _docs_schema(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    return str(schema.get("description", "one row a symbol"))
