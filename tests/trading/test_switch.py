"""Halting always works, resuming needs a person who saw what is resumed, doubt means HALTED."""

import json
import os
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from dpa.errors import HaltError, TransientError, UserError
from dpa.trading import switch as module
from dpa.trading.switch import Level, Switch
from tests.trading.bookkeeping import NOON, a_clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "switch.json"


@pytest.fixture
def switch(path: Path) -> Switch:
    return Switch(path, a_clock())


def test_a_switch_never_set_runs_and_one_that_was_lost_halts(switch: Switch, path: Path) -> None:
    assert switch.level is Level.RUNNING
    switch.pause("Ada", "lunch")
    path.unlink()
    assert switch.level is Level.HALTED
    assert Switch(path, a_clock()).level is Level.HALTED
    path.with_name("switch.json.made").unlink()
    assert switch.level is Level.HALTED  # this one remembers


def test_it_says_who_and_why_and_outlives_the_process(switch: Switch, path: Path) -> None:
    switch.halt("Ada", "prices look wrong")
    said = Switch(path, a_clock()).read()
    assert (said.level, said.by, said.why, said.since) == (
        Level.HALTED,
        "Ada",
        "prices look wrong",
        NOON,
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "switch.json",
        "switch.json.lock",
        "switch.json.made",
    ]


@pytest.mark.parametrize("first", ["pause", "flatten", "halt"])
@pytest.mark.parametrize("second", ["pause", "flatten", "halt"])
def test_the_more_severe_stays_with_its_reason(first: str, second: str, switch: Switch) -> None:
    one = getattr(switch, first)("Ada", "first")
    both = getattr(switch, second)("Bob", "second")
    assert both.level >= one.level
    assert (both.by, both.why) == (
        ("Bob", "second") if both.level > one.level else ("Ada", "first")
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"level": "RUNNING"}',
        '{"level": "GO", "by": "a", "why": "b", "since": "2026-03-02T17:00:00+00:00"}',
        '{"level": 0, "by": "a", "why": "b", "since": "2026-03-02T17:00:00+00:00"}',
        '{"level": "RUNNING", "by": "a", "why": "b", "since": "noon"}',
        "\x00" * 70000,
    ],
)
def test_what_cannot_be_read_is_halted_and_a_person_can_resume_it(
    text: str, switch: Switch, path: Path
) -> None:
    switch.pause("Ada", "lunch")
    path.write_text(text)
    said = switch.read()
    assert said.level is Level.HALTED
    assert "damaged" in said.why
    assert switch.resume("Ada", "looked at it", said).level is Level.RUNNING


def test_a_folder_in_its_place_is_halted(switch: Switch, path: Path) -> None:
    path.mkdir()
    assert switch.level is Level.HALTED
    assert switch.halt("Ada", "now").level is Level.HALTED
    with pytest.raises(HaltError, match="stays HALTED"):
        switch.resume("Ada", "fine")


def test_a_resume_needs_a_name_a_reason_and_a_look(switch: Switch, path: Path) -> None:
    switch.halt("Ada", "why not")
    for by, why in (("", "fine"), ("Ada", " ")):
        with pytest.raises(UserError, match="say who"):
            switch.resume(by, why)
    blind = Switch(path, a_clock())
    with pytest.raises(UserError, match="looked at"):
        blind.resume("Ada", "fine")
    assert blind.read().level is Level.HALTED
    assert blind.resume("Ada", "fine").level is Level.RUNNING
    assert blind.read().by == "Ada"


def test_a_resume_never_overwrites_a_halt_that_came_later(switch: Switch, path: Path) -> None:
    seen = switch.pause("Ada", "lunch")
    Switch(path, a_clock()).halt("watchdog", "positions differ")
    for what in (seen, seen.mark):
        with pytest.raises(UserError, match=r"HALTED by now .watchdog: positions differ"):
            switch.resume("Ada", "lunch is over", what)
    assert switch.level is Level.HALTED


def test_a_resume_never_overwrites_the_same_halt_made_anew(switch: Switch, path: Path) -> None:
    seen = switch.halt("Ada", "x")
    other = Switch(path, a_clock())
    other.read()
    other.resume("Bob", "y")
    other.halt("Ada", "x")
    with pytest.raises(UserError, match="look again"):
        switch.resume("Ada", "z", seen)


