"""Structured logs: one JSON object a line, with the ids of the work, in files that stay bounded.

Whoever logs never waits and never fails: a line goes into a queue, a thread writes it, and what
cannot be written is counted and left out. The journal, not the log, is the truth of trading.
"""

import atexit
import contextlib
import fcntl
import logging
import os
import re
import socket
import threading
import traceback
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from dpa.clock import Clock, SystemClock
from dpa.config import LoggingConfig
from dpa.telemetry.ids import NAMES, ids_now, moment_now, text_of
from dpa.telemetry.redaction import Redactor

FOLDER: Final = "logs"
ENDING: Final = ".jsonl"
WAITING: Final = 10_000  # lines that wait to be written; what comes then is dropped
PAUSE_SECONDS: Final = 0.05  # between a line and its writing, so that a burst is not disturbed
CLOSE_SECONDS: Final = 2.0  # for what waits, when the process ends
MOST_FILES: Final = 1000  # in a folder, however small
LONGEST: Final = 16_384  # characters of a message or a traceback
ROOT: Final = "dpa"


@dataclass(frozen=True)
class _Line:
    """A record as it was when it was logged; it is made JSON where it is written."""

    record: logging.LogRecord
    message: str
    time: str
    at: str | None
    ids: dict[str, str]


class LogFile(logging.Handler):
    """A file of this process alone, turned over by size.

    Parameters
    ----------
    folder : Path
        Made with mode 0700; the file has mode 0600 and is called ``<process>-<pid>.jsonl``.
    process : str
        What this process is, such as ``trader``.
    config : LoggingConfig
    clock : Clock
        Dates the lines.
    redact : Redactor

    Notes
    -----
    Files turned over get a number. Of all that lie in the folder the oldest go when they have more
    than ``log_total_bytes``, but for those that a process is still writing.
    """

    def __init__(
        self, folder: Path, process: str, config: LoggingConfig, clock: Clock, redact: Redactor
    ) -> None:
        super().__init__()
        self.folder, self.process, self.redact = folder, process, redact
        self.path = folder / f"{process}-{os.getpid()}{ENDING}"
        self._most_bytes, self._in_all = config.log_file_bytes, config.log_total_bytes
        self._clock, self._node = clock, socket.gethostname()
        self._waiting: deque[_Line] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._writing = self._hurry = self._ends = False
        self._descriptor = -1
        self._size = self._untold = 0
        self.written = 0
        self.dropped = 0

    # what whoever logs waits for

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; returns at once."""
        try:
            given = {name: value for name in NAMES if (value := getattr(record, name, None))}
            ids = {**ids_now(), **{name: text_of(value) for name, value in given.items()}}
            at = getattr(record, "at", None)
            moment = moment_now() if at is None else text_of(at)
            now = self._clock.now().isoformat(timespec="microseconds")
            line = _Line(record, record.getMessage(), now, moment, ids)
        except Exception:  # a message that cannot be made is a lost line, never a lost order
            self._drop()
            return
        with self._changed:
            if len(self._waiting) >= WAITING:
                self._drop()
                return
            self._waiting.append(line)
            if len(self._waiting) == 1:
                self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="log", daemon=True)
                self._thread.start()

    def _drop(self) -> None:
        with self._changed:
            self.dropped += 1
            self._untold += 1

    # the thread that writes

    def _work(self) -> None:
        while lines := self._taken():
            for line in lines:
                try:
                    self._write(line)
                except Exception:  # the disk, or a line that is no JSON: counted, and it goes on
                    self._drop()
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _taken(self) -> list[_Line]:
        """What there is to write, a moment after the first came: a burst is not disturbed.

        Empty when the file is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            self._changed.wait_for(lambda: self._hurry or self._ends, PAUSE_SECONDS)
            lines = list(self._waiting)
            self._waiting.clear()
            self._writing = bool(lines)
            return lines

    def _write(self, line: _Line) -> None:
        if self._untold:
            lost = self._untold
            self._append(self._dressed(f"{lost} lines of the log were dropped", line.time, lost))
            with self._changed:
                self._untold -= lost
        self._append(self._content(line))
        self.written += 1

    def _append(self, content: dict[str, Any]) -> None:
        data = orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE)
        if self._descriptor < 0 or self._size + len(data) > self._most_bytes:
            self._turn_over()
        done = os.write(self._descriptor, data)
        self._size += done
        if done < len(data):  # a full disk: half a line helps nobody
            os.ftruncate(self._descriptor, max(self._size - done, 0))
            self._size -= done
            raise OSError("the disk is full")

    def _content(self, line: _Line) -> dict[str, Any]:
        record = line.record
        content: dict[str, Any] = {"time": line.time}
        if line.at is not None and line.at != line.time:
            content["at"] = line.at
        content |= {
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.redact(line.message[:LONGEST]),
            **{name: self.redact(value) for name, value in line.ids.items()},
            "node": self._node,
            "process": self.process,
            "pid": record.process,
        }
        if record.exc_info and record.exc_info[1] is not None:
            words = "".join(traceback.format_exception(record.exc_info[1]))
            content["error"] = self.redact(words[-LONGEST:])
        return content

    def _dressed(self, message: str, time: str, dropped: int) -> dict[str, Any]:
        about = {"time": time, "level": "warning", "logger": "dpa.telemetry", "message": message}
        return {**about, "dropped": dropped, "node": self._node, "process": self.process}

    def _turn_over(self) -> None:
        """Begin a new file, the one there was put aside, and drop the oldest of all."""
        self._shut()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.path.exists() and self.path.stat().st_size:
            self.path.rename(_aside(self.path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        os.fchmod(self._descriptor, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        with contextlib.suppress(OSError):  # a file system without locks: then the age alone tells
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _drop_oldest(self.folder, self._in_all - self._most_bytes)

    def _shut(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # its end

    def wait(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait until all that was logged is written or dropped; whether it is."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not (self._waiting or self._writing), seconds)
            self._hurry = False
            return done

    def close(self) -> None:
        """Write what waits, within two seconds, and let the file go."""
        self.wait()
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            if not self._thread.is_alive():
                self._shut()
        super().close()


def _aside(path: Path) -> Path:
    stem = path.name.removesuffix(ENDING)
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+){re.escape(ENDING)}")
    numbers = [int(m[1]) for p in path.parent.iterdir() if (m := pattern.fullmatch(p.name))]
    return path.with_name(f"{stem}.{max(numbers, default=0) + 1:06d}{ENDING}")


def _drop_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the oldest files of the log until no more than `most_bytes`, and 1000 files, are
    left; none that is being written."""
    found = []
    for path in folder.glob(f"*{ENDING}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, path, status.st_size))
    left, files = sum(size for _, _, size in found), len(found)
    for _, path, size in sorted(found):
        if left <= most_bytes and files <= MOST_FILES:
            return
        with contextlib.suppress(OSError):
            if not _is_written(path):
                path.unlink()
                left, files = left - size, files - 1


def _is_written(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class _LastResort(logging.Handler):
    """What Python prints where nobody else listens: a handler of files alone would silence it."""

    def emit(self, record: logging.LogRecord) -> None:
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and not logging.root.handlers:
            last.handle(record)


_installed: list[LogFile] = []  # at most one


def log_to_files(
    config: LoggingConfig,
    storage: Path,
    process: str,
    *,
    secrets: tuple[str | None, ...] = (),
    clock: Clock | None = None,
) -> LogFile | None:
    """Write what dpa logs in this process to ``<storage>/logs``, beside what is printed.

    Parameters
    ----------
    config : LoggingConfig
    storage : Path
    process : str
        What this process is, such as ``trader``: the beginning of the file's name.
    secrets : tuple of str
        Values to be taken out of every line, beside those of the environment.
    clock : Clock, optional
        The machine's, where none is given.

    Returns
    -------
    LogFile or None
        What writes; None where ``log_files`` is off. The same again for the same folder; another
        folder takes the place of the one before: a process has one file.
    """
    if not config.log_files:
        return None
    folder = Path(config.log_directory) if config.log_directory else storage / FOLDER
    folder = folder.absolute()
    handler = _installed[0] if _installed else None
    if handler is not None and handler.folder != folder:
        stop_logging(handler)
        handler = None
    if handler is None:
        handler = LogFile(folder, process, config, clock or SystemClock(), Redactor())
        handler.setLevel(config.log_level.upper())
        ours = logging.getLogger(ROOT)
        alone = not ours.handlers
        ours.handlers = [*ours.handlers, handler, *([_LastResort()] if alone else [])]
        ours.setLevel(min(handler.level, ours.level or handler.level))
        _installed.append(handler)
        atexit.register(handler.close)
    handler.redact.know(*secrets, _kept_token(storage))
    return handler


def stop_logging(handler: LogFile | None) -> None:
    """Undo :func:`log_to_files`: for tests, and whoever begins another storage."""
    if handler is None:
        return
    ours = logging.getLogger(ROOT)
    ours.handlers = [h for h in ours.handlers if h is not handler]
    if not any(isinstance(h, LogFile) for h in ours.handlers):
        ours.handlers = [h for h in ours.handlers if not isinstance(h, _LastResort)]
        ours.setLevel(logging.NOTSET)
    if handler in _installed:
        _installed.remove(handler)
    atexit.unregister(handler.close)
    handler.close()


def _kept_token(storage: Path) -> str | None:
    try:
        return (storage / "serving" / "token").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
