"""What leaves the server: bounded, without secrets, and errors as one line with a cure."""

import functools
import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

from mcp.server.mcpserver.exceptions import ToolError

from dpa.errors import DpaError
from dpa.telemetry.redaction import REDACTED, Redactor, is_secret_name

MOST_ROWS = 100  # of one answer; more are asked for with an offset
LONGEST_TEXT = 20_000  # characters
LONGEST_CELL = 500
MOST_CHARACTERS = 60_000  # of one answer as JSON
SECRET_SETTINGS = frozenset({"alert_webhook"})
Answer = dict[str, Any]
P = ParamSpec("P")


def told(redact: Redactor) -> Callable[[Callable[P, Answer]], Callable[P, Answer]]:
    """Make a function a tool's: its answer redacted and bounded, its errors those of a tool."""

    def wrap(work: Callable[P, Answer]) -> Callable[P, Answer]:
        @functools.wraps(work)
        def tool(*given: P.args, **named: P.kwargs) -> Answer:
            try:
                return bounded(cleaned(work(*given, **named), redact))
            except DpaError as e:
                raise ToolError(redact(" ".join(str(e).split()))) from None
            except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as e:
                words = " ".join(f"{type(e).__name__}: {e}".split())[:LONGEST_CELL]
                cure = "look at the files of the storage, or ask for something else"
                said = redact(f"{work.__name__}: cannot be read ({words}); {cure}")
                raise ToolError(said) from None

        return tool

    return wrap


def cleaned(value: Any, redact: Redactor, name: str = "") -> Any:
    """`value` for JSON: secrets taken out, NaN as none, long texts cut with a note."""
    if isinstance(value, Mapping):
        return {str(key): cleaned(part, redact, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(part, redact, name) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        if value and (name in SECRET_SETTINGS or is_secret_name(name)):
            return REDACTED
        return cut(redact(value), LONGEST_TEXT if name == "text" else LONGEST_CELL)
    plain = value is None or isinstance(value, int)
    return value if plain else cut(str(value), LONGEST_CELL)


def cut(text: str, most: int) -> str:
    """`text`, its end replaced by a note of how much is left out."""
    left = len(text) - most
    return text if left <= 0 else f"{text[:most]} ... ({left} characters left out)"


def page(rows: Sequence[Any], offset: int, limit: int) -> Answer:
    """Some of many rows, and where the next ones begin."""
    first = max(offset, 0)
    shown = list(rows[first : first + min(max(limit, 1), MOST_ROWS)])
    following = first + len(shown)
    answer: Answer = {"rows": shown, "total": len(rows), "offset": first}
    if following < len(rows):
        answer["next_offset"] = following
        answer["left_out"] = f"{len(rows) - following} more rows: ask again with this next_offset"
    return answer


def bounded(answer: Answer) -> Answer:
    """An answer of at most 60,000 characters: rows at the end are left out, with a note."""
    size = len(json.dumps(answer, default=str))
    if size <= MOST_CHARACTERS:
        return answer
    rows = answer.get("rows")
    if isinstance(rows, list) and rows:
        fits = max(int(len(rows) * MOST_CHARACTERS / size * 0.9), 0)
        left = int(answer.get("total", len(rows))) - int(answer.get("offset", 0)) - fits
        words = f"{left} more rows: the answer would be too long; ask with a smaller limit"
        return {
            **answer,
            "rows": rows[:fits],
            "next_offset": int(answer.get("offset", 0)) + fits,
            "left_out": words,
        }
    text = cut(json.dumps(answer, default=str), LONGEST_TEXT)
    return {"text": text, "left_out": f"the answer has {size} characters; ask for a part of it"}
