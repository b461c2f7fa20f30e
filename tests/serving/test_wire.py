"""Bytes to requests and back; JSON and Arrow refuse the same things in the same words."""

import json
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.decision.types import Forecasts
from dpa.market.panel import Panel
from dpa.serving.types import Prediction, Request, RequestError
from dpa.serving.wire import (
    BARS,
    QUOTES,
    history_arrow,
    parse_arrow,
    parse_history,
    parse_json,
    parse_risk,
    prediction_arrow,
    prediction_json,
    request_arrow,
    request_json,
    to_json,
    to_stream,
)
from tests.decision.conftest import make_forecasts
from tests.serving.conftest import TIME, make_request, same_request

MOST = 100
BODY: dict[str, Any] = {
    "time": "2024-07-01T10:35:00-04:00",
    "nav_usd": 1e6,
    "prior_nav_usd": 1_000_000,
    "symbols": [
        {"symbol": "AAA", "close": 10, "high": 10.5, "low": 9.5, "volume": None},
        {"symbol": "BBB", "bid": 20.0, "ask": 20.1, "lot": 100},
    ],
}


DEFAULTS = {"shares": 0.0, "lot": 1.0, "member": True}


def arrow_of(body: dict[str, Any]) -> bytes:
    """The same body as an Arrow stream, columns typed by what is in them."""
    scalars = {name: value for name, value in body.items() if name != "symbols"}
    wanted = {name: None for row in body["symbols"] for name in row}
    columns = {
        name: [row.get(name, DEFAULTS.get(name)) for row in body["symbols"]] for name in wanted
    }
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    return to_stream(table.replace_schema_metadata({b"dpa": json.dumps(scalars).encode()}))


def with_symbol(place: int, **changes: Any) -> dict[str, Any]:
    rows = [dict(row) for row in BODY["symbols"]]
    rows[place].update(changes)
    return {**BODY, "symbols": [{k: v for k, v in row.items() if v != "drop"} for row in rows]}


def test_what_is_left_out_is_unknown() -> None:
    request = parse_json(json.dumps(BODY).encode(), MOST)
    assert request.time == pd.Timestamp("2024-07-01 14:35", tz="UTC")
    assert str(request.time.tz) == "UTC"
    assert (request.moment, request.account, request.feed) == (None, "default", "direct")
    assert request.names == ("AAA", "BBB")
    assert list(request.bars) == ["close", "high", "low"]
    np.testing.assert_array_equal(request.bars["close"], [10.0, np.nan])
    np.testing.assert_array_equal(request.bid, [np.nan, 20.0])
    np.testing.assert_array_equal(request.adv_usd, [np.nan, np.nan])
    np.testing.assert_array_equal(request.shares, [0.0, 0.0])
    np.testing.assert_array_equal(request.lot, [1.0, 100.0])
    np.testing.assert_array_equal(request.member, [True, True])


def test_without_a_close_there_is_no_bar() -> None:
    rows = [{"symbol": "AAA", "bid": 3.0}, {"symbol": "BBB", "close": None}]
    assert parse_json(json.dumps({**BODY, "symbols": rows}).encode(), MOST).bars == {}
    assert parse_arrow(arrow_of({**BODY, "symbols": rows}), MOST).bars == {}


def test_a_forecast_needs_no_account() -> None:
    body = {"time": BODY["time"], "symbols": [{"symbol": "AAA"}]}
    for request in (
        parse_json(json.dumps(body).encode(), MOST, decide=False),
        parse_arrow(arrow_of(body), MOST, decide=False),
    ):
        assert (request.names, request.bars) == (("AAA",), {})


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high) | st.just(np.nan)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    n = draw(st.integers(1, 4))

    def column(cells: st.SearchStrategy[float]) -> np.ndarray:
        return np.array(draw(st.lists(cells, min_size=n, max_size=n)), dtype=np.float64)

    bars = {name: column(number(0.01, 1e6)) for name in BARS}
    with np.errstate(invalid="ignore"):
        bars["high"] = np.where(bars["high"] < bars["low"], np.nan, bars["high"])
    chosen = draw(st.sets(st.sampled_from(BARS[1:])))
    bars = {
        name: values
        for name, values in bars.items()
        if (name == "close" or name in chosen) and np.isfinite(values).any()
    }
    moment = draw(st.none() | st.integers(0, 10**7).map(lambda ms: TIME + pd.Timedelta(ms, "ms")))
    symbol = st.text(st.characters(min_codepoint=32, exclude_categories=["C"]), min_size=1)
    names = draw(
        st.lists(symbol.filter(lambda s: len(s) <= 64), min_size=n, max_size=n, unique=True)
    )
    return Request(
        time=TIME,
        moment=moment,
        account=draw(st.from_regex(r"\A[A-Za-z0-9_.\-]{1,64}\Z")),
        nav_usd=draw(st.floats(0.01, 1e15)),
        prior_nav_usd=draw(st.floats(0.01, 1e15)),
        feed=draw(st.sampled_from(["direct", "aggregated"])),
        names=tuple(names),
        bars=bars if "close" in bars else {},
        member=np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        **{name: column(number(0.0, 1e9)) for name in QUOTES},
        shares=column(st.floats(-1e12, 1e12)),
        lot=column(st.integers(1, 10**9).map(float)),
    )


