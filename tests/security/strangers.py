"""Strangers at each surface: without a token, with a wrong one, with one that was right once."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpa.config import Settings
from dpa.hosts.certificates import environment_of
from dpa.serving.http import make_app
from dpa.serving.meters import NoMeters
from dpa.serving.page import page_html
from dpa.serving.tokens import read_or_make_token
from dpa.simulation.tws.control import write_token

WRONG = "0" * 64
CLIENT_SECONDS = 120.0
Ask = Callable[[str | None], str]  # a token or none; what came back


@dataclass(frozen=True)
class Row:
    """What a surface answers to each; ``let in`` or the refusal."""

    surface: str
    missing: str
    wrong: str
    old: str
    right: str
    open_by_design: bool = False

    @property
    def good(self) -> bool:
        """Whether strangers are refused and the holder is not; or all are let in, as documented."""
        strangers = [self.missing, self.wrong, self.old]
        if self.open_by_design:
            return all(said.startswith("let in") for said in [*strangers, self.right])
        refused = not any(said.startswith("let in") for said in strangers)
        return refused and self.right.startswith("let in")

    def __str__(self) -> str:
        name = f"{self.surface} (open by design)" if self.open_by_design else self.surface
        return f"| {name} | {self.missing} | {self.wrong} | {self.old} | {self.right} |"


def row(surface: str, ask: Ask, right: str, old: str, open_by_design: bool = False) -> Row:
    """Ask as each stranger, and as the holder."""
    return Row(surface, ask(None), ask(WRONG), ask(old), ask(right), open_by_design)


def http_ask(method: str, url: str, body: bytes | None = None, let_in: tuple[int, ...] = ()) -> Ask:
    """A surface of HTTP; any answer but 401 and 403 is being let in."""

    def ask(token: str | None) -> str:
        request = urllib.request.Request(url, data=body, method=method)
        request.add_header("Content-Type", "application/json")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return f"let in ({answer.status})"
        except urllib.error.HTTPError as e:
            e.close()
            return f"refused ({e.code})" if e.code in (401, 403) else f"let in ({e.code})"
        except (OSError, http.client.HTTPException) as e:
            return f"no answer ({e})"

    return ask


def client_ask(code: str, environ: Mapping[str, str] | None = None) -> Ask:
    """A surface of Ray's own protocols, asked by a process with the token in its environment."""

    def ask(token: str | None) -> str:
        own = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "RAY_AUTH_MODE": "disabled"}
        if token is not None:
            own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        own |= dict(environ or {})
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=own,
                capture_output=True,
                text=True,
                timeout=CLIENT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"refused (nothing within {CLIENT_SECONDS:g} s)"
        if done.returncode == 0 and done.stdout.strip().endswith("ran here"):
            return "let in"
        words = done.stdout + done.stderr
        for sign in ("Unauthenticated", "AuthenticationError", "InvalidAuthToken", "UNAUTH"):
            if sign.lower() in words.lower():
                return f"refused ({sign})"
        last = (words.strip().splitlines() or ["no reason"])[-1]
        return f"refused ({last[:60]})"

    return ask


TASK = """
import logging, ray
ray.init(address={address!r}, log_to_driver=False, logging_level=logging.ERROR)
print(ray.get(ray.remote(num_cpus=0)(lambda: "ran here").remote(), timeout=50))
"""


def ask_ray(address: str, right: str, old: str) -> list[Row]:
    """Jobs, dashboard, agent, GCS, Ray Client; and what is open by design."""
    dashboard, agent = "http://127.0.0.1:8265", f"http://{address}:52365"
    job = json.dumps({"entrypoint": "true"}).encode()
    surfaces: list[tuple[str, Ask]] = [
        ("Jobs API: submit", http_ask("POST", f"{dashboard}/api/jobs/", job)),
        ("Jobs API: list", http_ask("GET", f"{dashboard}/api/jobs/")),
        ("dashboard: state of nodes", http_ask("GET", f"{dashboard}/api/v0/nodes")),
        (
            "dashboard: applications of Serve",
            http_ask("GET", f"{dashboard}/api/serve/applications/"),
        ),
        ("dashboard: delete Serve", http_ask("DELETE", f"{dashboard}/api/serve/applications/")),
        ("dashboard agent: jobs", http_ask("POST", f"{agent}/api/job_agent/jobs/", job)),
        ("GCS: join and run a task", client_ask(TASK.format(address=f"{address}:6379"))),
        ("Ray Client: run a task", client_ask(TASK.format(address=f"ray://{address}:10001"))),
    ]
    rows = [row(name, ask, right, old) for name, ask in surfaces]
    for name, url in (
        ("dashboard: static page", f"{dashboard}/"),
        ("metrics of the node", f"http://{address}:8078/metrics"),
        ("metrics of the dashboard", f"http://{address}:44227/metrics"),
        ("metrics of the autoscaler", f"http://{address}:44217/metrics"),
    ):
        rows.append(row(name, http_ask("GET", url), right, old, open_by_design=True))
    return rows


