"""Requests and answers as bytes: JSON, and Arrow IPC streams for large universes.

Both are checked by the same rules, those of the fields of :class:`SymbolBody` and
:class:`SnapshotBody`, and refused in the same words. Nothing is repaired, and nothing that is
unknown becomes a number: null in JSON and in Arrow is NaN in the arrays, and NaN is refused.
"""

import contextlib
import difflib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

import annotated_types
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
)

from dpa.decision.decision import Decision
from dpa.decision.types import Bools, Doubles
from dpa.market.calendars import TradingCalendar, nanoseconds, utc_index
from dpa.market.intervals import parse_interval
from dpa.market.panel import EXTRAS, Panel
from dpa.serving.types import Prediction, Request, RequestError

JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
BARS: Final = ("close", "open", "high", "low", "volume", "dollar_volume")
QUOTES: Final = ("bid", "ask", "quote_age_ms", "adv_usd")
NUMBERS: Final = (*BARS, *QUOTES, "shares", "lot")
METADATA: Final = b"dpa"  # where an Arrow schema carries what is not of one symbol
_YEARS: Final = (1970, 2199)
_MOST_YEARS: Final = 50  # of a history
_MOST_CELLS: Final = 50_000_000  # bars times symbols of a history
_MOST_BATCHES: Final = 50_000  # of an Arrow stream
_MOST_NAME_BYTES: Final = 256  # 64 characters in UTF-8

Price = Annotated[float, Field(gt=0, le=1e9)]
Quote = Annotated[float, Field(ge=0, le=1e9)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Money = Annotated[float, Field(ge=0.01, le=1e15)]
Symbol = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
Account = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]


