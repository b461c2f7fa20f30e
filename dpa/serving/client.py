"""A client of the decision service: one connection that is kept, errors with a cure."""

import contextlib
import http.client
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import orjson

from dpa.clock import Clock, SystemClock
from dpa.errors import ClusterUnavailable, ConfigError, OutcomeUnknown
from dpa.market.panel import Panel
from dpa.serving.types import Request, RequestError
from dpa.serving.wire import ARROW, JSON, history_arrow, request_arrow, request_json

FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0  # seconds between attempts; doubled each time
AWAY = (502, 503, 504)  # what answers while the service starts or mends itself
_CURE = "start it with 'make serve', or give its address with --url"


class Client:
    """Asks one decision service.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:8000``; a path before ``/v1`` may follow.
    token : str, optional
        Sent with every request; what changes state needs one.
    timeout_seconds : float
        How long an answer may take.
    retry_seconds : float
        How long a request that changes nothing when it is sent twice is tried again while nobody
        answers, or the service says that it is not ready.
    clock : Clock
    sleep, uniform : callable
        Waits so many seconds; a random number between two. For tests.

    Raises
    ------
    ConfigError
        When the address is none.

    Notes
    -----
    A decision may be asked for again: the same request gives the same decision. One thread at a
    time may use a client.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_seconds: float = 10.0,
        retry_seconds: float = 5.0,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.url = url.rstrip("/")
        self._kind, self._host, self._port, self._path = _address(self.url)
        self._headers = {"Accept": JSON}
        if token:
            self._headers["Authorization"] = f"Bearer {_checked_token(token)}"
        self._timeout, self._patience = timeout_seconds, retry_seconds
        self._clock = clock or SystemClock()
        self._sleep, self._uniform = sleep, uniform
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def decide(
        self, request: Request, *, form: Literal["json", "arrow"] = "json", trace: bool = True
    ) -> dict[str, Any]:
        """The decision on a snapshot, as :func:`dpa.decision.records.to_dict` gives it.

        Parameters
        ----------
        request : Request
        form : {"json", "arrow"}
            How the snapshot is sent.
        trace : bool
            Ask for what is behind the decision, too.

        Raises
        ------
        RequestError
            When the service refuses; says which field and what to do.
        ClusterUnavailable
            When nobody answers.
        """
        return self._snapshot(f"/v1/decide?trace={str(trace).lower()}", request, form)

    def predict(
        self, request: Request, *, form: Literal["json", "arrow"] = "json"
    ) -> dict[str, Any]:
        """Forecasts for a snapshot; errors as in :meth:`decide`."""
        return self._snapshot("/v1/predict", request, form)

    def _snapshot(self, path: str, request: Request, form: str) -> dict[str, Any]:
        body = request_arrow(request) if form == "arrow" else request_json(request)
        kind = ARROW if form == "arrow" else JSON
        return self._ask("POST", path, body, kind)

    def latest(self, account: str | None = None) -> dict[str, Any] | None:
        """The newest decision of an account (none: of any); none when there is none."""
        path = "/v1/decisions/latest"
        if account is not None:
            path += f"?account={quote(account, safe='')}"
        try:
            return self._ask("GET", path) or None
        except RequestError as e:
            if e.status == 404 and e.code == "not_found":
                return None
            raise

    def bundle(self) -> dict[str, Any]:
        """The bundle in use; see :meth:`dpa.serving.types.Desk.bundle`."""
        return self._ask("GET", "/v1/bundle")

    def ready(self) -> dict[str, Any]:
        """``ready`` and ``stages``, also where it is not ready."""
        status, body = self._exchange("GET", "/readyz", None, {}, ())
        answer = self._read(status, body)
        if "ready" in answer:
            return answer
        raise _refusal(status, answer)

    def history(self, panel: Panel) -> dict[str, Any]:
        """Replace the bars on record; what was learned starts anew."""
        return self._ask("POST", "/v1/history", history_arrow(panel), ARROW)

    def halt(self, account: str, by: str, why: str) -> dict[str, Any]:
        """Halt an account: nothing is traded until a person resumes it; its risk state."""
        return self._ask("POST", self._risk("halt", account), _reason(by, why), JSON)

    def resume(self, account: str, by: str, why: str) -> dict[str, Any]:
        """Let an account trade again; its risk state.

        Raises
        ------
        OutcomeUnknown
            When it was sent and no answer came: not sent again.
        """
        path = self._risk("resume", account)
        return self._ask("POST", path, _reason(by, why), JSON, repeat=False)

    def trading(self) -> dict[str, Any]:
        """What the trader is about."""
        return self._ask("GET", "/v1/trading")

    def tell_trader(self, name: str, by: str, why: str, seen: str | None = None) -> dict[str, Any]:
        """Tell the trader something; its status after that.

        Parameters
        ----------
        name : {"pause", "resume", "flatten", "stop", "kill", "adopt"}
        by, why : str
        seen : str, optional
            ``level_mark`` of the status that a resume resumes from, or after which books are
            adopted.

        Raises
        ------
        OutcomeUnknown
            When a resume was sent and no answer came: not sent again.
        """
        said = {"by": by, "why": why} | ({} if seen is None else {"seen": seen})
        path = f"/v1/trading/{quote(name, safe='')}"
        return self._ask(
            "POST", path, orjson.dumps(said), JSON, repeat=name not in ("resume", "adopt")
        )

    def _risk(self, action: str, account: str) -> str:
        return f"/v1/accounts/{quote(account, safe='')}/{action}"

    # one request

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str | None = None,
        *,
        repeat: bool = True,
    ) -> dict[str, Any]:
        headers = {} if kind is None else {"Content-Type": kind}
        away = AWAY if repeat else None
        status, content = self._exchange(method, path, body, headers, away)
        answer = self._read(status, content)
        if status >= 400:
            raise _refusal(status, answer)
        return answer

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        away: tuple[int, ...] | None,
    ) -> tuple[int, bytes]:
        """Status and body; `away` are the statuses to wait on, none: send once only."""
        deadline = self._clock.elapsed() + self._patience
        wait = FIRST_WAIT
        if away is None:
            self.close()  # a kept connection may be dead, which a first byte would not tell
        while True:
            late = self._clock.elapsed() + wait > deadline
            try:
                status, content = self._once(method, path, body, headers, away is None)
                if late or away is None or not (status in away or _not_ours(status, content)):
                    return status, content
            except (OSError, http.client.HTTPException) as e:
                self.close()
                if late or away is None:
                    raise self._unavailable(e) from e
            self._sleep(self._uniform(0.5 * wait, wait))
            wait = min(2 * wait, LONGEST_WAIT)

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], once: bool
    ) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._kind(self._host, self._port, timeout=self._timeout)
        connection = self._connection
        if connection.sock is None:
            connection.connect()
        try:
            connection.request(method, self._path + path, body, {**self._headers, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as e:
            self.close()
            if once:
                raise OutcomeUnknown(
                    f"{self.url}: no answer came to {method} {path} ({_reason_of(e)})",
                    "look what is the case with 'dpa serve status' before sending it again",
                ) from e
            raise
        except BaseException:
            self.close()  # half an answer may be on its way
            raise

    def _unavailable(self, error: Exception) -> ClusterUnavailable:
        return ClusterUnavailable(f"{self.url}: nobody answers ({_reason_of(error)})", _CURE)

    def _read(self, status: int, content: bytes) -> dict[str, Any]:
        with contextlib.suppress(orjson.JSONDecodeError):
            answer = orjson.loads(content)
            if isinstance(answer, dict):
                return answer
        if status >= 400:
            text = content[:80].decode("utf-8", "replace").strip()
            return {"error": {"what": text or http.client.responses.get(status, "refused")}}
        raise ClusterUnavailable(
            f"{self.url}: answers, but not as the decision service does", "correct --url"
        )


def read_token(path: Path) -> str | None:
    """The token in a file; none when there is no such file.

    Raises
    ------
    ConfigError
        When the file cannot be read or holds no token.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"--token-file {path}: cannot be read ({e})", "check the path") from e
    if not text:
        raise ConfigError(f"--token-file {path}: is empty", "start the service, which writes it")
    return text


