"""The log: lines a program can read, ids, bounds, no secrets, and never a lost order for a line."""

import asyncio
import errno
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dpa.clock import FixedClock
from dpa.config import LoggingConfig
from dpa.telemetry import logs
from dpa.telemetry.ids import about
from dpa.telemetry.logs import LogFile, log_to_files, stop_logging
from dpa.telemetry.redaction import REDACTED, Redactor

NOON = datetime(2026, 3, 2, 17, 0, tzinfo=UTC)
MARKET = datetime(2024, 7, 1, 14, 0, tzinfo=UTC)
log = logging.getLogger("dpa.tests.logs")
Begin = Callable[..., LogFile]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    begun: list[LogFile | None] = []

    def start(**settings: Any) -> LogFile:
        secrets = settings.pop("secrets", ())
        config = LoggingConfig(**settings)
        begun.append(
            log_to_files(config, tmp_path, "trader", secrets=secrets, clock=FixedClock(NOON))
        )
        assert begun[-1] is not None
        return begun[-1]

    yield start
    for each in begun:
        stop_logging(each)


def lines_of(handler: LogFile) -> list[dict[str, Any]]:
    assert handler.wait()
    files = sorted(handler.folder.glob("*.jsonl"), key=lambda path: ("." not in path.stem, path))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def test_a_line_has_time_level_place_words_and_the_ids_in_force(begin: Begin) -> None:
    handler = begin()
    with about(run_id="20260301-1", account="DU1"), about(bar=MARKET, decision_id="d1"):
        log.warning("order %s of %d shares", "dpa-1", 5, extra={"intent_id": "dpa-1"})
    log.info("outside")
    first, second = lines_of(handler)
    assert first == {
        "time": "2026-03-02T17:00:00.000000+00:00",
        "level": "warning",
        "logger": "dpa.tests.logs",
        "message": "order dpa-1 of 5 shares",
        "run_id": "20260301-1",
        "account": "DU1",
        "bar": "2024-07-01T14:00:00+00:00",
        "decision_id": "d1",
        "intent_id": "dpa-1",
        "node": first["node"],
        "process": "trader",
        "pid": os.getpid(),
    }
    assert set(second) == {"time", "level", "logger", "message", "node", "process", "pid"}


def test_work_that_goes_by_another_clock_says_its_moment(begin: Begin) -> None:
    handler = begin()
    with about(FixedClock(MARKET)):
        log.info("in the market's time")
    log.info("later", extra={"at": MARKET})
    log.info("in ours")
    ats = [line.get("at") for line in lines_of(handler)]
    assert ats == [MARKET.isoformat(), MARKET.isoformat(), None]


def test_tasks_at_the_same_time_keep_their_own_ids(begin: Begin) -> None:
    handler = begin()

    async def work(name: str) -> None:
        with about(decision_id=name):
            for _ in range(3):
                log.info("of %s", name)
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(work(name) for name in ("a", "b", "c")))

    asyncio.run(all_of_them())
    found = [(line["message"], line["decision_id"]) for line in lines_of(handler)]
    assert sorted(found) == sorted((f"of {name}", name) for name in "abc" for _ in range(3))
    assert [name for _, name in found[:3]] != ["a", "a", "a"]  # they did take turns


def test_errors_bring_their_traceback_in_the_same_line(begin: Begin) -> None:
    handler = begin()
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        log.exception("a step failed")
    (line,) = lines_of(handler)
    assert "ValueError: bad" in line["error"]
    assert "test_logs.py" in line["error"]


def test_files_are_private_turned_over_and_bounded_in_all(begin: Begin, tmp_path: Path) -> None:
    handler = begin(log_file_bytes=10_000, log_total_bytes=40_000)
    for number in range(400):
        log.info("line %04d %s", number, "x" * 100)
    found = lines_of(handler)
    files = list((tmp_path / "logs").iterdir())
    assert len(files) == 4
    assert all(path.stat().st_size <= 10_000 for path in files)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700
    numbers = [int(line["message"].split()[1]) for line in found]
    assert numbers == list(range(numbers[0], 400))  # the newest, without a hole
    assert (handler.written, handler.dropped) == (400, 0)


