"""Taking secrets out of text before it is written anywhere."""

import os
import re
from collections.abc import Mapping
from typing import Final

REDACTED: Final = "[redacted]"
LEAST: Final = 8  # characters of a value that is taken out wherever it occurs
_WORDS = r"token|password|passwd|secret|api[_-]?key|authorization|credential|private[_-]?key"
_SECRET_NAME = re.compile(_WORDS, re.IGNORECASE)
_LAST = r"[\"']?"
_SUSPECT = re.compile(rf"{_WORDS}|bearer|basic|://", re.IGNORECASE)  # looked for first: cheap
_NAMED = re.compile(
    rf"(?P<name>[\w-]*(?:{_WORDS})[\w-]*{_LAST}\s*[=:]\s*)(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;&}})\]]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9_.~+/=-]{6,}", re.IGNORECASE)
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_ADDRESS = re.compile(r"(https?://[^\s/\"'<>?]+)([^\s\"'<>]*)", re.IGNORECASE)
_PLACES = ("_file", "_path", "-file", "-path")  # tell where a secret is, not what it is


class Redactor:
    """Takes secrets out of text.

    What goes: the values known to be secret, wherever they occur; what follows a name such as
    ``token=`` or ``"password": ``; what follows ``Bearer``; users and passwords in addresses;
    queries of web addresses; and everything but the host of a web hook's address.

    Parameters
    ----------
    environ : mapping
        The values of its variables with such a name are known.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._known: list[str] = []
        for name, value in (os.environ if environ is None else environ).items():
            if is_secret_name(name):
                self.know(value)

    def know(self, *values: str | None) -> None:
        """Take these values out from now on; those shorter than 8 characters are no secrets."""
        found = (value.strip() for value in values if value)
        known = {*self._known, *(value for value in found if len(value) >= LEAST)}
        self._known = sorted(
            known, key=len, reverse=True
        )  # the longest first: one may hold another

    def __call__(self, text: str) -> str:
        for value in self._known:
            if value in text:
                text = text.replace(value, REDACTED)
        if not _SUSPECT.search(text):
            return text
        text = _ADDRESS.sub(_address, _USER.sub(rf"\1{REDACTED}@", text))
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
        return _NAMED.sub(_named, text)


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret."""
    lower = name.lower()
    return _SECRET_NAME.search(lower) is not None and not lower.endswith(_PLACES)


def _named(found: re.Match[str]) -> str:
    name = found["name"].rstrip(" =:\"'")
    value = found["value"].strip("\"'")
    if not is_secret_name(name) or value in ("", "none", "null", "None", REDACTED, "Bearer"):
        return found[0]
    quote = found["value"][0] if found["value"][0] in "\"'" else ""
    return f"{found['name']}{quote}{REDACTED}{quote}"


def _address(found: re.Match[str]) -> str:
    host, rest = found[1], found[2]
    path, mark, _ = rest.partition("?")
    if "hook" in (host + path).lower():
        return f"{host}/{REDACTED}" if path.strip("/") or mark else host
    return f"{host}{path}?{REDACTED}" if mark else f"{host}{path}"