def _checked_token(token: str) -> str:
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError("the token holds characters that no token has", "copy the file again")
    return token


def _address(url: str) -> tuple[type[http.client.HTTPConnection], str, int, str]:
    """Kind of connection, host, port and path of an address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise ConfigError(f"--url: {url!r} is no address ({e})", _EXAMPLE) from e
    kinds = {
        "http": (http.client.HTTPConnection, http.client.HTTP_PORT),
        "https": (http.client.HTTPSConnection, http.client.HTTPS_PORT),
    }
    if parts.scheme not in kinds or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"--url: {url!r} is no address", _EXAMPLE)
    kind, usual = kinds[parts.scheme]
    return kind, parts.hostname, port or usual, parts.path.rstrip("/")


_EXAMPLE = "write http://127.0.0.1:8000"


def _not_ours(status: int, content: bytes) -> bool:
    """Whether an error is of what stands before the service, such as a proxy whose replica died."""
    return status == 500 and not content.startswith(b"{")


def _reason(by: str, why: str) -> bytes:
    return orjson.dumps({"by": by, "why": why})


def _reason_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _refusal(status: int, answer: Mapping[str, Any]) -> RequestError:
    """The error an answer describes."""
    found = answer.get("error", answer)
    if not isinstance(found, Mapping):
        found = {"what": str(found)}
    what = found.get("what") or found.get("message") or f"the service answers {status}"
    texts = (str(found.get(key) or "") for key in ("cure", "field"))
    return RequestError(status, str(found.get("code") or "invalid"), str(what), *texts)