def test_files_of_processes_that_ended_go_and_those_of_living_ones_stay(
    begin: Begin, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(5):
        old = folder / f"trial-{number}.jsonl"
        old.write_text("{}\n" * 3000)
        os.utime(old, (number, number))
    program = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); "
    program += "print('held', flush=True); sys.stdin.read()"
    living = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "trial-0.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with living:
        assert living.stdout is not None
        assert living.stdout.readline() == "held\n"
        handler = begin(log_file_bytes=10_000, log_total_bytes=30_000)
        log.info("here")
        lines_of(handler)
        living.communicate("")
    names = {path.name for path in folder.iterdir()}
    assert names == {"trial-0.jsonl", "trial-4.jsonl", handler.path.name}


# secrets


SECRETS = [
    ("Authorization: Bearer abcDEF123456_-xyz", "abcDEF123456_-xyz"),
    ("token=0123456789abcdef rest", "0123456789abcdef"),
    ('{"password": "hunter2hunter2", "user": "ann"}', "hunter2hunter2"),
    ("smtp_password='p w d 1'", "p w d 1"),
    ("api-key: 77777", "77777"),
    ("https://ann:pa55word@example.org/x", "pa55word"),
    ("https://hooks.example.org/services/T0/B0/XYZ", "services/T0/B0/XYZ"),
    ("POST https://example.org/webhook/9f8e7d answers 500", "9f8e7d"),
    ("https://example.org/a?key=zzz9&x=1", "zzz9"),
    ("it was s3cr3t-of-the-environment again", "s3cr3t-of-the-environment"),
    ("it was whatever-was-told again", "whatever-was-told"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_taken_out_of_text(text: str, secret: str) -> None:
    redact = Redactor({"MY_TOKEN": "s3cr3t-of-the-environment", "HOME": "here and now"})
    redact.know("whatever-was-told\n")
    shown = redact(text)
    assert secret not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "text",
    [
        "decision 9f8e7d6c5b4a3f2e of account DU1234567",
        "order dpa-0123456789abcdef01234567: exec 0000e0d5.00000001.01.01",
        "http://127.0.0.1:8000/v1/decisions/latest: nobody answers",
        "--token-file=/srv/dpa/serving/token: cannot be read",
        "the fingerprint is 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "here and now",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor({"MY_TOKEN": "s3cr3t-of-the-environment", "HOME": "here and now"})(text) == text


def test_no_secret_reaches_the_file_by_message_argument_id_or_traceback(
    begin: Begin, tmp_path: Path
) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "token").write_text("kept-in-the-storage\n")
    handler = begin(secrets=("https://hooks.example.org/T0/SECRETPATH", "told-at-the-start"))
    try:
        raise RuntimeError("refused: Bearer abcdef-123456")
    except RuntimeError:
        with about(account="told-at-the-start"):
            log.exception("with %s and %s", "kept-in-the-storage", "password=opensesame")
    lines_of(handler)
    text = handler.path.read_text()
    for secret in ("kept-in-the-storage", "SECRETPATH", "told-at-the-start", "abcdef-123456",
                   "opensesame"):  # fmt: skip
        assert secret not in text
    assert text.count(REDACTED) >= 4


# never in the way


def test_a_full_disk_loses_lines_counts_them_and_says_so_later(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = begin()
    log.info("before")
    assert handler.wait()
    real, full = os.write, [True]

    def write(descriptor: int, data: bytes) -> int:
        if full[0] and descriptor == handler._descriptor:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(logs.os, "write", write)
    for _ in range(7):
        log.error("lost")  # does not raise
    assert handler.wait()
    assert handler.dropped == 7
    full[0] = False
    log.info("after")
    messages = [line["message"] for line in lines_of(handler)]
    assert messages == ["before", "7 lines of the log were dropped", "after"]


def test_half_a_line_is_taken_back(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = begin()
    log.info("before")
    assert handler.wait()
    real, short = os.write, [True]

    def write(descriptor: int, data: bytes) -> int:
        if short[0] and descriptor == handler._descriptor:
            short[0] = False
            return real(descriptor, data[:10])
        return real(descriptor, data)

    monkeypatch.setattr(logs.os, "write", write)
    log.info("cut")
    log.info("after")
    messages = [line["message"] for line in lines_of(handler)]  # every line is JSON
    assert messages == ["before", "1 lines of the log were dropped", "after"]


def test_a_folder_that_cannot_be_made_costs_lines_only(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    handler = log_to_files(LoggingConfig(), tmp_path, "trader")
    assert handler is not None
    try:
        log.warning("nowhere to go")
        assert handler.wait()
        assert handler.dropped == 1
    finally:
        stop_logging(handler)


def test_whoever_logs_does_not_wait_for_a_disk_that_hangs(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "WAITING", 50)
    handler, goes_on = begin(), threading.Event()
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if threading.current_thread().name == "log":
            assert goes_on.wait(60)
        return real(descriptor, data)

    monkeypatch.setattr(logs.os, "write", write)
    for number in range(200):  # all of them come back while nothing can be written
        log.info("line %d", number)
    dropped = handler.dropped
    assert dropped >= 100  # 50 wait, and no more than 50 were on their way to the disk
    goes_on.set()
    messages = [line["message"] for line in lines_of(handler)]
    assert messages.count(f"{dropped} lines of the log were dropped") == 1
    kept = [int(message.split()[1]) for message in messages if message.startswith("line")]
    assert len(kept) == 200 - dropped
    assert kept == sorted(kept)


def test_a_message_that_cannot_be_made_is_a_lost_line(begin: Begin) -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no words")

    handler = begin()
    handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "this %s", (Bad(),), None))
    log.info("next")
    assert [line["message"] for line in lines_of(handler)][-1] == "next"
    assert handler.dropped == 1


# beside what is printed


PRINTING = """
import logging, sys
from pathlib import Path
from dpa.config import LoggingConfig
from dpa.telemetry.logs import log_to_files
if sys.argv[2] == "files":
    log_to_files(LoggingConfig(), Path(sys.argv[1]), "program")
log = logging.getLogger("dpa.somewhere")
log.info("quiet")
log.warning("shown")
"""


@pytest.mark.parametrize("files", ["files", "none"])
def test_what_is_printed_stays_as_it_is(tmp_path: Path, files: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTING, str(tmp_path), files],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "shown\n")
    written = list(tmp_path.glob("logs/program-*.jsonl"))
    assert len(written) == (files == "files")
    for path in written:  # also what was logged a moment before the end
        messages = [json.loads(line)["message"] for line in path.read_text().splitlines()]
        assert messages == ["quiet", "shown"]


def test_the_level_the_folder_and_no_files_at_all_are_settings(tmp_path: Path) -> None:
    assert log_to_files(LoggingConfig(log_files=False), tmp_path, "trader") is None
    elsewhere = LoggingConfig(log_directory=str(tmp_path / "elsewhere"), log_level="error")
    handler = log_to_files(elsewhere, tmp_path, "trader")
    assert handler is not None
    assert log_to_files(elsewhere, tmp_path, "again") is handler
    try:
        log.warning("too little")
        log.error("enough")
        assert [line["message"] for line in lines_of(handler)] == ["enough"]
        assert handler.folder == tmp_path / "elsewhere"
    finally:
        stop_logging(handler)


def test_a_process_has_one_file_also_when_it_goes_on_elsewhere(tmp_path: Path) -> None:
    first = log_to_files(LoggingConfig(), tmp_path / "first", "grid")
    second = log_to_files(LoggingConfig(), tmp_path / "second", "grid")
    assert first is not None
    assert second is not None
    try:
        log.info("of the second")
        assert [line["message"] for line in lines_of(second)] == ["of the second"]
        assert not first.folder.exists()
        assert sum(isinstance(h, LogFile) for h in logging.getLogger("dpa").handlers) == 1
    finally:
        stop_logging(second)