class Body(BaseModel):
    """What a client sends: nothing unknown, no text for numbers, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SymbolBody(Body):
    """One symbol of a snapshot; null or left out: unknown."""

    symbol: Symbol = Field(description="name of the symbol, unique in the request")
    close: Price | None = Field(None, description="adjusted close of the bar, USD")
    open: Price | None = Field(None, description="first price of the bar, USD")
    high: Price | None = Field(None, description="highest price of the bar, USD, at least low")
    low: Price | None = Field(None, description="lowest price of the bar, USD")
    volume: Amount | None = Field(None, description="shares traded in the bar")
    dollar_volume: Amount | None = Field(None, description="value traded in the bar, USD")
    bid: Quote | None = Field(None, description="best bid, USD")
    ask: Quote | None = Field(None, description="best ask, USD")
    quote_age_ms: Amount | None = Field(None, description="age of the quote, milliseconds")
    adv_usd: Amount | None = Field(
        None, description="average daily traded value, USD; unknown: that of the bars on record"
    )
    shares: float = Field(0.0, ge=-1e12, le=1e12, description="position held, signed")
    lot: float = Field(1.0, ge=1, le=1e9, multiple_of=1, description="shares of the smallest order")
    member: bool = Field(True, description="whether the symbol may be held")


class PredictScalars(Body):
    """What a request for forecasts says of the moment; the account may be left out."""

    time: AwareDatetime = Field(description="close of the bar, with time zone, 1970 to 2199")
    moment: AwareDatetime | None = Field(
        None, description="when the answer is asked for, at least `time`; null: now"
    )
    account: Account = Field("default", description="whose money")
    nav_usd: Money = Field(1.0, description="net asset value, USD")
    prior_nav_usd: Money = Field(
        1.0, description="net asset value at the close of the session before, USD"
    )
    feed: Literal["direct", "aggregated"] = Field(
        "direct", description="aggregated: quotes are sent at most every 250 ms"
    )


class DecideScalars(PredictScalars):
    """What a request for a decision says of the moment and of the account."""

    nav_usd: Money = Field(description="net asset value, USD")
    prior_nav_usd: Money = Field(
        description="net asset value at the close of the session before, USD"
    )


class PredictBody(PredictScalars):
    """A bar, or the time of one on record, and the symbols asked for; a DecideBody will do."""

    symbols: Annotated[list[SymbolBody], Field(min_length=1), FailFast()]


class DecideBody(DecideScalars):
    """A snapshot of market and account; without any close, of the newest bar on record."""

    symbols: Annotated[list[SymbolBody], Field(min_length=1), FailFast()]


class RiskBody(Body):
    """Who halts or resumes an account, and why."""

    by: str = Field(min_length=1, max_length=200, description="who")
    why: str = Field(min_length=1, max_length=2000, description="reason")


class CommandBody(Body):
    """Who tells the trader something, and why; halting asks for neither."""

    by: str = Field("", max_length=200, description="who")
    why: str = Field("", max_length=2000, description="reason")


class ResumeBody(RiskBody):
    """Who lets the trader trade again, why, and what was seen before."""

    seen: str = Field(
        min_length=1,
        max_length=100,
        description="level_mark of GET /v1/trading; refused when the level has changed since",
    )


_ROW: Final = attrgetter("symbol", "member", *NUMBERS)


@lru_cache(maxsize=8)
def body_model(kind: type[PredictBody | DecideBody], max_symbols: int) -> type[BaseModel]:
    """`kind` with a limit to its symbols."""
    symbols = Annotated[list[SymbolBody], Field(min_length=1, max_length=max_symbols), FailFast()]
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, symbols=(symbols, ...))


def parse_json(body: bytes, max_symbols: int, *, decide: bool = True) -> Request:
    """A request from JSON.

    Parameters
    ----------
    body : bytes
        As :class:`DecideBody` or, when `decide` is false, :class:`PredictBody` describe it.
    max_symbols : int
    decide : bool
        Otherwise a forecast is asked for, which needs no net asset value.

    Raises
    ------
    RequestError
        400 when it is not JSON, 422 naming the field otherwise, also when it is there twice.
    """
    model = body_model(DecideBody if decide else PredictBody, max_symbols)
    parsed: Any = _validated(model, body)
    rows = [_ROW(row) for row in parsed.symbols]
    names, member = tuple(row[0] for row in rows), np.array([row[1] for row in rows])
    numbers = np.array([row[2:] for row in rows], dtype=np.float64)  # None becomes NaN
    columns = dict(zip(NUMBERS, np.ascontiguousarray(numbers.T), strict=True))
    return _request(parsed, names, member, columns)


def parse_risk(body: bytes) -> RiskBody:
    """Who and why, from JSON; a :class:`RequestError` as in :func:`parse_json`."""
    parsed: RiskBody = _validated(RiskBody, body)
    return parsed


def parse_command(body: bytes) -> CommandBody:
    """Who and why, from JSON; a :class:`RequestError` as in :func:`parse_json`."""
    parsed: CommandBody = _validated(CommandBody, body)
    return parsed


def parse_resume(body: bytes) -> ResumeBody:
    """Who, why, and what was seen, from JSON; errors as in :func:`parse_json`."""
    parsed: ResumeBody = _validated(ResumeBody, body)
    return parsed


def parse_arrow(body: bytes, max_symbols: int, *, decide: bool = True) -> Request:
    """A request from an Arrow IPC stream, not compressed.

    Parameters
    ----------
    body : bytes
        One row a symbol with the columns of :class:`SymbolBody`; the rest as JSON in the metadata
        of the schema under ``dpa``.
    max_symbols, decide
        As in :func:`parse_json`.

    Raises
    ------
    RequestError
        400 when it is no Arrow stream, 422 naming the field otherwise.
    """
    with _readable():
        return _parse_arrow(body, max_symbols, DecideScalars if decide else PredictScalars)


def _parse_arrow(body: bytes, max_symbols: int, scalars: type[PredictScalars]) -> Request:
    table = _table(body, SymbolBody.model_fields, "symbols")
    if table.num_rows > max_symbols:
        raise _too_many(table.num_rows, max_symbols)
    metadata = (table.schema.metadata or {}).get(METADATA)
    if metadata is None:
        raise _invalid(
            "metadata.dpa",
            "is missing",
            "put time, nav_usd and the like as JSON into the schema's metadata under 'dpa'",
        )
    parsed = _validated(scalars, metadata)
    distinct, code = _names(table, "symbols", SymbolBody, max_symbols)
    names = tuple(distinct[k] for k in code)
    if not names:
        raise _no_symbols()
    columns = {
        name: _numbers(table, name, "symbols", SymbolBody)
        if name in table.column_names
        else np.full(len(names), SymbolBody.model_fields[name].default or np.nan, np.float64)
        for name in NUMBERS
    }
    if "shares" not in table.column_names:
        columns["shares"] = np.zeros(len(names))
    return _request(parsed, names, _flags(table, "member", len(names)), columns)


def _request(
    parsed: Any, names: tuple[str, ...], member: Bools, columns: dict[str, Doubles]
) -> Request:
    """The request, after what no single field can say."""
    time = _instant(parsed.time, "time")
    moment = None if parsed.moment is None else _instant(parsed.moment, "moment")
    if moment is not None and moment < time:
        raise _invalid(
            "moment",
            f"{moment.isoformat()} is before the bar's close {time.isoformat()}",
            "a bar is known at its close: correct one of the two",
        )
    _check_unique(names)
    _check_ranges(columns, "symbols")
    bars = {name: columns[name] for name in BARS if np.isfinite(columns[name]).any()}
    if bars and "close" not in bars:
        given = next(iter(bars))
        place = int(np.argmax(np.isfinite(bars[given])))
        raise _invalid(
            f"symbols[{place}].close",
            f"is missing, as in every symbol, though {given} is given",
            "send the close of the bar, or leave the bar out",
        )
    return Request(
        time=time,
        moment=moment,
        account=parsed.account,
        nav_usd=parsed.nav_usd,
        prior_nav_usd=parsed.prior_nav_usd,
        feed=parsed.feed,
        names=names,
        bars=bars,
        member=member,
        **{name: columns[name] for name in (*QUOTES, "shares", "lot")},
    )


def _instant(value: Any, field: str) -> pd.Timestamp:
    if not _YEARS[0] < value.year < _YEARS[1]:
        raise _invalid(
            field,
            f"{value.isoformat()} is not between {_YEARS[0]} and {_YEARS[1]}",
            "correct the year",
        )
    return pd.Timestamp(value).tz_convert("UTC").as_unit("ns")


def _check_unique(names: tuple[str, ...]) -> None:
    if len(set(names)) < len(names):
        first: dict[str, int] = {}
        for place, name in enumerate(names):
            if first.setdefault(name, place) != place:
                raise _invalid(
                    f"symbols[{place}].symbol",
                    f"{name!r} is symbols[{first[name]}] already",
                    "send every symbol once",
                )


def _check_ranges(columns: Mapping[str, Doubles], rows: str) -> None:
    """Refuse a high below the low of the same bar."""
    if "high" in columns and "low" in columns:
        below = columns["high"] < columns["low"]
        if below.any():
            place = int(np.argmax(below))
            raise _invalid(
                f"{rows}[{place}].high",
                f"{columns['high'][place]:g} is below low, {columns['low'][place]:g}",
                "correct the two, or send null",
            )


# --- words -----------------------------------------------------------------------------------


def _invalid(field: str, what: str, cure: str, status: int = 422) -> RequestError:
    field, what = _cut(field, 100), _cut(what, 300)
    return RequestError(status, "invalid", f"{field}: {what}", cure, field)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _no_symbols() -> RequestError:
    return _invalid("symbols", "there are none", "send at least one symbol")


def _too_many(given: int, most: int) -> RequestError:
    return _invalid(
        "symbols", f"more than {most}", f"send at most {most}, or raise serving.max_symbols"
    )


def _validated(model: Any, body: bytes) -> Any:
    try:
        parsed = model.model_validate_json(body)
    except ValidationError as e:
        raise _in_words(model, e) from e
    _check_keys(parsed, body)
    return parsed


def _check_keys(parsed: BaseModel, body: bytes) -> None:
    """Refuse a field that is there twice, of which the last would be taken.

    The colon of a field follows a quote or white space, so those that do are at least as many as
    the fields written; unknown fields are refused already, so the fields read are the distinct
    ones. Only where the two differ, by a repetition or by a text that looks like a field, is the
    body read again.
    """
    objects = (parsed, *getattr(parsed, "symbols", ()))
    read = sum(map(len, map(attrgetter("model_fields_set"), objects)))
    if sum(map(body.count, (b'":', b" :", b"\n:", b"\r:", b"\t:"))) == read:
        return
    pairs = json.loads(body, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
    for field in _repeated(pairs, ""):
        raise _invalid(field, "is there twice", "send every field once")


class _Pairs(tuple[tuple[str, Any], ...]):
    """Fields of a JSON object as they are written."""


def _repeated(value: Any, place: str) -> Iterator[str]:
    """Paths of the fields that are there again."""
    if isinstance(value, _Pairs):
        seen = set()
        for name, inner in value:
            here = f"{place}.{name}".lstrip(".")
            if name in seen:
                yield here
            seen.add(name)
            yield from _repeated(inner, here)
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from _repeated(inner, f"{place}[{k}]")


_BOUNDS: Final = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def _in_words(model: type[BaseModel], error: ValidationError) -> RequestError:
    """The first error of a body as the answer to it."""
    first = error.errors(include_url=False)[0]
    kind, context, place = first["type"], first.get("ctx", {}), first["loc"]
    field = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in place).lstrip(".")
    seen, optional = _shown(first.get("input")), _optional(model, place)
    correct = "send null where it is unknown" if optional else "correct it"
    if kind == "json_invalid":
        return RequestError(
            400, "invalid", f"the body is not JSON: {context.get('error', '')}", "correct it"
        )
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return _invalid(field, f"{seen} is not {words} {context[name]:g}", correct)
    if kind == "multiple_of":
        return _invalid(field, f"{seen} is not whole", correct)
    if kind == "finite_number":
        return _invalid(field, f"{seen} is not a finite number", correct)
    if kind == "missing":
        return _invalid(field, "is missing", "add it")
    if kind == "extra_forbidden":
        return _unknown_field(field, str(place[-1]), _known(model, place))
    if kind in ("float_type", "float_parsing"):
        return _invalid(field, f"{seen} is not a number", correct)
    if kind == "bool_type":
        return _invalid(field, f"{seen} is not true or false", correct)
    if kind == "timezone_aware":
        return _invalid(field, f"{seen} has no time zone", "write UTC as 2024-07-01T14:35:00Z")
    if kind.startswith("datetime"):
        return _invalid(field, f"{seen} is not a time", "write it as 2024-07-01T14:35:00Z")
    if kind == "literal_error":
        return _invalid(field, f"{seen} is not {context['expected']}", "correct it")
    if kind == "string_pattern_mismatch":
        return _invalid(field, f"{seen} does not match {context['pattern']}", "correct it")
    if kind == "too_short" and field == "symbols":
        return _no_symbols()
    if kind == "too_long" and field == "symbols":
        return _too_many(context["actual_length"] or 0, context["max_length"])
    return _invalid(field or "body", f"{first['msg']} (got {seen})", "correct it")


def _shown(value: Any) -> str:
    """A value as a message shows it, cut to 40 characters."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _known(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Fields there are where an error lies."""
    return list((SymbolBody if len(place) > 2 else model).model_fields)


