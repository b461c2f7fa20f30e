"""``dpa cluster`` as typed, against real ssh servers."""

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpa.cli import build_parser, main
from dpa.clock import SystemClock
from dpa.errors import ConfigError
from dpa.hosts import jobs
from dpa.hosts.cluster_file import read_cluster_file
from dpa.hosts.problem import HostError, ProblemFound
from dpa.hosts.tunnel import tunnel
from tests.dpa_hosts.conftest import SshWorld, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "t" * 64


@pytest.fixture
def place(world: SshWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster file of the two nodes; state and token in a folder of the test."""
    raw = yaml.safe_load((REPOSITORY / "cluster-onprem.yaml").read_text(encoding="utf-8"))
    head, *workers = [node.address for node in world.nodes]
    raw["provider"] = {"type": "local", "head_ip": head, "worker_ips": workers}
    raw["auth"] = {
        "ssh_user": getpass.getuser(),
        "ssh_private_key": str(world.key),
        "ssh_proxy_command": world.nodes[0].proxy(),
    }
    raw |= {"min_workers": len(workers), "max_workers": len(workers)}
    mounts = {there: str(REPOSITORY / here) for there, here in raw["file_mounts"].items()
              if there.startswith("~/dpa-source")}  # fmt: skip
    raw["file_mounts"] = {"~/.ray/auth_token": str(tmp_path / "token"), **mounts}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return path


def test_status_of_bare_machines_says_what_is_missing_and_where(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "status", str(place), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert set(said["nodes"]) == {"127.0.0.2", "127.0.0.3"}
    assert said["cluster"] == "dpa-onprem"
    assert len(said["source"]["source"]) == 64
    assert "fingerprint" not in json.dumps(said)
    kinds = {(problem["host"], problem["kind"]) for problem in said["problems"]}
    assert {("127.0.0.2", "not-installed"), ("127.0.0.3", "not-installed")} <= kinds
    assert all(problem["cure"] for problem in said["problems"])


def test_up_stops_before_ray_when_a_machine_is_not_ready_and_names_all_that_is_wrong(
    place: Path, world: SshWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    removed = [node.tools / "rsync" for node in world.nodes]
    target = removed[0].readlink()
    for tool in removed:
        tool.unlink()
    try:
        assert main(["cluster", "up", str(place)]) == 2
    finally:
        for tool in removed:
            tool.symlink_to(target)
    said = capsys.readouterr()
    assert "127.0.0.2: has no rsync; Debian: apt-get install rsync" in said.err
    assert "127.0.0.3: has no rsync" in said.err
    assert "problems on 2 machines" in said.err.splitlines()[-1]
    token = place.parent / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert not (place.parent / "state" / "dpa" / "clusters" / "dpa-onprem" / "up.log").exists()


def test_a_wrong_key_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = yaml.safe_load(place.read_text(encoding="utf-8"))
    raw["auth"]["ssh_private_key"] = str(tmp_path / "none")
    place.write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert main(["cluster", "status", str(place)]) == 2
    assert "auth.ssh_private_key" in capsys.readouterr().err


def test_down_asks_and_stops_what_a_node_has(
    place: Path, world: SshWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "down", str(place)]) == 2
    assert "give --yes" in capsys.readouterr().err


def test_options_of_submit_stand_on_either_side_of_the_file_and_the_commands_own_after() -> None:
    for line in (
        "cluster submit c.yaml --no-wait --job j -- sleep --no-wait 3",
        "cluster submit --no-wait --job j c.yaml -- sleep --no-wait 3",
    ):
        arguments = build_parser().parse_args(line.split())
        assert (arguments.no_wait, arguments.job) == (True, "j")
        assert arguments.entrypoint == ["sleep", "--no-wait", "3"]


def test_what_is_missing_on_the_command_line_is_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "submit", str(place)]) == 2
    assert "required: COMMAND" in capsys.readouterr().err
    assert main(["cluster", "logs", str(place), "--follow"]) == 2
    assert "JOB: is missing" in capsys.readouterr().err


class _Head(BaseHTTPRequestHandler):
    """The part of a dashboard that lists jobs and actors, behind the token."""

    def do_GET(self) -> None:
        good = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        said: Any = [
            {"submission_id": "late", "status": "RUNNING", "start_time": 2},
            {"submission_id": "early", "status": "SUCCEEDED", "start_time": 1},
        ]
        if self.path.startswith("/api/v0/actors?"):
            assert "filter_predicates=%21%3D&filter_values=DEAD" in self.path
            actors = [{"name": "trader", "state": "RESTARTING"}, {"name": "", "state": "ALIVE"}]
            said = {"data": {"result": {"result": actors}}}
        body = json.dumps(said).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def dashboard() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Head)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield int(server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


def test_through_the_tunnel_the_head_answers_whoever_has_its_token(
    place: Path, world: SshWorld, dashboard: int
) -> None:
    cluster, clock = read_cluster_file(place), SystemClock()
    with tunnel(cluster, place, world.ssh(), os.environ, clock, dashboard) as url:
        known = jobs.list_jobs(url, TOKEN)
        assert [jobs.job_name(job) for job in known] == ["early", "late"]
        assert jobs.running_jobs(known) == ["late"]
        assert jobs.lasting_actors(url, TOKEN) == ["the trader"]  # its job ended when it began
        with pytest.raises(HostError, match="refuses this machine's token"):
            jobs.list_jobs(url, "old" + TOKEN)
        port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1.0)


def test_a_proxy_of_the_operator_is_given_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str | None] = []

    class Proxy(_Head):
        def do_GET(self) -> None:
            said.append(self.headers.get("Authorization"))
            super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_address[1]}")
    with pytest.raises(HostError, match="does not answer on the head"):
        jobs.list_jobs(f"http://127.0.0.1:{free_port('127.0.0.1')}", TOKEN)
    server.shutdown()
    thread.join()
    server.server_close()
    assert said == []


def test_a_head_without_a_dashboard_is_said(place: Path, world: SshWorld) -> None:
    cluster, clock, nobody = read_cluster_file(place), SystemClock(), free_port("127.0.0.1")
    with (
        tunnel(cluster, place, world.ssh(), os.environ, clock, nobody) as url,
        pytest.raises(HostError, match="does not answer on the head"),
    ):
        jobs.list_jobs(url, TOKEN)
    closed = world.ssh(port=free_port("127.0.0.2"))
    with (
        pytest.raises(ProblemFound, match="nothing answers ssh"),
        tunnel(cluster, place, closed, os.environ, clock, nobody),
    ):
        pass


def test_an_interruption_ends_what_follows_a_job(tmp_path: Path) -> None:
    """Ctrl-C reaches us alone; what we started to follow the job is gone afterwards."""
    code = (
        "import os, sys\n"
        "from dpa.hosts import jobs\n"
        "try:\n"
        "    loop = 'while sleep 0.2; do echo $$; done'\n"
        "    jobs._passed_on(['bash', '-c', loop, 'bash'], os.environ)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    follower = {int(process.stdout.readline()) for _ in range(3)}.pop()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert process.stdout.read().strip() in ("", str(follower))
    process.stdout.close()  # at its end: nobody holds the other side
    assert not Path(f"/proc/{follower}").exists()


def test_a_failure_of_ray_itself_is_one_line_and_one_of_the_job_its_code() -> None:
    with pytest.raises(HostError, match="failed: RuntimeError: no agent"):
        jobs._passed_on(
            ["bash", "-c", "echo Traceback >&2; echo RuntimeError: no agent >&2; exit 1"], {}
        )
    assert jobs._passed_on(["bash", "-c", "exit 3"], {}) == 3


def test_the_words_that_go_on_with_a_job_are_commands() -> None:
    words = jobs.going_on("my cluster.yaml", "dpa-12345678")
    assert "dpa cluster logs 'my cluster.yaml' dpa-12345678 --follow" in words
    assert jobs.check_entrypoint(["--", "python", "x.py"]) == ["python", "x.py"]
    with pytest.raises(ConfigError):
        jobs.check_entrypoint(["--"])
