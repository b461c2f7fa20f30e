"""The secret that lets a client change state."""

import contextlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dpa.errors import ConfigError, RunError
from dpa.serving.store import private_folder

VARIABLE: Final = "DPA_SERVE_TOKEN"
_BYTES: Final = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9_.~+/=\-]{16,512}")


def read_or_make_token(path: Path, environ: Mapping[str, str] | None = None) -> str:
    """The token of this installation; made on first use.

    Parameters
    ----------
    path : Path
        File of mode 0600 that holds it, 32 random bytes in URL-safe base64. It appears whole or
        not at all: of several processes that make it at once, one wins and all read the same.
    environ : mapping, optional
        Where ``DPA_SERVE_TOKEN`` wins over the file; the process environment when absent.

    Raises
    ------
    ConfigError
        When the variable is too short or holds characters no header carries.
    RunError
        When the file is another's, can be read by others, or holds no token. It is not mended: a
        token others could read is no secret any more.
    """
    given = (os.environ if environ is None else environ).get(VARIABLE)
    if given is not None:
        if not _TOKEN.fullmatch(given):
            raise ConfigError(
                f"environment: {VARIABLE} is no token of 16 to 512 letters, digits and _.~+/=-",
                "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
        return given
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as e:
        raise RunError(
            f"{path}: the token cannot be read or made ({e.strerror})",
            f"check the path and permissions, or set {VARIABLE}",
        ) from e


def _make(path: Path) -> None:
    """Write a new token beside `path` and give it that name, unless there is one by now."""
    private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        anew = f"delete it, and a new one is made; or set {VARIABLE}"
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise RunError(f"{path}: is not a file of this user", anew)
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise RunError(f"{path}: others may read or change it (mode {mode:04o})", anew)
        content = file.read(4096).decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(content):
        raise RunError(f"{path}: holds no token", anew)
    return content


def authorised(header: str | None, token: str) -> bool:
    """Whether an Authorization header is ``Bearer TOKEN``; takes as long for any wrong one."""
    scheme, _, given = (header or "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    return right and scheme.lower() == "bearer"
