"""Ray's token: what lets a program start work on a cluster."""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from dpa.errors import ConfigError

Done = Literal["made", "mended", "kept", "environment"]
_BYTES: Final = 32
_TOKEN: Final = re.compile(r"[!-~]{16,512}")
_ANEW: Final = "delete it, and the next start makes a new one"


def token_path(environ: Mapping[str, str] | None = None) -> Path:
    """The file that Ray reads its token from."""
    given = (os.environ if environ is None else environ).get("RAY_AUTH_TOKEN_PATH")
    return Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"


def ensure_token(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Done:
    """Make the token where there is none, and let nobody but its owner read it.

    Ray writes the file readable by everybody; a file that is there before Ray starts is kept.

    Parameters
    ----------
    path : Path, optional
        Ray's own place when absent.
    environ : mapping, optional
        A token in ``RAY_AUTH_TOKEN`` wins, and nothing is written; the process environment when
        absent.

    Returns
    -------
    str
        ``made``, ``mended`` (others could read it until now), ``kept``, or ``environment``.

    Raises
    ------
    ConfigError
        When the file cannot be read or made, is another user's, or holds no token.
    """
    if (os.environ if environ is None else environ).get("RAY_AUTH_TOKEN"):
        return "environment"
    path = path or token_path(environ)
    try:
        made = not path.exists() and _make(path)
        return "made" if made else _mend(path)
    except OSError as e:
        raise ConfigError(
            f"{path}: the token cannot be read or made ({e.strerror})",
            "check the path and permissions, or set RAY_AUTH_TOKEN_PATH",
        ) from e


def read_token(environ: Mapping[str, str] | None = None) -> str:
    """The token as Ray would find it.

    Raises
    ------
    ConfigError
        When this machine has none.
    """
    given = (os.environ if environ is None else environ).get("RAY_AUTH_TOKEN")
    path = token_path(environ)
    try:
        return given or path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"{path}: there is no token on this machine",
            "'dpa cluster up' makes one; or copy the file of the machine that started the cluster",
        ) from e


def _make(path: Path) -> bool:
    """Write a token beside `path` and give it that name; whether there was none by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
            return True
        return False
    finally:
        draft.unlink()


def _mend(path: Path) -> Done:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: is not a file", _ANEW)
        if not _TOKEN.fullmatch(file.read(4096).decode("ascii", "replace").strip()):
            raise ConfigError(f"{path}: holds no token", _ANEW)
        if not status.st_mode & 0o077:
            return "kept"
        if status.st_uid != os.geteuid():  # an administrator's, for a group: not ours to change
            return "kept"
        os.fchmod(descriptor, 0o600)
    return "mended"
