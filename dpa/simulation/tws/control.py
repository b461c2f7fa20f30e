"""The control channel, and who moves the venue's time.

JSON, an object a line, over TCP on loopback; the first line is ``{"token": …}``. A client that
says ``{"op": "attend"}`` is told every moment, ``{"op": "time", "now": ISO, "ended": false}``,
after all of it was written to the API sockets, and time stands still until it answers
``{"op": "done", "next": ISO or null}``: `next` is when it wants to be told at the latest. Every
other op is answered by one line, ``{"ok": true, …}`` or ``{"ok": false, "error": …}``:

====== ===================================================== =====================================
op     fields                                                answer
====== ===================================================== =====================================
state                                                        `state`: orders, fills, books, faults
quote  symbol; bid, ask, bid_size, ask_size, last to set one `quote`
fault  fault: as in a script                                 `begun`: how often, by kind
halt   symbol, on                                            `quote`
step   count, or until: ISO; only where nobody attends       `now`, `ended`
stop                                                         the venue stops
====== ===================================================== =====================================
"""

import asyncio
import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from dpa.errors import ConfigError, DpaError
from dpa.simulation.tws.script import read_fault
from dpa.simulation.tws.venue import SimVenue

MOST_BYTES = 2**16  # of a line
QUIET_SECONDS = 1800.0  # of venue's time without an event are jumped over when it runs by a clock
PAUSE_SECONDS = 1.0  # instead, by the wall clock
_QUOTE_FIELDS = ("bid", "ask", "last", "bid_size", "ask_size")

Sleep = Callable[[float], Awaitable[None]]
Answer = dict[str, Any]


class ControlError(DpaError):
    """A line on the control channel that cannot be done."""


@dataclass(eq=False)
class Attendant:
    """Somebody without whom time does not go on."""

    writer: asyncio.StreamWriter
    waiting: bool = False  # for its "done"
    told: datetime | None = field(default=None)