def _optional(model: type[BaseModel], place: Sequence[int | str]) -> bool:
    fields = (SymbolBody if len(place) > 2 else model).model_fields
    found = fields.get(str(place[-1])) if place else None
    return found is not None and not found.is_required() and found.default is None


def _unknown_field(field: str, name: str, known: Sequence[str]) -> RequestError:
    near = difflib.get_close_matches(name, known, 1)
    cure = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(known)}"
    return _invalid(field, "is not known", cure)


# --- Arrow -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _readable(*damage: type[Exception]) -> Iterator[None]:
    """What Arrow cannot read, or is damaged as `damage` says, is refused: 400."""
    try:
        yield
    except (pa.ArrowException, *damage) as e:
        said = " ".join(str(e).split())[:200]
        raise RequestError(
            400, "invalid", f"the body is not an Arrow IPC stream: {said}", f"send {ARROW}"
        ) from e


def _table(body: bytes, known: Mapping[str, Any], rows: str) -> pa.Table:
    """All rows of a stream, of known columns; every offset checked but those of dictionaries.

    Nothing is unpacked: the table refers to `body`.

    Raises
    ------
    RequestError
        400 or 422.
    """
    with _readable(struct.error, OSError, ValueError, IndexError):
        _check_messages(body)
        with pa.ipc.open_stream(body) as stream:
            _check_columns(stream.schema, known, rows)
            table = stream.read_all()
        if table.num_rows > len(body):
            raise _invalid("body", "columns without values", "send one row a symbol")
        coded = [k for k, kind in enumerate(table.schema.types) if pa.types.is_dictionary(kind)]
        table.select([k for k in range(table.num_columns) if k not in coded]).validate(full=True)
        for k in coded:  # their values are checked once, not once a batch: _decoded
            table.column(k).validate()
            for chunk in table.column(k).chunks:
                chunk.indices.validate(full=True)
    return table