def test_another_process_is_seen_at_once(switch: Switch, path: Path) -> None:
    switch.pause("Ada", "lunch")
    program = (
        "import sys; from pathlib import Path; from dpa.clock import SystemClock;"
        "from dpa.trading.switch import Switch;"
        "Switch(Path(sys.argv[1]), SystemClock()).halt('dpa kill', 'now')"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert switch.read().by == "dpa kill"


def test_concurrent_writers_end_with_the_most_severe(path: Path) -> None:
    acts = ["pause", "flatten", "halt", "pause"] * 5
    barrier = threading.Barrier(len(acts))

    def act(name: str) -> None:
        mine = Switch(path, a_clock())
        barrier.wait(30)
        getattr(mine, name)(name, "at the same time")

    threads = [threading.Thread(target=act, args=(name,)) for name in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    said = Switch(path, a_clock()).read()
    assert (said.level, said.by) == (Level.HALTED, "halt")


def test_a_halt_waits_for_no_lock_and_the_others_say_so(
    switch: Switch, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TRIES", 2)
    with Switch(path, a_clock())._locked():
        with pytest.raises(TransientError, match="try again"):
            switch.pause("Ada", "lunch")
        assert switch.level is Level.RUNNING
        assert switch.halt("Ada", "fire").level is Level.HALTED


def halt_without_the_lock(path: Path, hurry: pytest.MonkeyPatch) -> None:
    """A halt that does not get the lock."""
    hurry.setattr(module, "LOCK_TRIES", 2)
    assert Switch(path, a_clock()).halt("dpa kill", "panic").level is Level.HALTED


@pytest.mark.parametrize("call", ["replace", "rename", "link"])
@pytest.mark.parametrize("first", ["pause", "halt beside", "damage"])
def test_a_halt_that_does_not_wait_survives_whatever_is_under_way(
    path: Path, first: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while a resume that checked everything is about to touch the disk."""
    person = Switch(path, a_clock())
    if first == "damage":
        path.write_text("{")
    if first == "halt beside":
        with person._locked():
            halt_without_the_lock(path, monkeypatch)
    else:
        person.pause("Ada", "lunch")
    seen = person.read()
    real, calls = getattr(module.os, call), []

    def stalling(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            monkeypatch.setattr(module.os, call, real)
            halt_without_the_lock(path, monkeypatch)
            assert person.level is Level.HALTED
        real(*arguments)

    monkeypatch.setattr(module.os, call, stalling)
    with suppress(UserError):
        person.resume("Bob", "fine", seen)
    assert (person.level is Level.HALTED) == bool(calls)
    assert (Switch(path, a_clock()).level is Level.HALTED) == bool(calls)
    monkeypatch.undo()
    assert person.resume("Bob", "looked", person.read()).level is Level.RUNNING
    assert Switch(path, a_clock()).level is Level.RUNNING
    assert person.halt("Ada", "again").level is Level.HALTED


def test_a_pause_that_was_under_way_does_not_undo_a_halt(
    switch: Switch, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.os.replace

    def stalling(*arguments: object) -> None:
        monkeypatch.setattr(module.os, "replace", real)
        halt_without_the_lock(path, monkeypatch)
        real(*arguments)

    monkeypatch.setattr(module.os, "replace", stalling)
    assert switch.pause("Ada", "lunch").level is Level.HALTED
    assert (switch.read().by, switch.read().why) == ("dpa kill", "panic")


def test_a_halt_that_could_not_be_written_is_not_resumed_over_another_one(
    switch: Switch, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch.pause("Ada", "lunch")
    with monkeypatch.context() as full:
        full.setattr(module.tempfile, "mkstemp", _full)
        full.setattr(module.Path, "unlink", _full)
        with pytest.raises(HaltError, match="only this process is halted"):
            switch.halt("dealer", "positions differ")
    seen = switch.read()
    assert (seen.level, seen.by) == (Level.HALTED, "dealer")
    Switch(path, a_clock()).halt("dpa kill", "panic")
    with pytest.raises(UserError, match="by now"):
        switch.resume("Bob", "fine", seen)
    assert switch.read().level is Level.HALTED
    with monkeypatch.context() as full:
        full.setattr(module.tempfile, "mkstemp", _full)
        with pytest.raises(HaltError, match="stays HALTED"):
            switch.resume("Bob", "fine", switch.read())
    assert switch.read().by == "dealer"
    assert switch.resume("Bob", "looked", switch.read()).level is Level.RUNNING


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_hung_writer_does_not_undo_a_halt(switch: Switch, path: Path) -> None:
    """It had decided to pause when the halt came past its lock."""
    hung = Switch(path, a_clock())
    hung.read()
    over = hung._fresh().mark
    switch.halt("Ada", "fire")
    assert not hung._write(hung._new(Level.PAUSED, "Bob", "lunch"), over)
    assert hung.level is Level.HALTED


def test_a_full_disk_halts_everybody(
    switch: Switch, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Switch(path, a_clock())
    switch.pause("Ada", "lunch")
    switch.resume("Ada", "back")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(HaltError, match="No space left on device"):
        switch.halt("Ada", "now")
    assert switch.level is other.level is Level.HALTED
    with pytest.raises(HaltError, match="stays HALTED"):
        switch.resume("Ada", "hm")
    monkeypatch.undo()
    assert switch.resume("Ada", "space again", switch.read()).level is Level.RUNNING


def test_where_nothing_can_be_written_this_process_is_halted_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    switch = Switch(tmp_path / "file" / "switch.json", a_clock())
    with pytest.raises(HaltError):
        switch.halt("Ada", "now")
    assert switch.level is Level.HALTED


def test_asking_again_opens_nothing(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    switch.pause("Ada", "lunch")
    before = switch.read()
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("the file was read again"))
    assert all(switch.read() is before for _ in range(100))


def test_the_file_is_plain_words(switch: Switch, path: Path) -> None:
    switch.flatten("Ada", "weekend")
    said = json.loads(path.read_text())
    assert said["level"] == "FLATTENING"
    assert os.path.getsize(path) < 4096
