"""Real hosts, without Ray: reached by ssh, cut off from everything else, gone without a trace."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.hosts.host import SHARED, missing_programs
from tests.hosts.machines import REPOSITORY, Machines, clean, started

PATIENCE = 60.0


def may_make_hosts() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or missing_programs():
        return False
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "mount", "--make-rprivate", "/"]
    return subprocess.run(command, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not may_make_hosts(), reason="needs root on Linux, namespaces, sshd and rsync"
)


def gone(pid: int) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if not started(pid):
            return True
        time.sleep(0.01)
    return False


def ssh(machines: Machines, name: str, words: str) -> str:
    key = str(Path.home() / ".ssh" / "key")
    return machines.operator.run(
        "ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
        f"root@{machines.plan.of(name)}", words,
    ).stdout.strip()  # fmt: skip


def test_hosts_are_machines_of_their_own_and_leave_nothing(tmp_path: Path) -> None:
    links = subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    with Machines(("head", "worker1"), root=tmp_path / "root") as machines:
        head, worker = machines.hosts["head"], machines.hosts["worker1"]
        pids = [host.pid for host in machines.hosts.values()]
        assert ssh(machines, "worker1", "hostname") == "worker1"
        ssh(machines, "head", f"touch /tmp/mine ~/mine {SHARED}/ours; sleep 600 >/dev/null 2>&1 &")
        seen = "ls /tmp/mine ~/mine; ls /srv/dpa; pgrep -x sleep || true"
        assert worker.attempt("bash", "-c", seen).stdout.split() == ["ours"]
        assert not (Path("/tmp/mine").exists())
        assert not ((Path.home() / "mine").exists())
        assert len(head.titles()) > len(worker.titles())
        routes = machines.operator.run("ip", "route").stdout.splitlines()
        assert [line.split()[0] for line in routes] == [str(machines.plan.network)]

        machines.kill("worker1")
        assert gone(pids[2])
        assert head.attempt("ping", "-c", "1", "-W", "1", "worker1").returncode != 0
        machines.boot("worker1")
        assert ssh(machines, "worker1", "ls /srv/dpa") == "ours"
        pids.append(worker.pid)
    assert all(gone(pid) for pid in pids)
    assert not (tmp_path / "root").exists()
    assert subprocess.run(["ip", "link"], capture_output=True, text=True).stdout == links


def test_hosts_die_with_a_run_that_is_killed_and_the_next_removes_its_folder(
    tmp_path: Path,
) -> None:
    code = f"""
        from pathlib import Path
        from tests.hosts.machines import Machines
        with Machines(("head",), root=Path({str(tmp_path)!r})) as machines:
            print(*[host.pid for host in machines.hosts.values()], flush=True)
            input()
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    with run:
        assert run.stdout is not None
        pids = [int(word) for word in run.stdout.readline().split()]
        run.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    [folder] = clean(tmp_path)
    assert not folder.exists()


def test_a_host_that_does_not_boot_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.hosts.host.SHM", "nonsense")
    with pytest.raises(Exception, match="does not boot"), Machines(("head",), root=tmp_path):
        pass
    assert not list(tmp_path.glob("run.*"))