def _check_type(field: pa.Field, rows: str) -> None:
    """Columns are of numbers, flags, times or text; of dictionaries, those of text only.

    Others (nested, run-end encoded, views, dictionaries of anything else) may stand for far more
    than was sent.
    """
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    texts = (pa.types.is_string, pa.types.is_large_string)
    flat = (
        pa.types.is_null,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_timestamp,
    )
    if not any(test(kind) for test in (texts if kind is not field.type else (*texts, *flat))):
        raise _invalid(
            f"{rows}[].{field.name}",
            f"is {_cut(str(field.type), 60)}",
            "send numbers, true or false, timestamps, text, or dictionaries of text",
        )


def _check_messages(body: bytes) -> None:
    """Compressed streams could unpack to any size; growing dictionaries too, batch by batch."""
    batches = 0
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type not in ("record batch", "dictionary"):
            continue
        dictionary, header = message.type == "dictionary", message.metadata.to_pybytes()
        if _compressed(header, dictionary):
            raise _invalid("body", "the Arrow stream is compressed", "send it uncompressed")
        if dictionary and _is_delta(header):
            raise _invalid("body", "a dictionary grows in the stream", "send dictionaries whole")
        batches += 1
        if batches > _MOST_BATCHES:
            raise _invalid(
                "body", f"more than {_MOST_BATCHES} record batches", "send fewer, larger ones"
            )


def _compressed(header: bytes, dictionary: bool) -> bool:
    """Whether the flatbuffer of a message has ``RecordBatch.compression``.

    See Message.fbs of the Arrow format: `Message.header` is field 2, `DictionaryBatch.data` field
    1, `RecordBatch.compression` field 3.
    """
    batch = _follow(header, _field(header, _follow(header, 0), 2))
    if dictionary:
        batch = _follow(header, _field(header, batch, 1))
    return _field(header, batch, 3) is not None


