"""What ``dpa trade`` says and with which code it leaves, where no service and no trader runs."""

import json
from pathlib import Path

import pytest

from dpa.cli import main

NOBODY = "http://127.0.0.1:9"


def status(storage: Path, *more: str) -> int:
    return main(["trade", "status", "--storage", str(storage), "--url", NOBODY, *more])


def test_where_nothing_was_ever_traded_the_status_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(tmp_path) == 3
    shown = capsys.readouterr().out
    assert "never traded" in shown
    assert "RUNNING" not in shown
    assert not (tmp_path / "trading").exists(), "a question leaves nothing behind"
    assert status(tmp_path, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["level"], found["running"]) == ("never traded", None, False)


def test_where_only_a_kill_was_it_says_the_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kill", "--storage", str(tmp_path), "--by", "Ada", "--seconds", "0"]) == 1
    capsys.readouterr()
    assert status(tmp_path) == 1
    assert "HALTED (Ada: killed)" in capsys.readouterr().out
