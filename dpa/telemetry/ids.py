"""What a piece of work is about: ids that every line of the log carries while it is done."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Final

from dpa.clock import Clock, SystemClock

NAMES: Final = (
    "run_id",
    "trial",
    "account",
    "bar",
    "decision_id",
    "intent_id",
    "order_id",
    "exec_id",
    "symbol",
)
_IDS: ContextVar[Mapping[str, str]] = ContextVar("ids", default={})  # noqa: B039  never changed
_CLOCK: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def about(clock: Clock | None = None, **ids: object) -> Iterator[None]:
    """Within the block, lines of the log carry `ids` beside those of the blocks around it.

    Parameters
    ----------
    clock : Clock, optional
        The one the work goes by, where that is not the machine's: its moment is in each line.
    **ids
        Any of :data:`NAMES`; None and empty ones are left out, moments become ISO 8601.

    Notes
    -----
    Kept in context variables: tasks begun within the block have them too, other threads and
    processes do not.
    """
    known = {name: text_of(value) for name, value in ids.items() if value not in (None, "")}
    token = _IDS.set({**_IDS.get(), **known})
    before = None if clock is None else _CLOCK.set(clock)
    try:
        yield
    finally:
        _IDS.reset(token)
        if before is not None:
            _CLOCK.reset(before)


def ids_now() -> Mapping[str, str]:
    """The ids in force."""
    return _IDS.get()


def moment_now() -> str | None:
    """The moment by the clock of the work; none where it goes by the machine's."""
    clock = _CLOCK.get()
    if clock is None or isinstance(clock, SystemClock):
        return None
    return text_of(clock.now())


def text_of(value: object) -> str:
    """A value as a line of the log has it; moments in ISO 8601."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
