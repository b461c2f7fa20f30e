"""A decision as the service sends it, in words for the terminal."""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dpa.errors import DataError
from dpa.text import columns

Facts = list[tuple[str, str]]


def status_words(
    ready: Mapping[str, Any], bundle: Mapping[str, Any] | None, decision: Mapping[str, Any] | None
) -> str:
    """Whether the service answers, with what, and what it decided last.

    Parameters
    ----------
    ready, bundle, decision : mapping
        As ``/readyz``, ``/v1/bundle`` and ``/v1/decisions/latest`` answer; none where they refuse.
    """
    waits = [f"{stage}: {word}" for stage, word in ready["stages"].items() if word != "ok"]
    facts: Facts = [("ready", "yes" if ready["ready"] else "; ".join(["no", *waits]))]
    if bundle is not None:
        facts += _bundle_facts(bundle)
    facts += [("decision", "none yet")] if decision is None else _decision_facts(decision)
    return _aligned(facts)


def _bundle_facts(bundle: Mapping[str, Any]) -> Facts:
    refused = bundle.get("refused")
    labels = [h["label"] if isinstance(h, Mapping) else str(h) for h in bundle["horizons"]]
    facts = [
        ("bundle", f"{bundle['version']}, {bundle['interval']} bars of {bundle['calendar']}"),
        ("forecasts", f"{', '.join(labels)} by {', '.join(bundle['families'])}"),
        ("names", str(len(bundle["names"]))),
        ("newest bar", time_words(bundle["newest_bar"])),
    ]
    if bundle.get("trained_until"):
        facts.insert(1, ("trained until", time_words(bundle["trained_until"])))
    if refused:
        facts.append(("refused", f"{refused['reference']}: {refused['reason']}"))
    return facts


def _decision_facts(decision: Mapping[str, Any]) -> Facts:
    symbols = decision["symbols"]
    traded = sum(1 for record in symbols if record["trade_shares"])
    held, target = (_gross(symbols, key) for key in ("held_weight", "target_weight"))
    nav = _number(decision["nav_usd"], ",.0f")
    risk = decision["risk"]
    reasons = Counter(record["reason"] for record in symbols if record["reason"])
    facts = [
        ("decision", f"{decision['id']} of account {decision['account']}"),
        ("bar", time_words(decision["time"])),
        ("trades", f"{traded} of {len(symbols)} symbols"),
        (
            "gross",
            f"{held} held, {target} wanted, of NAV {nav} USD",
        ),
        ("risk", risk["level"] + (f": {risk['why']}" if risk["why"] else "")),
    ]
    facts += [("left out", f"{family}: {why}") for family, why in decision["left_out"].items()]
    if reasons:
        counts = (f"{reason.replace('_', ' ')} {n}" for reason, n in reasons.most_common())
        facts.append(("why not more", ", ".join(counts)))
    return facts


def explain_words(decision: Mapping[str, Any], symbol: str) -> str:
    """Every stage's numbers for one symbol.

    Parameters
    ----------
    decision : mapping
        As :func:`dpa.decision.records.to_dict` gives it, with trace.
    symbol : str

    Raises
    ------
    DataError
        When the symbol is not in the decision; names that are near are named.
    """
    names = [record["symbol"] for record in decision["symbols"]]
    if symbol not in names:
        near = difflib.get_close_matches(symbol, names, 3, 0.5) or names[:3]
        raise DataError(f"{symbol!r} is not in the decision", f"there is {', '.join(near)}, ...")
    k = names.index(symbol)
    record, trace = decision["symbols"][k], decision.get("trace") or {}
    parts = [_aligned(_record_facts(decision, record))]
    if trace:
        parts += [
            "Horizons, bps\n" + _horizons(decision, trace, k),
            "Families\n" + _families(decision, trace, k),
            "Gates\n" + _aligned(_gate_facts(record, trace, k)),
            "Size\n" + _aligned(_size_facts(record, trace, k)),
        ]
    return "\n\n".join(parts)


def _record_facts(decision: Mapping[str, Any], record: Mapping[str, Any]) -> Facts:
    risk = decision["risk"]
    return [
        (record["symbol"], record["action"]),
        ("target", _position(record["target_shares"], record["target_weight"])),
        ("held", _position(record["held_shares"], record["held_weight"])),
        ("why not more", record["why"] or "nothing keeps it from more"),
        ("account", f"{decision['account']}, risk {risk['level']}"),
        ("bar", time_words(decision["time"])),
        ("bundle", decision["bundle"]),
        ("decision", decision["id"]),
        *(("left out", f"{family}: {why}") for family, why in decision["left_out"].items()),
    ]


