"""What a run leaves is found and removed; what lives is left alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpa.errors import UserError
from tests.hosts import machines
from tests.hosts.machines import STATE, clean, lock, remove, started


def left(root: Path, name: str, state: object = None) -> Path:
    """The folder of a run."""
    folder = root / f"run.{name}"
    (folder / "head" / "home").mkdir(parents=True)
    if state is not None:
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
    return folder


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield started
    started.kill()
    started.wait()


def test_the_folder_of_a_run_that_is_over_goes_and_so_does_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    folder = left(root, "1", {})
    assert clean(root) == [folder]
    assert not root.exists()
    assert clean(root) == []


def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    folder = left(tmp_path, "1")
    handle = lock(folder)
    try:
        assert clean(tmp_path) == []
        assert folder.is_dir()
        with pytest.raises(UserError, match="a run is alive there"):
            lock(folder)
    finally:
        os.close(handle)
    assert clean(tmp_path) == [folder]


def test_hosts_that_outlived_their_run_are_ended(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    left(tmp_path, "1", {"head": [process.pid, started(process.pid)]})
    clean(tmp_path)
    assert process.wait(10.0) == -9


def test_another_process_that_got_the_number_of_a_host_lives_on(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    left(tmp_path, "1", {"head": [process.pid, started(process.pid) + 1]})
    clean(tmp_path)
    assert process.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_record_does_not_stop_the_cleaning(tmp_path: Path, text: str) -> None:
    folder = left(tmp_path, "1")
    (folder / STATE).write_text(text, encoding="utf-8")
    assert clean(tmp_path) == [folder]


def test_nothing_is_removed_through_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = left(tmp_path, "1")
    line = f"36 35 98:0 / {folder}/head/home rw - ext4 /dev/root rw\n"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(line, encoding="utf-8")
    monkeypatch.setattr(machines, "MOUNTS", mounts)
    with pytest.raises(UserError, match="is mounted"):
        remove(folder)
    assert (folder / "head" / "home").is_dir()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="need Linux and root"):
        machines.check_machine()