def ask_ray_tls(address: str, nodes: Path, strangers: Path) -> list[Row]:
    """With encryption: who has no certificate of the authority gets nothing, token or not."""
    right = (Path.home() / ".ray" / "auth_token").read_text(encoding="ascii")
    task = TASK.format(address=f"{address}:6379")
    plain, other = client_ask(task), client_ask(task, environment_of(strangers))
    own = client_ask(task, environment_of(nodes))
    holder = own(right)
    return [
        Row("GCS with TLS, right token, no certificate", plain(right), "-", "-", holder),
        Row("GCS with TLS, right token, another authority's certificate",
            "-", other(right), "-", holder),
        Row("GCS with TLS and a certificate", own(None), own(WRONG), "-", holder),
    ]  # fmt: skip


URL = "dashboard "
# A busy machine starts Ray's agents late.
PATIENT = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "280000"}
LOCAL = """
import sys
sys.path[:0] = [{tune!r}, {repository!r}]
from _session import session
with session(None, 1, True) as url:
    print('dashboard', url, flush=True)
    sys.stdin.read()
"""


def ask_one_machine(home: Path) -> list[Row]:
    """Ray as the grid starts it on one machine where there was no token yet."""
    home.mkdir()
    repository = Path(__file__).resolve().parents[2]
    code = LOCAL.format(tune=str(repository / "tune"), repository=str(repository))
    own = {"PATH": os.environ["PATH"], "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **PATIENT}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith(URL):
                break
        else:
            raise SystemExit("Ray does not start on one machine: " + " / ".join(said[-3:]))
        url = said[-1].removeprefix(URL)
        token = home / ".ray" / "auth_token"
        right = token.read_text(encoding="ascii")
        ask = http_ask("GET", f"http://{url}/api/jobs/")
        mode = f"make grid: Jobs API, token of mode {token.stat().st_mode & 0o777:04o}"
        return [row(mode, ask, right, "2" * 64)]


def ask_local_services(home: Path) -> list[Row]:
    """What dpa itself serves: decisions and trading over HTTP, and the simulator's control."""
    return [*_ask_serving(home / "serving"), _ask_simulator(home / "simulator")]


def _ask_serving(folder: Path) -> list[Row]:
    """The application that Ray Serve runs, on a socket; its token was changed once."""
    import uvicorn

    from tests.serving.conftest import ComputingDesk

    old = read_or_make_token(folder / "token", {})
    (folder / "token").unlink()
    right = read_or_make_token(folder / "token", {})
    settings = Settings.model_validate({"serving": {"http_host": "0.0.0.0"}})
    app = make_app(ComputingDesk(settings), settings, right, NoMeters(), page_html(settings))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    with socket.create_server(("0.0.0.0", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            changes = ["decide", "predict", "history", "accounts/a/halt", "accounts/a/resume"]
            trading = ["pause", "flatten", "stop", "kill", "resume", "adopt"]
            reads = ["bundle", "decisions/latest", "trading", "trading/orders"]
            rows = [
                row(
                    f"Serve: POST /v1/{path}",
                    http_ask("POST", f"{url}/v1/{path}", b"{}"),
                    right,
                    old,
                )
                for path in [*changes, *(f"trading/{name}" for name in trading)]
            ]
            rows += [
                row(
                    f"Serve beyond loopback: GET /v1/{path}",
                    http_ask("GET", f"{url}/v1/{path}"),
                    right,
                    old,
                )
                for path in reads
            ]
            for path in ("", "healthz", "readyz"):
                ask = http_ask("GET", f"{url}/{path}")
                rows.append(row(f"Serve: GET /{path}", ask, right, old, open_by_design=True))
            return rows
        finally:
            server.should_exit = True
            thread.join()


def _ask_simulator(folder: Path) -> Row:
    """The control port of ``dpa sim tws``."""
    folder.mkdir()
    token_file, old_file = folder / "token", folder / "old"
    old = write_token(old_file)
    words = ["-m", "dpa.cli", "sim", "tws", "--planted", "7", "--stepped", "--port", "0"]
    words += ["--control-port", "0", "--token-file", str(token_file)]
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=repository,
    ) as process:
        try:
            port = _announced_port(process)
            right = token_file.read_text(encoding="ascii").strip()
            return row("simulator: control", lambda token: _control(port, token), right, old)
        finally:
            process.terminate()


def _announced_port(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if "control on" in line:
            return int(line.split("control on ")[1].split(",")[0].rpartition(":")[2])
    raise SystemExit("the simulator did not start")


def _control(port: int, token: str | None) -> str:
    begun = time.monotonic()
    said: Any = None
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.settimeout(10)
        file = connection.makefile("rwb")
        first = {} if token is None else {"token": token}
        file.write(json.dumps(first).encode() + b"\n")
        file.write(b'{"op": "state"}\n')
        file.flush()
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(file.readline())
    if said is None:
        return f"no answer ({time.monotonic() - begun:.0f} s)"
    refused = not said.get("ok") and "first line" in str(said.get("error"))
    return "refused" if refused else "let in"