def _horizons(decision: Mapping[str, Any], trace: Mapping[str, Any], k: int) -> str:
    rows = []
    for h, label in enumerate(decision["horizons"]):
        chosen, leading = trace["chosen"][k] == h, trace["leading"][k] == h
        rows.append(
            (
                label,
                _number(trace["freshness"][h], ".3f"),
                _number(trace["alpha"][h][k], "+.2f"),
                _number(trace["cost"][h][k], ".2f"),
                _number(trace["net"][h][k], "+.2f"),
                "chosen" if chosen else "leading" if leading else "",
            )
        )
    return columns(("horizon", "freshness", "alpha", "cost", "net", ""), rows)


_FAMILY_COLUMNS = (
    ("forecast", "+.4f"),
    ("score", "+.2f"),
    ("samples", ".0f"),
    ("ic", "+.4f"),
    ("ic_samples", ".0f"),
    ("stability", ".3f"),
    ("confidence", ".4f"),
    ("merit", "+.4f"),
    ("online", ".3f"),
    ("weight", ".3f"),
)


def _families(decision: Mapping[str, Any], trace: Mapping[str, Any], k: int) -> str:
    rows = []
    for h, label in enumerate(decision["horizons"]):
        for f, family in enumerate(decision["families"]):
            cells = [_of_symbol(trace[name][h][f], k) for name, _ in _FAMILY_COLUMNS]
            forms = (form for _, form in _FAMILY_COLUMNS)
            shown = (_number(cell, form) for cell, form in zip(cells, forms, strict=True))
            rows.append((label, family, *shown))
    header = ("horizon", "family", *(name.replace("_", " ") for name, _ in _FAMILY_COLUMNS))
    return columns(header, rows)


def _of_symbol(value: Any, k: int) -> Any:
    """The number of a symbol, or the one of all symbols."""
    return value if value is None or isinstance(value, int | float) else value[k]


def _gate_facts(record: Mapping[str, Any], trace: Mapping[str, Any], k: int) -> Facts:
    peak, valley = (_number(trace[name][k], ".3f") for name in ("p_peak", "p_valley"))
    barrier = _number(record["gate"], ".3f")
    quote = (_number(trace[name][k], ",.4f") for name in ("bid", "ask"))
    return [
        ("barrier", f"g {barrier}: p(peak) {peak}, p(valley) {valley}"),
        ("quote", f"{' / '.join(quote)} USD"),
        ("spread", f"{_number(trace['spread_bps'][k], '.2f')} bps"),
        ("age", f"{_number(trace['quote_age_ms'][k], '.0f')} ms"),
        ("traded a day", f"{_number(trace['adv_usd'][k], ',.0f')} USD"),
        *(
            (name.replace("_", " "), "yes" if trace[name][k] else "no")
            for name in ("member", "may_enter", "may_trade", "must_exit")
        ),
    ]


def _size_facts(record: Mapping[str, Any], trace: Mapping[str, Any], k: int) -> Facts:
    return [
        ("signal", _number(trace["signal"][k], "+.3f")),
        ("held", _percent(record["held_weight"])),
        ("wanted", _percent(trace["wanted"][k])),
        ("after the band", _percent(trace["banded"][k])),
        ("target", _position(record["target_shares"], record["target_weight"])),
        ("traded", f"{_number(record['trade_shares'], '+,g')} shares"),
    ]


def time_words(text: str | None) -> str:
    """A time as the service writes it, to the minute; a dash for none."""
    if not text:
        return "-"
    return f"{pd.Timestamp(text).tz_convert('UTC'):%Y-%m-%d %H:%M} UTC"


def _gross(symbols: Sequence[Mapping[str, Any]], key: str) -> str:
    return f"{sum(abs(record[key] or 0.0) for record in symbols):.1%}"


def _number(value: Any, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:{form}}"


def _percent(value: Any) -> str:
    return "-" if value is None else f"{value:+.2%} of NAV"


def _position(shares: Any, weight: Any) -> str:
    return f"{_number(shares, ',g')} shares, {_percent(weight)}"


def _aligned(facts: Facts) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name.ljust(width)}  {words}" for name, words in facts)