@settings(max_examples=60, deadline=None)
@given(requests())
def test_a_request_survives_the_wire(request_: Request) -> None:
    same_request(parse_json(request_json(request_), MOST), request_)
    same_request(parse_arrow(request_arrow(request_), MOST), request_)


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    (with_symbol(1, symbol="drop"), "symbols[1].symbol", "is missing; add it"),
    (with_symbol(1, symbol="AAA"), "symbols[1].symbol", "'AAA' is symbols[0] already; send every"),
    (with_symbol(1, symbol="A\nB"), "symbols[1].symbol", "'A\\nB' does not match"),
    ({**BODY, "symbols": []}, "symbols", "there are none; send at least one symbol"),
    (with_symbol(0, volume=-1.0), "symbols[0].volume", "-1 is not at least 0; send null"),
    (with_symbol(1, bid=-20.0), "symbols[1].bid", "-20 is not at least 0; send null"),
    (with_symbol(1, ask=-20.0), "symbols[1].ask", "-20 is not at least 0; send null"),
    (with_symbol(1, adv_usd=-1.0), "symbols[1].adv_usd", "-1 is not at least 0; send null"),
    (with_symbol(1, quote_age_ms=-1.0), "symbols[1].quote_age_ms", "-1 is not at least 0"),
    (with_symbol(0, close=0.0), "symbols[0].close", "0 is not above 0; send null"),
    (with_symbol(0, close=-3.0), "symbols[0].close", "-3 is not above 0; send null"),
    (with_symbol(0, close=1e300), "symbols[0].close", "1e+300 is not at most 1e+09; send null"),
    (with_symbol(0, high=9.0), "symbols[0].high", "9 is below low, 9.5; correct the two"),
    (with_symbol(0, close=None), "symbols[0].close", "is missing, as in every symbol, though high"),
    (
        with_symbol(0, close=float("nan")),
        "symbols[0].close",
        "nan is not a finite number; send nul",
    ),
    (with_symbol(1, bid=float("inf")), "symbols[1].bid", "inf is not a finite number; send null"),
    (with_symbol(1, lot=0.0), "symbols[1].lot", "0 is not at least 1; correct it"),
    (with_symbol(1, lot=1.5), "symbols[1].lot", "1.5 is not whole; correct it"),
    (with_symbol(1, shares=1e13), "symbols[1].shares", "1e+13 is not at most 1e+12; correct it"),
    ({**BODY, "nav_usd": 0.0}, "nav_usd", "0 is not at least 0.01; correct it"),
    ({**BODY, "nav_usd": float("nan")}, "nav_usd", "nan is not a finite number; correct it"),
    ({**BODY, "nav_usd": "1000"}, "nav_usd", "'1000' is not a number; correct it"),
    ({**BODY, "account": "my account"}, "account", "'my account' does not match ^["),
    ({**BODY, "feed": "slow"}, "feed", "'slow' is not 'direct' or 'aggregated'"),
    ({**BODY, "time": "2024-07-01T10:35:00"}, "time", "'2024-07-01T10:35:00' has no time zone"),
    ({**BODY, "time": "yesterday"}, "time", "'yesterday' is not a time; write it as 2024-"),
    ({**BODY, "time": 1719844500}, "time", "1719844500 is not a time"),
    ({**BODY, "time": "2999-07-01T10:35:00Z"}, "time", "2999-07-01T10:35:00+00:00 is not between"),
    ({**BODY, "moment": "2024-07-01T14:34:59Z"}, "moment", "2024-07-01T14:34:59+00:00 is before"),
    ({**BODY, "navusd": 1.0}, "navusd", "is not known; did you mean 'nav_usd'?"),
]