class Control:
    """Serves the control channel and moves the venue.

    Parameters
    ----------
    venue : SimVenue
    token : str
        What clients must know.
    settled : callable, optional
        Waits until all that was said has been handed to the API sockets.
    stepped : bool
        Time stands still where nobody attends or steps. Otherwise it runs with the venue's
        clock, but for the nights.
    host, port
        Where it listens; port 0: any that is free.
    sleep : callable
        Waits for wall seconds.
    """

    def __init__(
        self,
        venue: SimVenue,
        token: str,
        settled: Callable[[], Awaitable[None]] | None = None,
        stepped: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.venue, self.stepped = venue, stepped
        self._token, self._settled, self._sleep = token, settled, sleep
        self._host, self._port = host, port
        self._attendants: list[Attendant] = []
        self._connections: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._server is None:
            return self._port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        ConfigError
            When the port is taken.
        """
        try:
            self._server = await asyncio.start_server(
                self._connected, self._host, self._port, limit=MOST_BYTES
            )
        except OSError as e:
            raise ConfigError(
                f"the control channel cannot listen on {self._host}:{self._port}: {e.strerror}",
                "choose another port",
            ) from e

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        self.stop()
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._connections):
                writer.close()
            await self._server.wait_closed()

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Move the venue until somebody says stop; its end is an end of time, not of this."""
        while not self._stopping:
            if self._attendants:
                await self._round()
            elif self.stepped or self.venue.ended:
                await self._something()
            else:
                await self._pace()

    async def _something(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _round(self) -> None:
        """Tell the moment to all who attend, wait for them, and go on to the next."""
        await self._settle()
        now, ended = self.venue.clock.now(), self.venue.ended
        for attendant in self._attendants:
            attendant.waiting, attendant.told = True, now
            _tell(attendant.writer, {"op": "time", "now": now.isoformat(), "ended": ended})
        while any(attendant.waiting for attendant in self._attendants) and not self._stopping:
            await self._something()
            for late in [each for each in self._attendants if each.told is None]:
                late.waiting, late.told = True, now
                _tell(late.writer, {"op": "time", "now": now.isoformat(), "ended": ended})
        if self._stopping or not self._attendants:
            return
        if not self.venue.advance():
            while self.venue.ended and not self._stopping and self._all_told():
                await self._something()

    def _all_told(self) -> bool:
        """Whether somebody attends, and nobody who has not been told anything yet."""
        told = [attendant.told is not None for attendant in self._attendants]
        return bool(told) and all(told)

    async def _settle(self) -> None:
        if self._settled is not None:
            await self._settled()

    async def _pace(self) -> None:
        """Wait for the next moment by the wall clock, or for a client of this channel."""
        venue = self.venue
        moment = venue.agenda.next_moment
        assert moment is not None
        away = (moment - venue.clock.now()).total_seconds()
        wait = away / venue.speed if venue.speed else 0.0
        if away > QUIET_SECONDS:
            wait = min(wait, PAUSE_SECONDS)
        if wait > 0:
            slept = asyncio.ensure_future(self._sleep(wait))
            called = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({slept, called}, return_when=asyncio.FIRST_COMPLETED)
            for each in (slept, called):
                each.cancel()
            await asyncio.gather(slept, called, return_exceptions=True)
            if self._changed.is_set():
                self._changed.clear()
                return
        venue.advance()
        await self._settle()
        await self._sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        attendant = Attendant(writer)
        try:
            if await self._greeted(reader, writer):
                while line := await reader.readline():
                    self._heard(attendant, line)
                    await writer.drain()
        except (ConnectionError, ValueError):
            pass  # gone, or a line without an end
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._connections.discard(writer)
            self._leave(attendant)
            writer.close()

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            token = str(_object(await reader.readline()).get("token", ""))
        except ControlError:
            token = ""
        if hmac.compare_digest(token.encode(), self._token.encode()):
            return True
        _tell(writer, {"ok": False, "error": 'the first line must be {"token": …} of the file'})
        await writer.drain()
        return False

    def _heard(self, attendant: Attendant, line: bytes) -> None:
        try:
            said = _object(line)
            op = said.pop("op", None)
            if op == "attend":
                self._attend(attendant)
            elif op == "done":
                self._done(attendant, said)
            else:
                _tell(attendant.writer, {"ok": True} | self._answer(op, said))
        except DpaError as e:
            _tell(attendant.writer, {"ok": False, "error": str(e)})

    def _attend(self, attendant: Attendant) -> None:
        if attendant not in self._attendants:
            self._attendants.append(attendant)
            self._changed.set()

    def _leave(self, attendant: Attendant) -> None:
        if attendant in self._attendants:
            self._attendants.remove(attendant)
            self._changed.set()

    def _done(self, attendant: Attendant, said: Mapping[str, Any]) -> None:
        _only(said, "next")
        if not attendant.waiting:
            raise ControlError("done without a moment that was told", "attend first")
        if said.get("next") is not None:
            self.venue.wake_at(_moment(said["next"], "next"))
        attendant.waiting = False
        self._changed.set()

    def _answer(self, op: object, said: dict[str, Any]) -> Answer:
        answers: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "state": self._state,
            "quote": self._quote,
            "fault": self._fault,
            "halt": self._halt,
            "step": self._step,
            "stop": self._stop,
        }
        if not isinstance(op, str) or op not in answers:
            raise ControlError(f"op: {op!r} is not known", f"use {', '.join(answers)}, attend")
        return answers[op](said)

    def _state(self, said: dict[str, Any]) -> Answer:
        _only(said)
        venue = self.venue
        about = {
            "ended": venue.ended,
            "events": venue.events,
            "clients": sorted(listener.client_id for listener in venue.outlet.everyone),
            "faults": dict(venue.faults.begun),
        }
        return {"state": venue.truth() | about}

    def _quote(self, said: dict[str, Any]) -> Answer:
        _only(said, "symbol", *_QUOTE_FIELDS)
        place = self._place(said)
        given = {name: _number(said, name) for name in _QUOTE_FIELDS if name in said}
        if given:
            quote = replace(self.venue.tape.quote(place), **_whole_sizes(given))
            self.venue.tape.set_quote(place, self.venue.clock.now(), quote)
            self.venue.changed(place)
        return self._shown(place)

    def _halt(self, said: dict[str, Any]) -> Answer:
        _only(said, "symbol", "on")
        place = self._place(said)
        halted = self.venue.tape.halted
        (halted.add if said.get("on", True) else halted.discard)(place)
        self.venue.changed(place)
        return self._shown(place)

    def _place(self, said: Mapping[str, Any]) -> int:
        return self.venue.place_of(str(said.get("symbol", "")))

    def _shown(self, place: int) -> Answer:
        quote = self.venue.tape.quote(place)
        shown = {name: getattr(quote, name) for name in (*_QUOTE_FIELDS, "halted", "volume")}
        told = {k: str(v) if isinstance(v, Decimal) else v for k, v in shown.items()}
        return {"quote": told | {"time": quote.time.isoformat()}}

    def _fault(self, said: dict[str, Any]) -> Answer:
        _only(said, "fault")
        entry = said.get("fault")
        if not isinstance(entry, dict):
            raise ControlError("fault: is missing", 'give {"op": "fault", "fault": {"do": …}}')
        self.venue.faults.add(read_fault(entry))
        return {"begun": dict(self.venue.faults.begun)}

    def _step(self, said: dict[str, Any]) -> Answer:
        _only(said, "count", "until")
        if self._attendants:
            raise ControlError("step: somebody attends, and time waits for him", "let him go")
        venue = self.venue
        if "until" in said:
            until = _moment(said["until"], "until")
            while (moment := venue.agenda.next_moment) and moment <= until and venue.advance():
                pass
        else:
            count = said.get("count", 1)
            if not isinstance(count, int) or count < 1:
                raise ControlError(f"count: {count!r} is not a number above 0", "give one")
            for _ in range(count):
                if not venue.advance():
                    break
        return {"now": venue.clock.now().isoformat(), "ended": venue.ended}

    def _stop(self, said: dict[str, Any]) -> Answer:
        _only(said)
        self.stop()
        return {}


def _tell(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


def _object(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError as e:
        raise ControlError(f"not JSON: {line[:80]!r}", "write an object a line") from e
    if not isinstance(said, dict):
        raise ControlError(f"not an object: {line[:80]!r}", "write an object a line")
    return said


def _only(said: Mapping[str, Any], *allowed: str) -> None:
    for name in said:
        if name not in allowed:
            fields = ", ".join(allowed) or "no fields"
            raise ControlError(f"{name}: is not known here", f"it has {fields}")


def _moment(value: object, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as e:
        raise ControlError(f"{name}: {value!r} is not a moment", "write ISO 8601") from e
    if moment.tzinfo is None:
        raise ControlError(f"{name}: {value!r} has no time zone", "write UTC with +00:00")
    return moment.astimezone(UTC)


def _number(said: Mapping[str, Any], name: str) -> Decimal | None:
    value = said[name]
    if value is None:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation as e:
        raise ControlError(f"{name}: {value!r} is not a number", "give one, or null") from e
    if not number.is_finite() or number < 0:
        raise ControlError(f"{name}: {value!r} cannot be", "give 0 or more")
    return number


def _whole_sizes(given: Mapping[str, Decimal | None]) -> dict[str, Any]:
    sizes = ("bid_size", "ask_size")
    return {name: int(v or 0) if name in sizes else v for name, v in given.items()}


def write_token(path: Path) -> str:
    """A new token, also in a file that nobody else can read.

    Raises
    ------
    ConfigError
        When the file cannot be written.
    """
    token = secrets.token_hex(32)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(token + "\n")
        os.replace(beside, path)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror})", "choose another file") from e
    return token