def _is_delta(header: bytes) -> bool:
    """``DictionaryBatch.isDelta``, field 2, of the flatbuffer of a message."""
    place = _field(header, _follow(header, _field(header, _follow(header, 0), 2)), 2)
    return place is not None and header[place] != 0


def _field(header: bytes, table: int, number: int) -> int | None:
    """Where a flatbuffer has a field of a table; none: it does not."""
    vtable = table - struct.unpack_from("<i", header, table)[0]
    (size,) = struct.unpack_from("<H", header, vtable)
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", header, vtable + slot)[0] if slot < size else 0
    return table + offset if offset else None


def _follow(header: bytes, place: int | None) -> int:
    """The table that an offset in a flatbuffer refers to."""
    if place is None:
        raise ValueError("a message without a body")
    return int(place + struct.unpack_from("<I", header, place)[0])


def _check_columns(schema: pa.Schema, known: Mapping[str, Any], rows: str) -> None:
    names = schema.names
    for name in names:
        if name not in known:
            raise _unknown_field(f"{rows}[].{name}", name, list(known))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _invalid(f"{rows}[].{twice}", "is there twice", "send every column once")
    for field in schema:
        getattr(field.type, "tz", None)  # a time zone that is no UTF-8 raises here
        _check_type(field, rows)


def _column(table: pa.Table, name: str, rows: str, words: str, *kinds: Any) -> pa.ChunkedArray:
    """A column of one of the kinds, or of nulls only."""
    if name not in table.column_names:
        raise _invalid(f"{rows}[].{name}", "is missing", "add the column")
    column = table.column(name)
    if not (pa.types.is_null(column.type) or any(kind(column.type) for kind in kinds)):
        raise _invalid(f"{rows}[].{name}", f"is {column.type}, not {words}", "convert the column")
    return column