@pytest.mark.parametrize(("body", "field", "words"), FAULTS, ids=[f[1] for f in FAULTS])
def test_both_formats_refuse_in_the_same_words(
    body: dict[str, Any], field: str, words: str
) -> None:
    said = []
    for parse, content in (
        (parse_json, json.dumps(body).encode()),
        (parse_arrow, arrow_of(body) if body["symbols"] else empty_stream(body)),
    ):
        with pytest.raises(RequestError) as caught:
            parse(content, MOST)
        error = caught.value
        assert (error.status, error.code, error.field) == (422, "invalid", field)
        assert error.cure
        assert str(error).startswith(f"{field}: {words}")
        said.append(str(error))
    assert said[0] == said[1]


def empty_stream(body: dict[str, Any]) -> bytes:
    scalars = {name: value for name, value in body.items() if name != "symbols"}
    table = pa.table({"symbol": pa.array([], pa.string())})
    return to_stream(table.replace_schema_metadata({b"dpa": json.dumps(scalars).encode()}))


def test_an_unknown_field_of_a_symbol_is_named_with_the_nearest() -> None:
    body = with_symbol(1, volum=3.0)
    for parse, content in ((parse_json, json.dumps(body).encode()), (parse_arrow, arrow_of(body))):
        with pytest.raises(RequestError, match="is not known; did you mean 'volume'") as caught:
            parse(content, MOST)
        assert caught.value.field in ("symbols[1].volum", "symbols[].volum")
    with pytest.raises(RequestError, match="the fields are time, moment, account"):
        parse_json(json.dumps({**BODY, "zzz": 1}).encode(), MOST)


def test_too_many_symbols_are_refused() -> None:
    for parse, content in (
        (parse_json, request_json(make_request(6))),
        (parse_arrow, request_arrow(make_request(6))),
    ):
        with pytest.raises(
            RequestError, match=r"more than 5; send at most 5, or raise serving.max_"
        ):
            parse(content, 5)
        assert len(parse(content, 6).names) == 6


