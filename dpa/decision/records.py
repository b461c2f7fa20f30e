"""A decision as JSON and as an Arrow table: the same content in both."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from dpa.decision.decision import Decision
from dpa.decision.explain import Words
from dpa.decision.types import Action, Reason
from dpa.errors import DataError

SCHEMA_VERSION = 1
METADATA = b"decision"
H, F, S = "horizon", "family", "symbol"
RECORD = [
    "symbol", "action", "side", "horizon", "alpha_bps", "cost_bps", "net_bps", "gate",
    "held_weight", "target_weight", "held_shares", "target_shares", "trade_shares", "reason", "why",
]  # fmt: skip
AXES: dict[str, tuple[str, ...]] = {
    "member": (S,), "price": (S,), "bid": (S,), "ask": (S,), "spread_bps": (S,),
    "quote_age_ms": (S,), "adv_usd": (S,), "lot": (S,), "sigma": (S,), "p_peak": (S,),
    "p_valley": (S,), "forecast": (H, F, S), "score": (H, F, S), "samples": (H, F, S),
    "confidence": (H, F, S), "ic": (H, F), "ic_samples": (H, F), "stability": (H, F),
    "online": (H, F), "online_bars": (H,), "covariance": (H, F, F), "barrier_prior": ("barrier",),
    "freshness": (H,), "capacity": (S,), "merit": (H, F), "parity": (H, F), "compressed": (H, F),
    "weight": (H, F), "alpha": (H, S), "cost": (H, S), "net": (H, S), "chosen": (S,),
    "leading": (S,), "may_enter": (S,), "may_trade": (S,), "must_exit": (S,),
    "gate_reason": (S,), "signal": (S,), "wanted": (S,), "banded": (S,),
}  # fmt: skip
_REASONS = np.array([None, *(reason.name.lower() for reason in list(Reason)[1:])], dtype=object)
_ACTIONS = [action.name.lower() for action in Action]
_SIDES = {1: "long", -1: "short", 0: None}


def to_dict(decision: Decision, trace: bool = True) -> dict[str, Any]:
    """A decision for JSON.

    Parameters
    ----------
    decision : Decision
    trace : bool
        With everything behind it.

    Returns
    -------
    dict
        Facts of the whole decision; ``symbols``, a record a symbol with NaN as None; and with
        `trace` a mapping ``trace`` of numpy arrays by the names of ``trace["axes"]``, which tells
        the axes of each, in the order of ``horizons``, ``families`` and ``symbols``.  NaN in them
        is to be written as null, as orjson does and :func:`plain` prepares.

        A record's ``alpha_bps``, ``cost_bps`` and ``net_bps`` are those of the chosen horizon,
        else of the leading one. ``side`` is None unless a horizon is chosen.
    """
    content = _facts(decision)
    content["symbols"] = _records(decision)
    if trace:
        content["trace"] = _trace(decision)
    return content


def _facts(decision: Decision) -> dict[str, Any]:
    market, said, risk = decision.snapshot.market, decision.snapshot.forecasts, decision.risk
    return {
        "schema_version": SCHEMA_VERSION,
        "id": decision.id,
        "account": market.account,
        "time": market.time.isoformat(),
        "moment": market.moment.isoformat(),
        "bar": market.bar,
        "session": market.session,
        "feed": market.feed,
        "nav_usd": _known(market.nav_usd),
        "prior_nav_usd": _known(market.prior_nav_usd),
        "bundle": said.bundle,
        "target": said.target,
        "lag": said.lag,
        "horizons": [horizon.label for horizon in said.horizons],
        "minutes": [horizon.minutes for horizon in said.horizons],
        "families": list(said.families),
        "models": list(said.models),
        "left_out": dict(said.left_out),
        "risk": {
            "level": risk.level.name,
            "why": risk.why,
            "session": risk.session,
            "peak_nav_usd": _known(risk.peak_nav),
            "lasting": risk.lasting,
        },
    }


def _records(decision: Decision) -> list[dict[str, Any]]:
    market, sizes, chosen = decision.snapshot.market, decision.sizes, decision.arbitration
    labels = [*(horizon.label for horizon in decision.snapshot.forecasts.horizons), None]
    words, n = Words(decision), len(market.names)
    place = np.maximum(chosen.leading, 0), np.arange(n)
    known = chosen.leading >= 0
    shares = sizes.shares.tolist()
    rows = zip(
        market.names,
        map(_ACTIONS.__getitem__, sizes.action.tolist()),
        map(_SIDES.__getitem__, chosen.side.tolist()),
        map(labels.__getitem__, chosen.chosen.tolist()),
        _listed(np.where(known, decision.blend.alpha[place], np.nan)),
        _listed(np.where(known, chosen.cost[place], np.nan)),
        _listed(np.where(known, chosen.net[place], np.nan)),
        _listed(decision.gates.barrier),
        _listed(market.weight),
        _listed(sizes.weight),
        market.shares.tolist(),
        shares,
        (sizes.shares - market.shares).tolist(),
        _REASONS[sizes.reason].tolist(),
        map(words.why, range(n)),
        strict=True,
    )
    return [dict(zip(RECORD, row, strict=True)) for row in rows]


def _trace(decision: Decision) -> dict[str, Any]:
    market, said = decision.snapshot.market, decision.snapshot.forecasts
    beliefs, blended, chosen = decision.beliefs, decision.blend, decision.arbitration
    gates, sizes = decision.gates, decision.sizes
    barriers = (
        said.barriers if said.barriers is not None else np.full((2, len(market.names)), np.nan)
    )
    values = (
        market.member, market.price, market.bid, market.ask, market.spread_bps,
        market.quote_age_ms, market.adv_usd, market.lot, said.sigma, barriers[0],
        barriers[1], said.returns, beliefs.scores, beliefs.n_samples,
        blended.confidence, beliefs.ic, beliefs.ic_samples, beliefs.stability,
        beliefs.online, beliefs.online_bars, beliefs.covariance, beliefs.barrier_prior,
        blended.freshness, blended.capacity, blended.merit, blended.parity, blended.compressed,
        blended.weights, blended.alpha, chosen.cost, chosen.net, chosen.chosen,
        chosen.leading, gates.may_enter, gates.may_trade, gates.must_exit,
        _REASONS[gates.reason].tolist(), sizes.signal, sizes.wanted, sizes.banded,
    )  # fmt: skip
    return {"axes": {name: list(axes) for name, axes in AXES.items()}} | dict(
        zip(AXES, values, strict=True)
    )


def plain(value: Any) -> Any:
    """`value` with arrays as nested lists and NaN as None, for any writer of JSON."""
    if isinstance(value, np.ndarray):
        return _listed(value)
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return _known(value) if isinstance(value, float) else value


def _known(value: float) -> float | None:
    return value if value - value == 0 else None


def _listed(values: np.ndarray[Any, Any]) -> list[Any]:
    """Nested lists with None for what is not finite."""
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
        if missing.any():
            values = values.astype(object)
            values[missing] = None
    return values.tolist()  # type: ignore[no-any-return]


def to_arrow(decision: Decision) -> pa.Table:
    """A decision as one row a symbol.

    Columns are those of the records, then every array of the trace with a symbol axis: lists of
    ``n_horizons``, and of ``n_horizons`` lists of ``n_families``, both of fixed size. NaN stays
    NaN there and is null in the records' columns. All else is JSON in the schema's metadata under
    ``decision``.
    """
    content = to_dict(decision, trace=True)
    trace, records = content.pop("trace"), content.pop("symbols")
    columns = {
        name: pa.array([record[name] for record in records], _record_type(name)) for name in RECORD
    }
    for name, axes in AXES.items():
        if axes[-1] == S:
            columns[name] = _column(trace.pop(name))
    facts = json.dumps(plain({**content, "trace": trace}), separators=(",", ":"))
    return pa.table(columns).replace_schema_metadata({METADATA: facts.encode()})


def _record_type(name: str) -> pa.DataType:
    texts = ("symbol", "action", "side", "horizon", "reason", "why")
    return pa.string() if name in texts else pa.float64()


def _column(values: Any) -> pa.Array:
    """The last axis as rows, what is before it as lists of fixed size."""
    if isinstance(values, list):
        return pa.array(values, pa.string())
    rows = np.moveaxis(values, -1, 0)
    column = pa.array(np.ascontiguousarray(rows).reshape(-1))
    for length in reversed(rows.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, length)
    return column


def from_arrow(table: pa.Table) -> dict[str, Any]:
    """What :func:`to_dict` gives, trace included, from :func:`to_arrow`'s table.

    Raises
    ------
    DataError
        When the table is none of a decision, or of another schema version.
    """
    try:
        content: dict[str, Any] = json.loads((table.schema.metadata or {})[METADATA])
        version = content["schema_version"]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"the table is no decision: metadata {METADATA.decode()!r} is missing or damaged",
            "give a table that to_arrow made",
        ) from error
    if version != SCHEMA_VERSION:
        raise DataError(
            f"schema_version {version!r} of the decision is not {SCHEMA_VERSION}",
            "read it with the version of dpa that wrote it",
        )
    facts = content.pop("trace")
    columns = [table[name].to_pylist() for name in RECORD]
    content["symbols"] = [dict(zip(RECORD, row, strict=True)) for row in zip(*columns, strict=True)]
    sizes = {H: len(content["horizons"]), F: len(content["families"])}
    trace: dict[str, Any] = {"axes": facts["axes"]}
    for name, axes in AXES.items():
        if axes[-1] == S:
            trace[name] = _rows(table[name], [sizes[axis] for axis in axes[:-1]])
        else:
            kind = np.int64 if name == "online_bars" else np.float64
            trace[name] = np.array(facts[name], dtype=kind)
    content["trace"] = trace
    return content


def _rows(column: pa.ChunkedArray, shape: list[int]) -> Any:
    """The array :func:`_column` was made of."""
    if pa.types.is_string(column.type):
        return column.to_pylist()
    flat = column.combine_chunks()
    for _ in shape:
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    return np.ascontiguousarray(np.moveaxis(values, 0, -1))
