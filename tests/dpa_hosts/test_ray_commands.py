"""What Ray is given, and what is made of what it says."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dpa.errors import ConfigError
from dpa.hosts.certificates import make_certificates
from dpa.hosts.cluster_file import check_with_ray, read_cluster_file
from dpa.hosts.problem import HostError
from dpa.hosts.ray_commands import (
    environment,
    explained,
    rendered,
    run_with_log,
    write_rendered,
)
from dpa.hosts.source import source_of
from tests.dpa_hosts.test_source import checkout

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ("cluster.yaml", "cluster-onprem.yaml")


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_what_it_is_given_with_encryption_too(name: str, tmp_path: Path) -> None:
    cluster = read_cluster_file(REPOSITORY / name)
    source = source_of(cluster)
    make_certificates(tmp_path / "tls", ["10.0.0.1"])
    text = rendered(cluster, source, tmp_path / "state", tmp_path / "tls")
    assert text == rendered(cluster, source, tmp_path / "state", tmp_path / "tls")
    path = write_rendered(text, source, tmp_path / "state")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    given = read_cluster_file(path)
    check_with_ray(given)
    for here in given.raw["file_mounts"].values():
        assert Path(here).is_absolute()
        assert Path(here).exists() or "auth_token" in here
    shipped = [here for there, here in given.raw["file_mounts"].items() if "dpa-source" in there]
    assert all(Path(here).is_relative_to(tmp_path / "state") for here in shipped)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in given.raw[key] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_USE_TLS=1" in starts[0]
        assert "RAY_AUTH_MODE=token" in starts[0]
    for command in given.raw["setup_commands"]:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    assert "ca.key" not in text


def test_a_source_that_is_changed_while_it_is_copied_is_not_shipped(tmp_path: Path) -> None:
    cluster = checkout(tmp_path / "here")
    source = source_of(cluster)
    (tmp_path / "here" / "dpa" / "a.py").write_text("a = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="changed meanwhile"):
        write_rendered("text", source, tmp_path / "state")


def test_without_certificates_there_is_no_encryption(tmp_path: Path) -> None:
    cluster = read_cluster_file(REPOSITORY / "cluster-onprem.yaml")
    with pytest.raises(ConfigError, match=r"ca\.crt is missing"):
        rendered(cluster, source_of(cluster), tmp_path, tmp_path)


def test_the_first_autoscaler_is_for_machines_of_ones_own_only() -> None:
    for name in FILES:
        cluster = read_cluster_file(REPOSITORY / name)
        given = environment(cluster, None, {"PATH": "/bin"})
        assert given["RAY_AUTH_MODE"] == "token"
        assert given["RAY_USAGE_STATS_ENABLED"] == "0"
        assert given["no_proxy"] == given["NO_PROXY"] == "127.0.0.1"  # the token is for nobody else
        assert (given.get("RAY_UP_enable_autoscaler_v2") == "0") == cluster.is_local


def test_steps_are_told_and_all_is_kept(tmp_path: Path) -> None:
    told: list[str] = []
    code = (
        "print('noise\\nINFO updater.py:1 -- \\x1b[1m[3/7] Running setup commands\\x1b[0m\\nmore')"
    )
    log = tmp_path / "log"
    run_with_log([sys.executable, "-c", code], {}, log, told.append, verbose=False)
    assert told == ["  [3/7] Running setup commands"]
    assert log.read_text(encoding="utf-8").splitlines()[0] == "noise"
    with pytest.raises(HostError, match="boom"):
        run_with_log(
            [sys.executable, "-c", "raise SystemExit('boom')"], {}, log, told.append, verbose=False
        )


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("ERROR: Could not find a version that satisfies the requirement torch", "package index"),
        ("OSError: [Errno 28] No space left on device", "make room"),
        ("RuntimeError: InvalidAuthToken: 401", "token differs"),
        ("make: *** [Makefile:56: .venv/.installed-sample] Error 1", "the whole output is in"),
        ("something else entirely", "the whole output is in"),
    ],
)
def test_a_failure_of_ray_is_one_line_with_its_cure(tmp_path: Path, line: str, cure: str) -> None:
    log = tmp_path / "up.log"
    noise = "2026-01-01 10:00:00,401 ERR updater.py:401 -- New status: update-failed\n!!!\n"
    log.write_text(f"[1/7] Waiting\n{line}\n\n{noise}", encoding="utf-8")
    error = explained("ray up", 1, log)
    assert line in error.what
    assert cure in error.cure
    assert str(log) in error.cure