@pytest.mark.parametrize(
    "body", [b"", b"{", b"close,open\n", b"\xff\xfe", b'{"time": "\\ud800"}'], ids=repr
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    with pytest.raises(RequestError, match=r"the body is not JSON: .*; correct it") as caught:
        parse_json(body, MOST)
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"[]", b"3", b"null"])
def test_json_that_is_no_object_is_422(body: bytes) -> None:
    with pytest.raises(RequestError, match=r"^body: Input should be an object") as caught:
        parse_json(body, MOST)
    assert caught.value.status == 422


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_streams_are_refused_or_read_and_never_crash(data: st.DataObject) -> None:
    content = bytearray(request_arrow(make_request(3)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    refusal = None
    try:
        assert len(parse_arrow(bytes(content), MOST).names) == 3
    except RequestError as e:
        refusal = e
    assert refusal is None or (refusal.status in (400, 422) and refusal.cure)


def test_what_is_not_arrow_is_400() -> None:
    with pytest.raises(RequestError, match="the body is not an Arrow IPC stream") as caught:
        parse_arrow(json.dumps(BODY).encode(), MOST)
    assert caught.value.status == 400


def test_text_that_is_no_utf8_is_400() -> None:
    content = history_arrow(panel()).replace(b"UTC", b"U\xffC")
    with pytest.raises(RequestError, match="the body is not an Arrow IPC stream") as caught:
        parse_history(content, MOST, "5m", "XNYS")
    assert caught.value.status == 400


@pytest.mark.parametrize("dictionary", [False, True])
def test_compressed_streams_are_refused(dictionary: bool) -> None:
    names = pa.array(["A"] * 1000)
    table = pa.table({"symbol": names.dictionary_encode() if dictionary else names})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    with pytest.raises(RequestError, match="the Arrow stream is compressed; send it uncompressed"):
        parse_arrow(sink.getvalue().to_pybytes(), MOST)


def test_a_stream_that_claims_more_rows_than_bytes_is_refused() -> None:
    batch = pa.RecordBatch.from_arrays([pa.nulls(10**9)], names=["close"])
    with pytest.raises(RequestError, match="columns without values"):
        parse_arrow(to_stream(pa.Table.from_batches([batch])), MOST)


def stream_of(columns: dict[str, Any], most: int | None = None) -> bytes:
    scalars = {name: value for name, value in BODY.items() if name != "symbols"}
    table = pa.table(columns).replace_schema_metadata({b"dpa": json.dumps(scalars).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=most)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def coded(index: list[Any], values: Any, kind: Any = "int8") -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(index, kind), pa.array(values))


def refused(parse: Any, *args: Any) -> RequestError:
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(RequestError) as caught:
        parse(*args)
    assert (caught.value.status, bool(caught.value.cure)) == (422, True)
    assert pa.default_memory_pool().max_memory() <= max(before, 50e6)
    return caught.value


@pytest.mark.parametrize("most", [None, 1, 1000], ids=lambda most: f"batches-of-{most}")
@pytest.mark.parametrize("length", [1_500_000, 257])
def test_a_long_name_in_a_dictionary_is_never_unpacked(length: int, most: int | None) -> None:
    names = coded([0] * 5000, ["A" * length])
    error = refused(parse_arrow, stream_of({"symbol": names}, most), 5000)
    assert error.what == f"symbols[].symbol: a value of {length} bytes in the dictionary"
    times = pa.array([CLOSES[0]] * 5000, pa.timestamp("ns", tz="UTC"))
    content = stream_of({"time": times, "symbol": names, "close": [1.0] * 5000}, most)
    assert refused(parse_history, content, 5000, "5m", "XNYS").field == "rows[].symbol"


def test_a_dictionary_has_no_more_values_than_symbols_are_allowed() -> None:
    many = coded([0, 1], [f"S{k}" for k in range(MOST + 1)])
    error = refused(parse_arrow, stream_of({"symbol": many}), MOST)
    assert "a dictionary of 101 values, more than 100" in error.what
    fits = coded([99, 3], [*(f"S{k}" for k in range(MOST - 1)), "é" * 64], "int64")
    assert parse_arrow(stream_of({"symbol": fits}), MOST).names == ("é" * 64, "S3")


def test_values_of_a_dictionary_that_no_row_has_do_not_matter() -> None:
    names = coded([2, 1], [None, "BBB", "AAA", "A\nB", "BBB"])
    assert parse_arrow(stream_of({"symbol": names}), MOST).names == ("AAA", "BBB")
    for index, values, field in (
        ([1, 0], ["A\nB", "AAA"], "symbols[1].symbol"),
        ([1, 0], [None, "AAA"], "symbols[1].symbol"),
        ([0, 1, None], ["AAA", "BBB"], "symbols[2].symbol"),
        ([0, 1, 2], ["AAA", "BBB", "AAA"], "symbols[2].symbol"),
    ):
        assert refused(parse_arrow, stream_of({"symbol": coded(index, values)}), MOST).field == (
            field
        )


def test_an_index_beyond_its_dictionary_is_refused() -> None:
    for wrong in (2, -1, 127):
        index = pa.array([0, wrong], "int8")
        names = pa.DictionaryArray.from_arrays(index, ["AAA", "BBB"], safe=False)
        with pytest.raises(RequestError) as caught:
            parse_arrow(stream_of({"symbol": names}), MOST)
        assert caught.value.status in (400, 422)


def test_batches_may_replace_a_dictionary() -> None:
    chunks = [coded([1, 0], ["AAA", "BBB"]), coded([0], ["CCC"]), coded([1], ["EEE", "DDD"])]
    request = parse_arrow(stream_of({"symbol": pa.chunked_array(chunks)}), MOST)
    assert request.names == ("BBB", "AAA", "CCC", "DDD")


def test_a_dictionary_that_grows_is_refused() -> None:
    chunks = [coded([0], ["AAA"]), coded([1], ["AAA", "BBB"])]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    table = pa.table({"symbol": pa.chunked_array(chunks)})
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    error = refused(parse_arrow, sink.getvalue().to_pybytes(), MOST)
    assert error.what == "body: a dictionary grows in the stream"


FLAT = pa.array([1.0, 2.0])
TRICKS = {
    "run ends": pa.RunEndEncodedArray.from_arrays(pa.array([2], "int32"), pa.array([1.0])),
    "coded numbers": pa.DictionaryArray.from_arrays([0, 0], FLAT),
    "list": pa.array([[1.0], [2.0]]),
    "list view": pa.ListViewArray.from_arrays(pa.array([0, 0], "int32"), pa.array([2, 2], "int32"),
                                              FLAT),
    "fixed list": pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 4), 2),
    "struct": pa.StructArray.from_arrays([FLAT], ["x"]),
    "text view": pa.array(["A" * 100, "B" * 100], pa.string_view()),
    "coded text view": pa.DictionaryArray.from_arrays(
        [0, 0], pa.array(["A"], pa.string_view())
    ),
    "coded list": pa.DictionaryArray.from_arrays([0, 0], pa.array([[1.0]])),
    "bytes": pa.array([b"a", b"b"]),
    "decimal": FLAT.cast(pa.decimal128(10, 2)),
    "union": pa.UnionArray.from_sparse(pa.array([0, 0], "int8"), [FLAT]),
    "extension": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], "int8")),
    "nested dictionary": pa.StructArray.from_arrays([coded([0, 0], ["A"])], ["x"]),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("column", ["symbol", "close", "member"])