def _names(
    table: pa.Table, rows: str, model: type[BaseModel], most: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct names of the column ``symbol``, and which of them each row has."""
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    column = _column(table, "symbol", rows, "text", *text)
    if column.null_count:
        raise _no_name(rows, int(np.argmax(column.is_null().to_numpy())))
    if pa.types.is_dictionary(column.type):
        distinct, code = _decoded(column, rows, most)
    else:
        unique = column.unique()
        if len(unique) > most:
            raise _too_many(len(unique), most)
        distinct, code = unique.to_pylist(), pc.index_in(column, unique).to_numpy()
    code = np.asarray(code, dtype=np.int64)
    if None in distinct:
        raise _no_name(rows, int(np.argmax(code == distinct.index(None))))
    try:
        _text_list(model, "symbol").validate_python(distinct)
    except ValidationError as e:
        wrong = int(e.errors()[0]["loc"][0])
        raise _invalid(
            f"{rows}[{int(np.argmax(code == wrong))}].symbol",
            f"{_shown(distinct[wrong])} does not match {e.errors()[0]['ctx']['pattern']}",
            "correct it",
        ) from e
    return tuple(name for name in distinct if name is not None), code


def _no_name(rows: str, place: int) -> RequestError:
    return _invalid(f"{rows}[{place}].symbol", "is missing", "add it")


def _decoded(
    column: pa.ChunkedArray, rows: str, most: int
) -> tuple[list[str | None], NDArray[np.int64]]:
    """Distinct values of a dictionary column, in order of appearance, and those of each row.

    Batches may share a dictionary or replace it; each is checked and read once. Values that no
    row has are left out.
    """
    key, values = None, list[str | None]()
    place: dict[str | None, int] = {}
    codes = [np.empty(0, dtype=np.int64)]
    for chunk in column.chunks:
        if not len(chunk):
            continue
        index = chunk.indices.to_numpy().astype(np.int64)
        storage = _storage(chunk.dictionary)
        if storage != key:
            key, values = storage, _values(chunk.dictionary, rows, most)
        if not 0 <= index.min() <= index.max() < len(values):
            raise _invalid(f"{rows}[].symbol", "refers to no value of its dictionary", "correct it")
        used, first, inverse = np.unique(index, return_index=True, return_inverse=True)
        number = np.empty(len(used), dtype=np.int64)
        for k in np.argsort(first):
            number[k] = place.setdefault(values[used[k]], len(place))
        if len(place) > most:
            raise _too_many(len(place), most)
        codes.append(number[inverse])
    return list(place), np.concatenate(codes)


def _storage(array: pa.Array) -> tuple[Any, ...]:
    """Where an array lies, equal for arrays that are the same memory."""
    places = ((b.address, b.size) if b is not None else None for b in array.buffers())
    return (len(array), array.offset, *places)


def _values(dictionary: pa.Array, rows: str, most: int) -> list[str | None]:
    """Values of a dictionary of names."""
    field = f"{rows}[].symbol"
    if len(dictionary) > most:
        raise _invalid(
            field,
            f"a dictionary of {len(dictionary)} values, more than {most}",
            f"send a dictionary of at most {most} or text, or raise serving.max_symbols",
        )
    dictionary.validate(full=True)
    longest = pc.max(pc.binary_length(dictionary)).as_py() or 0
    if longest > _MOST_NAME_BYTES:
        raise _invalid(
            field, f"a value of {longest} bytes in the dictionary", "names have 1 to 64 characters"
        )
    values: list[str | None] = dictionary.to_pylist()
    return values


@lru_cache(maxsize=8)
def _text_list(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = model.model_fields[name]
    return TypeAdapter(Annotated[list[Annotated[str, *field.metadata]], FailFast()])


def _flags(table: pa.Table, name: str, n_rows: int) -> Bools:
    if name not in table.column_names:
        return np.ones(n_rows, dtype=bool)
    column = _column(table, name, "symbols", "true or false", pa.types.is_boolean)
    if column.null_count:
        place = int(np.argmax(column.is_null().to_numpy()))
        raise _invalid(f"symbols[{place}].{name}", "null is not true or false", "correct it")
    return np.asarray(column.to_numpy(), dtype=bool)


def _numbers(table: pa.Table, name: str, rows: str, model: type[BaseModel]) -> Doubles:
    """A column of numbers within the bounds of its field; null is NaN."""
    column = _column(table, name, rows, "numbers", pa.types.is_floating, pa.types.is_integer).cast(
        pa.float64(), safe=False
    )
    optional = model.model_fields[name].default is None
    correct = "send null where it is unknown" if optional else "correct it"
    missing = column.is_null().to_numpy()
    values: Doubles = np.array(pc.fill_null(column, 1.0).to_numpy(), dtype=np.float64)

    def refuse(wrong: NDArray[np.bool_], words: str) -> None:
        if wrong.any():
            place = int(np.argmax(wrong))
            seen = "null" if missing[place] else f"{values[place]:g}"
            raise _invalid(f"{rows}[{place}].{name}", f"{seen} {words}", correct)

    if not optional:
        refuse(missing, "is not a number")
    refuse(~np.isfinite(values), "is not a finite number")
    for wrong, words in _outside(values, name, model):
        refuse(wrong & ~missing, words)
    values[missing] = np.nan
    return values


def _outside(
    values: Doubles, name: str, model: type[BaseModel]
) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Where values break each rule of their field, and the words for it."""
    for rule in _rules(model, name):
        if isinstance(rule, annotated_types.Gt):
            yield values <= rule.gt, f"is not above {rule.gt:g}"  # type: ignore[operator]
        elif isinstance(rule, annotated_types.Ge):
            yield values < rule.ge, f"is not at least {rule.ge:g}"  # type: ignore[operator]
        elif isinstance(rule, annotated_types.Le):
            yield values > rule.le, f"is not at most {rule.le:g}"  # type: ignore[operator]
        elif isinstance(rule, annotated_types.MultipleOf):
            yield values % rule.multiple_of != 0, "is not whole"  # type: ignore[operator]


@lru_cache(maxsize=64)
def _rules(model: type[BaseModel], name: str) -> tuple[Any, ...]:
    """Bounds of a field, wherever pydantic keeps them."""
    field = model.model_fields[name]
    found = list(field.metadata)
    for inner in getattr(field.annotation, "__args__", ()):
        for meta in getattr(inner, "__metadata__", ()):
            found += getattr(meta, "metadata", [meta])
    return tuple(found)


# --- history ---------------------------------------------------------------------------------


class HistoryRow(Body):
    """One symbol and bar of a history."""

    time: AwareDatetime = Field(description="close of the bar, timestamp with time zone")
    symbol: Symbol
    close: Price | None = Field(None, description="adjusted close, USD")
    open: Price | None = None
    high: Price | None = None
    low: Price | None = None
    volume: Amount | None = None
    dollar_volume: Amount | None = None


def parse_history(body: bytes, max_symbols: int, interval: str, calendar: str) -> Panel:
    """Bars on record from an Arrow IPC stream, not compressed.

    Parameters
    ----------
    body : bytes
        One row a symbol and bar with the columns of :class:`HistoryRow`: ``time, symbol, close``
        and any of ``open, high, low, volume, dollar_volume``. Rows in any order; a symbol without
        a row at a bar has no price there.
    max_symbols : int
    interval, calendar : str
        Whose bars they must be.

    Returns
    -------
    Panel
        Symbols in alphabetic order, members where they have a price.

    Raises
    ------
    RequestError
        400 when it is no Arrow stream, 422 naming the field otherwise.
    """
    with _readable():
        return _parse_history(body, max_symbols, interval, calendar)


def _parse_history(body: bytes, max_symbols: int, interval: str, calendar: str) -> Panel:
    table = _table(body, HistoryRow.model_fields, "rows")
    times = _times(table)
    names, code = _names(table, "rows", HistoryRow, max_symbols)
    if not names:
        raise _invalid("rows", "there are none", "send at least one bar")
    if len(names) > max_symbols:
        raise _too_many(len(names), max_symbols)
    columns = {
        name: _numbers(table, name, "rows", HistoryRow)
        for name in ("close", *(name for name in EXTRAS if name in table.column_names))
    }
    _check_ranges(columns, "rows")
    bars, bar = np.unique(times, return_inverse=True)
    _check_grid(bars, times, interval, calendar)
    order = sorted(names)
    rank = {name: k for k, name in enumerate(order)}
    asset = np.array([rank[name] for name in names])[code]
    shape = (len(bars), len(order))
    if shape[0] * shape[1] > _MOST_CELLS:
        raise _invalid(
            "rows",
            f"{shape[0]} bars of {shape[1]} symbols are more than {_MOST_CELLS} cells",
            "send fewer bars",
        )
    cell = bar.astype(np.int64) * shape[1] + asset
    _check_cells(cell, order, shape)
    dense = {name: _scatter(cell, values, shape) for name, values in columns.items()}
    prices = dense.pop("close")
    return Panel(
        utc_index(bars), tuple(order), prices, np.isfinite(prices), interval, calendar, **dense
    )


def _times(table: pa.Table) -> NDArray[np.int64]:
    column = _column(table, "time", "rows", "a timestamp", pa.types.is_timestamp)
    if pa.types.is_null(column.type) or column.null_count:
        place = int(np.argmax(column.is_null().to_numpy())) if len(column) else 0
        raise _invalid(f"rows[{place}].time", "is missing", "add it")
    if column.type.tz is None:
        raise _invalid("rows[].time", "has no time zone", "send timestamps in UTC")
    try:
        ticks = column.cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as e:
        raise _invalid("rows[].time", "is out of range", "correct the years") from e
    first, last = (pd.Timestamp(year, 1, 1).value for year in _YEARS)
    outside = (ticks < first) | (ticks >= last)
    if outside.any():
        raise _invalid(
            f"rows[{int(np.argmax(outside))}].time",
            f"is not between {_YEARS[0]} and {_YEARS[1]}",
            "correct the year",
        )
    return np.asarray(ticks, dtype=np.int64)


def _check_grid(
    bars: NDArray[np.int64], times: NDArray[np.int64], interval: str, calendar: str
) -> None:
    """Every time must be the close of a bar."""
    margin = pd.Timedelta(2, "D")
    first, last = utc_index(bars)[[0, -1]]
    if last.year - first.year > _MOST_YEARS:
        raise _invalid(
            f"rows[{int(np.argmax(times == bars[-1]))}].time",
            f"{last.isoformat()} is more than {_MOST_YEARS} years after {first.isoformat()}",
            "send fewer years, or correct the time",
        )
    grid = TradingCalendar(calendar).bars(
        parse_interval(interval),
        (first - margin).tz_localize(None).normalize(),
        (last + margin).tz_localize(None).normalize(),
    )
    off = ~np.isin(bars, grid.closes)
    if off.any():
        moment = bars[int(np.argmax(off))]
        place = int(np.argmax(times == moment))
        raise _invalid(
            f"rows[{place}].time",
            f"{pd.Timestamp(moment, tz='UTC').isoformat()} is not the close of a {interval} bar "
            f"of {calendar}",
            "stamp bars with their closes, UTC",
        )


def _check_cells(cell: NDArray[np.int64], names: Sequence[str], shape: tuple[int, int]) -> None:
    last = np.full(shape[0] * shape[1], -1)
    last[cell] = np.arange(len(cell))
    repeated = last[cell] != np.arange(len(cell))
    if repeated.any():
        place = int(last[cell[int(np.argmax(repeated))]])
        name = names[int(cell[place]) % shape[1]]
        raise _invalid(
            f"rows[{place}].symbol",
            f"a second row for {name!r} at this time",
            "send one row a symbol and bar",
        )


def _scatter(cell: NDArray[np.int64], values: Doubles, shape: tuple[int, int]) -> Doubles:
    dense = np.full(shape[0] * shape[1], np.nan)
    dense[cell] = values
    return dense.reshape(shape)


# --- what clients send -----------------------------------------------------------------------


def _scalars(request: Request) -> dict[str, Any]:
    return {
        "time": request.time.isoformat(),
        "moment": None if request.moment is None else request.moment.isoformat(),
        "account": request.account,
        "nav_usd": request.nav_usd,
        "prior_nav_usd": request.prior_nav_usd,
        "feed": request.feed,
    }


def _columns(request: Request) -> dict[str, Any]:
    return {
        "symbol": request.names,
        **request.bars,
        **{name: getattr(request, name) for name in (*QUOTES, "shares", "lot")},
        "member": request.member,
    }


def request_json(request: Request) -> bytes:
    """The body of ``/v1/decide`` that :func:`parse_json` reads as `request`."""
    columns = _columns(request)
    lists = [v.tolist() if isinstance(v, np.ndarray) else v for v in columns.values()]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
    return orjson.dumps({**_scalars(request), "symbols": rows})


def request_arrow(request: Request) -> bytes:
    """The body of ``/v1/decide`` that :func:`parse_arrow` reads as `request`."""
    columns = {
        name: pa.array(values, from_pandas=True) for name, values in _columns(request).items()
    }
    metadata = {METADATA: orjson.dumps(_scalars(request))}
    return to_stream(pa.table(columns).replace_schema_metadata(metadata))


def history_arrow(panel: Panel) -> bytes:
    """The body of ``/v1/history`` for the bars of a panel; cells without a close are left out."""
    bar, asset = np.nonzero(np.isfinite(panel.prices))
    columns: dict[str, Any] = {
        "time": pa.array(nanoseconds(panel.times)[bar], pa.timestamp("ns", tz="UTC")),
        "symbol": pa.DictionaryArray.from_arrays(asset.astype(np.int32), list(panel.names)),
        "close": panel.prices[bar, asset],
    }
    for name, array in panel.extras().items():
        columns[name] = pa.array(array[bar, asset], from_pandas=True)
    return to_stream(pa.table(columns))


# --- answers ---------------------------------------------------------------------------------


def to_stream(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def to_json(value: Any) -> bytes:
    """Anything an answer is made of as JSON; NaN and infinities become null."""
    return orjson.dumps(
        value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def decision_json(decision: Decision, trace: bool) -> bytes:
    """A decision as ``Decision.to_dict`` gives it."""
    return to_json(decision.to_dict(trace))


def decision_arrow(decision: Decision) -> bytes:
    """A decision as ``Decision.to_arrow`` gives it."""
    return to_stream(decision.to_arrow())


def prediction_dict(prediction: Prediction) -> dict[str, Any]:
    """A prediction for JSON: facts, then one object a symbol."""
    said = prediction.forecasts
    barriers = said.barriers if said.barriers is not None else np.full((2, len(said.sigma)), np.nan)
    columns = (
        prediction.names,
        said.reasons or ("",) * len(prediction.names),
        said.sigma.tolist(),
        prediction.stacked.T.tolist(),
        prediction.confidence.T.tolist(),
        said.returns.transpose(2, 0, 1).tolist(),
        barriers[0].tolist(),
        barriers[1].tolist(),
    )
    keys = ("symbol", "reason", "sigma", "stacked", "confidence", "forecasts", "peak", "valley")
    symbols = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    return {**_prediction_facts(prediction), "symbols": symbols}


def _prediction_facts(prediction: Prediction) -> dict[str, Any]:
    said = prediction.forecasts
    return {
        "time": prediction.time.isoformat(),
        "bundle": said.bundle,
        "target": said.target,
        "lag": said.lag,
        "horizons": [horizon.label for horizon in said.horizons],
        "families": list(said.families),
        "left_out": dict(said.left_out),
    }


def prediction_json(prediction: Prediction) -> bytes:
    """A prediction as JSON, numbers in the units of :class:`~dpa.decision.types.Forecasts`."""
    return to_json(prediction_dict(prediction))


def prediction_arrow(prediction: Prediction) -> bytes:
    """A prediction as an Arrow stream: one row a symbol, columns such as ``forecast_5m_ridge``."""
    said = prediction.forecasts
    columns: dict[str, Any] = {
        "symbol": prediction.names,
        "reason": said.reasons or ("",) * len(prediction.names),
        "sigma": said.sigma,
    }
    for h, horizon in enumerate(said.horizons):
        columns[f"stacked_{horizon.label}"] = prediction.stacked[h]
        columns[f"confidence_{horizon.label}"] = prediction.confidence[h]
        for f, family in enumerate(said.families):
            columns[f"forecast_{horizon.label}_{family}"] = said.returns[h, f]
    if said.barriers is not None:
        columns["peak"], columns["valley"] = said.barriers
    table = pa.table({name: pa.array(v, from_pandas=True) for name, v in columns.items()})
    return to_stream(
        table.replace_schema_metadata({METADATA: orjson.dumps(_prediction_facts(prediction))})
    )
