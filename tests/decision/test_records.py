"""JSON and Arrow tell the same, and what the decision holds."""

import json
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dpa.decision.decision import Decision
from dpa.decision.pipeline import decide
from dpa.decision.records import AXES, RECORD, from_arrow, plain, to_arrow, to_dict
from dpa.decision.types import Action, Reason
from dpa.errors import DataError
from tests.decision.conftest import FAMILIES, HORIZONS, make_forecasts, make_market
from tests.decision.deciding import decided, scene
from tests.decision.streams import learned, quick, snapshots, traded


def decisions() -> list[Decision]:
    """Of bars before and after learning, and of a market with every defect."""
    bare = make_forecasts(3, 5, barriers=False)
    last = snapshots()[-1]
    spoilt = scene(5)
    return [
        traded()[0],
        traded()[-1],
        decide(last, learned(), quick()),
        decided(*spoilt),
        decided(make_market(3, 5, nav_usd=math.nan, prior_nav_usd=math.nan), bare, math.nan),
        decided(make_market(3, 1), make_forecasts(3, 1, families=("ridge",)), 50.0),
    ]


def same(one: Any, other: Any) -> None:
    """Equal content: NaN equals NaN, arrays equal arrays of the same type."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("place", range(6))
def test_arrow_and_back(place: int) -> None:
    decision = decisions()[place]
    content, table = to_dict(decision), to_arrow(decision)
    same(from_arrow(table), content)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    same(from_arrow(pa.ipc.open_stream(sink.getvalue()).read_all()), content)


def test_a_table_in_chunks_is_read_too() -> None:
    table = to_arrow(traded()[-1])
    parts = pa.concat_tables([table.slice(0, 5), table.slice(5)])
    same(from_arrow(parts), to_dict(traded()[-1]))


@pytest.mark.parametrize("place", range(6))
def test_json_is_strict(place: int) -> None:
    content = to_dict(decisions()[place])
    text = json.dumps(plain(content), allow_nan=False)
    read = json.loads(text)
    assert read["symbols"] == content["symbols"]
    assert read["trace"]["alpha"] == plain(content["trace"]["alpha"])


def test_records_tell_what_was_decided() -> None:
    decision = traded()[-1]
    market, sizes, chosen = decision.snapshot.market, decision.sizes, decision.arbitration
    for k, record in enumerate(to_dict(decision, False)["symbols"]):
        assert list(record) == RECORD
        assert record["symbol"] == market.names[k]
        assert record["action"] == Action(int(sizes.action[k])).name.lower()
        assert record["target_shares"] == sizes.shares[k]
        assert record["trade_shares"] == sizes.shares[k] - market.shares[k]
        assert record["target_weight"] == sizes.weight[k]
        assert record["reason"] == (
            Reason(int(sizes.reason[k])).name.lower() if sizes.reason[k] else None
        )
        place = chosen.leading[k]
        assert record["alpha_bps"] == decision.blend.alpha[place, k]
        assert record["net_bps"] == chosen.net[place, k]
        if chosen.chosen[k] >= 0:
            assert record["horizon"] == decision.snapshot.forecasts.horizons[place].label
            assert record["side"] == {1: "long", -1: "short"}[int(chosen.side[k])]
        else:
            assert record["horizon"] is None
            assert record["side"] is None


def test_the_whole_is_told_once() -> None:
    decision = replace(traded()[-1])
    content = to_dict(decision, False)
    assert "trace" not in content
    assert content["id"] == decision.id
    assert content["time"] == decision.snapshot.market.time.isoformat()
    assert content["risk"]["level"] == "NORMAL"
    assert content["horizons"] == ["5m", "30m"]
    assert content == decision.to_dict(trace=False)


def test_axes_are_those_of_the_arrays() -> None:
    decision = traded()[-1]
    trace = to_dict(decision)["trace"]
    sizes = {"horizon": 2, "family": 2, "symbol": 12, "barrier": 2}
    assert list(trace) == ["axes", *AXES]
    for name, axes in trace["axes"].items():
        assert np.shape(trace[name]) == tuple(sizes[axis] for axis in axes), name
    np.testing.assert_array_equal(trace["score"], decision.beliefs.scores)
    np.testing.assert_array_equal(trace["confidence"], decision.blend.confidence)
    np.testing.assert_array_equal(trace["weight"], decision.blend.weights)
    np.testing.assert_array_equal(trace["p_valley"], decision.snapshot.forecasts.barriers[1])
    np.testing.assert_array_equal(trace["banded"], decision.sizes.banded)
    np.testing.assert_array_equal(trace["must_exit"], decision.gates.must_exit)
    np.testing.assert_array_equal(trace["online_bars"], decision.beliefs.online_bars)


def test_columns_of_the_table() -> None:
    table = to_arrow(traded()[-1])
    assert table.num_rows == 12
    assert table["alpha"].type == pa.list_(pa.float64(), 2)
    assert table["score"].type == pa.list_(pa.list_(pa.float64(), 2), 2)
    row = table["score"][3].as_py()
    np.testing.assert_array_equal(row, traded()[-1].beliefs.scores[:, :, 3])
    assert json.loads(table.schema.metadata[b"decision"])["bundle"] == "bundle-0"


def test_other_tables_are_refused() -> None:
    table = to_arrow(traded()[-1])
    with pytest.raises(DataError, match="no decision"):
        from_arrow(pa.table({"x": [1]}))
    with pytest.raises(DataError, match="no decision"):
        from_arrow(table.replace_schema_metadata({b"decision": b"{"}))
    with pytest.raises(DataError, match="schema_version 9"):
        from_arrow(table.replace_schema_metadata({b"decision": b'{"schema_version": 9}'}))


def test_part_of_a_decision_is_told_too() -> None:
    decision = traded()[-1].only(("S005", "S002"))
    whole = to_dict(traded()[-1], False)["symbols"]
    assert to_dict(decision, False)["symbols"] == [whole[5], whole[2]]
    same(from_arrow(decision.to_arrow()), to_dict(decision))


def test_five_hundred_symbols_are_told_in_milliseconds() -> None:
    """3 ms for the records and 2 ms for the trace, CPU, alone; here with room for neighbours."""
    said = make_forecasts(0, 500, horizons=tuple(HORIZONS), families=FAMILIES, missing=0.1)
    alpha = said.volatility * np.random.default_rng(0).normal(0, 0.1, said.volatility.shape)
    decision = decided(make_market(0, 500), said, alpha)

    def least(trace: bool) -> float:
        seconds = []
        for _ in range(7):
            begun = time.process_time()
            to_dict(decision, trace)
            seconds.append(time.process_time() - begun)
        return min(seconds)

    assert least(False) < 0.012
    assert least(True) < 0.02