def test_columns_that_are_not_flat_are_refused(trick: str, column: str) -> None:
    columns = {"symbol": pa.array(["AAA", "BBB"]), column: TRICKS[trick]}
    error = refused(parse_arrow, stream_of(columns), MOST)
    assert error.field == f"symbols[].{column}"
    times = pa.array(CLOSES[:2], pa.timestamp("ns", tz="UTC"))
    place = "time" if column == "member" else column
    rows = {"time": times, "symbol": ["AAA", "AAA"], "close": FLAT, place: TRICKS[trick]}
    assert refused(parse_history, stream_of(rows), MOST, "5m", "XNYS").field == f"rows[].{place}"


def test_more_batches_than_can_be_meant_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpa.serving.wire._MOST_BATCHES", 3)
    names = pa.array([f"S{k}" for k in range(4)])
    assert len(parse_arrow(stream_of({"symbol": names[:3]}, 1), MOST).names) == 3
    assert "more than 3 record batches" in (
        refused(parse_arrow, stream_of({"symbol": names}, 1), 9).what
    )


def test_a_long_column_name_is_cut_in_the_answer() -> None:
    error = refused(parse_arrow, stream_of({"x" * 10**6: [1.0]}), MOST)
    assert len(str(error)) < 1000
    assert len(error.field) <= 100


@pytest.mark.parametrize("error", [pa.ArrowMemoryError, pa.ArrowNotImplementedError,
                                   pa.ArrowCapacityError, pa.ArrowKeyError])  # fmt: skip
def test_whatever_arrow_raises_is_a_refusal(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise error("malloc of size 7500000000 failed")

    monkeypatch.setattr("dpa.serving.wire._numbers", fails)
    for parse, args in (
        (parse_arrow, (stream_of({"symbol": ["AAA"], "close": [1.0]}), MOST)),
        (parse_history, (history_arrow(panel()), MOST, "5m", "XNYS")),
    ):
        with pytest.raises(RequestError, match="malloc of size") as caught:
            parse(*args)
        assert caught.value.status == 400


# --- fields that are there twice -------------------------------------------------------------

TWICE = [
    ('"nav_usd":1e6,', '"nav_usd":1e6,"nav_usd":2e6,', "nav_usd"),
    ('"nav_usd":1e6,', '"nav_usd" : null, "nav_usd"\n:2e6,', "nav_usd"),
    ('"nav_usd":1e6,', '"nav_usd":{"a":[1]},"nav_usd":2e6,', "nav_usd"),
    ('"nav_usd":1e6,', '"nav_usd":1,"nav\\u005fusd":2e6,', "nav_usd"),
    ('"lot":100', '"lot":100,"lot":100', "symbols[1].lot"),
    ('"lot":100', '"shares":1.5,"shares":-7', "symbols[1].shares"),
    ('"close":10', '"close":' + "9" * 400 + ',"close"\t:10', "symbols[0].close"),
    ('"symbols":[', '"symbols":[{"symbol":"X"}],"symbols":[', "symbols"),
    ('"BBB"', '":\\":",\r"symbol"\r:"BBB"', "symbols[1].symbol"),
]


@pytest.mark.parametrize(("old", "new", "field"), TWICE, ids=range(len(TWICE)))
def test_a_field_that_is_there_twice_is_refused(old: str, new: str, field: str) -> None:
    text = orjson.dumps(BODY).decode().replace('"nav_usd":1000000.0', '"nav_usd":1e6')
    assert text.count(old) == 1
    parse_json(text.encode(), MOST)
    error = refused(parse_json, text.replace(old, new).encode(), MOST)
    assert (error.field, error.what) == (field, f"{field}: is there twice")


def test_a_scalar_that_is_there_twice_in_metadata_is_refused() -> None:
    table = pa.table({"symbol": ["AAA"]})
    text = b'{"time":"2024-07-01T14:35:00Z","nav_usd":1,"prior_nav_usd":1,"nav_usd":2}'
    body = to_stream(table.replace_schema_metadata({b"dpa": text}))
    assert refused(parse_arrow, body, MOST).field == "nav_usd"
    assert refused(parse_risk, b'{"by":"a","why":"b","by":"c"}').field == "by"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.sampled_from('":, \\{}[]aé'), min_size=1, max_size=6),
        min_size=1, max_size=4, unique=True,
    ),
    st.sampled_from([None, 2]), st.booleans(),
)  # fmt: skip
def test_names_that_look_like_fields_are_read(
    names: list[str], indent: int | None, plain: bool
) -> None:
    rows = [{"symbol": name, "shares": 2.0} for name in names]
    text = json.dumps({**BODY, "symbols": rows}, indent=indent, ensure_ascii=plain)
    assert parse_json(text.encode(), MOST).names == tuple(names)
    again = text.replace('"shares"', '"shares": 1.0, "shares"', 1)
    assert refused(parse_json, again.encode(), MOST).field == "symbols[0].shares"


def test_arrow_says_what_is_wrong_with_a_column() -> None:
    def refusal(**columns: Any) -> str:
        scalars = {name: value for name, value in BODY.items() if name != "symbols"}
        table = pa.table({"symbol": ["AAA"], **columns})
        metadata = {b"dpa": json.dumps(scalars).encode()}
        with pytest.raises(RequestError) as caught:
            parse_arrow(to_stream(table.replace_schema_metadata(metadata)), MOST)
        return str(caught.value)

    assert "symbols[].bid: is string, not numbers; convert" in refusal(bid=["20"])
    assert "symbols[].member: is double, not true or false" in refusal(member=[1.0])
    assert "symbols[0].member: null is not true" in refusal(member=pa.array([None], pa.bool_()))
    assert "symbols[0].shares: null is not a number" in refusal(shares=pa.array([None], "double"))
    assert "symbols[].symbol: is int64, not text" in refusal(symbol=[3])
    bare = to_stream(pa.table({"symbol": ["AAA"]}))
    with pytest.raises(RequestError, match=r"metadata.dpa: is missing; put time, nav_usd"):
        parse_arrow(bare, MOST)


def test_arrow_takes_other_widths_dictionaries_and_several_batches() -> None:
    scalars = {name: value for name, value in BODY.items() if name != "symbols"}
    table = pa.table(
        {
            "symbol": pa.array(["AAA", "BBB"]).dictionary_encode(),
            "close": pa.array([10, None], pa.int32()),
            "bid": pa.array([9.5, 20.0], pa.float32()),
        }
    ).replace_schema_metadata({b"dpa": json.dumps(scalars).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=1)
    request = parse_arrow(sink.getvalue().to_pybytes(), MOST)
    assert request.names == ("AAA", "BBB")
    np.testing.assert_array_equal(request.bars["close"], [10.0, np.nan])
    np.testing.assert_array_equal(request.bid, [9.5, 20.0])


def test_who_and_why() -> None:
    parsed = parse_risk(b'{"by": "ana", "why": "odd fills"}')
    assert (parsed.by, parsed.why) == ("ana", "odd fills")
    with pytest.raises(RequestError, match="why: is missing; add it"):
        parse_risk(b'{"by": "ana"}')


# --- history ---------------------------------------------------------------------------------

CLOSES = pd.DatetimeIndex(["2024-07-01 13:35", "2024-07-01 13:40", "2024-07-02 20:00"], tz="UTC")


def panel() -> Panel:
    prices = np.array([[10.0, 20.0], [np.nan, 21.0], [11.0, 22.0]])
    volume = np.array([[5.0, np.nan], [np.nan, 0.0], [7.0, 8.0]])
    return Panel(CLOSES, ("AAA", "BBB"), prices, np.isfinite(prices), "5m", volume=volume)


def history(**columns: Any) -> bytes:
    table = {"time": CLOSES[:2], "symbol": ["AAA", "AAA"], "close": [10.0, 11.0], **columns}
    return to_stream(
        pa.table({name: values for name, values in table.items() if values is not None})
    )


def test_a_history_is_the_panel_it_was_made_from() -> None:
    for content in (history_arrow(panel()), shuffled(history_arrow(panel()))):
        read = parse_history(content, MOST, "5m", "XNYS")
        assert read.times.equals(CLOSES)
        assert read.names == ("AAA", "BBB")
        np.testing.assert_array_equal(read.prices, panel().prices)
        np.testing.assert_array_equal(read.mask, panel().mask)
        assert list(read.extras()) == ["volume"]
        np.testing.assert_array_equal(read.volume, panel().volume)


def shuffled(content: bytes) -> bytes:
    with pa.ipc.open_stream(content) as stream:
        table = stream.read_all()
    return to_stream(table.take(np.random.default_rng(0).permutation(table.num_rows)))


@pytest.mark.parametrize(
    ("columns", "field", "words"),
    [
        ({"close": None}, "rows[].close", "is missing; add the column"),
        ({"close": [10.0, -1.0]}, "rows[1].close", "-1 is not above 0"),
        ({"close": [10.0, np.nan]}, "rows[1].close", "nan is not a finite number"),
        ({"volume": [-1.0, 3.0]}, "rows[0].volume", "-1 is not at least 0"),
        ({"high": [3.0, 3.0], "low": [2.0, 4.0]}, "rows[1].high", "3 is below low, 4"),
        ({"price": [1.0, 1.0]}, "rows[].price", "is not known; the fields are time, symbol"),
        ({"symbol": ["AAA", None]}, "rows[1].symbol", "is missing"),
        ({"time": CLOSES[[0, 0]]}, "rows[1].symbol", "a second row for 'AAA' at this time"),
        ({"time": CLOSES[:2].tz_localize(None)}, "rows[].time", "has no time zone"),
        (
            {"time": CLOSES[:2] + pd.to_timedelta([0, 60 * 365], "D")},
            "rows[1].time",
            "2084-06-16T13:40:00+00:00 is more than 50 years after 2024-07-01T13:35:00+00:00",
        ),
        ({"time": ["a", "b"]}, "rows[].time", "is string, not a timestamp"),
        (
            {"time": CLOSES[:2] + pd.Timedelta(1, "min")},
            "rows[0].time",
            "2024-07-01T13:36:00+00:00 is not the close of a 5m bar of XNYS; stamp bars with",
        ),
    ],
)
def test_a_history_that_cannot_be_is_refused(
    columns: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_history(history(**columns), MOST, "5m", "XNYS")
    assert (caught.value.status, caught.value.field) == (422, field)
    assert str(caught.value).startswith(f"{field}: {words}")
    assert caught.value.cure


# --- answers ---------------------------------------------------------------------------------


def prediction() -> Prediction:
    said: Forecasts = make_forecasts(0, 3, missing=0.3)
    stacked = np.array([[0.1, np.nan, 0.3]] * 3)
    return Prediction(TIME, ("A", "B", "C"), said, stacked, np.abs(stacked))


def test_unknown_numbers_are_null_in_json() -> None:
    answer = orjson.loads(prediction_json(prediction()))
    assert answer["horizons"] == ["5m", "30m", "1d"]
    assert [row["symbol"] for row in answer["symbols"]] == ["A", "B", "C"]
    assert answer["symbols"][1]["stacked"] == [None, None, None]
    forecasts = np.array([row["forecasts"] for row in answer["symbols"]], dtype=float)
    np.testing.assert_array_equal(forecasts.transpose(1, 2, 0), prediction().forecasts.returns)
    assert to_json({"a": np.array([1.0, np.nan]), "b": TIME, 3: np.int8(4)}) == (
        b'{"a":[1.0,null],"b":"2024-07-01T14:35:00+00:00","3":4}'
    )


def test_a_prediction_in_arrow_says_the_same() -> None:
    with pa.ipc.open_stream(prediction_arrow(prediction())) as stream:
        table = stream.read_all()
    said = prediction().forecasts
    assert table["symbol"].to_pylist() == ["A", "B", "C"]
    np.testing.assert_array_equal(
        table["forecast_30m_ridge"].to_numpy(), said.returns[1, said.families.index("ridge")]
    )
    np.testing.assert_array_equal(table["peak"].to_numpy(), said.barriers[0])
    facts = orjson.loads(table.schema.metadata[b"dpa"])
    assert facts["families"] == list(said.families)
