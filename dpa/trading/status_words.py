"""A trader's status for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from dpa.text import columns
from dpa.trading.cash import difference_words

NEWEST = 5  # alerts and refusals shown
UNKNOWN = "-"


def status_words(status: Mapping[str, Any]) -> str:
    """The status as lines of text.

    Parameters
    ----------
    status : mapping
        As ``GET /v1/trading`` answers, or :func:`dpa.trading.status.status_on_disk`.
    """
    facts = list(_facts(status))
    width = max(len(name) for name, _ in facts)
    parts = ["\n".join(f"{name:<{width}}  {text}" for name, text in facts)]
    for title, header, rows in _tables(status):
        if rows:
            parts.append(f"{title}\n{columns(header, rows)}")
    for name in ("refusals", "alerts"):
        newest = [_remark(each) for each in status[name][-NEWEST:]]
        if newest:
            parts.append("\n".join([f"newest {name}", *newest]))
    return "\n\n".join(parts)


def _facts(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    why = f": {status['why']}" if status.get("why") else ""
    yield "trader", f"{status['state']}{why}"
    by = f" ({status['level_by']}: {status['level_why']})" if status.get("level_by") else ""
    yield "level", f"{status['level'] or UNKNOWN}{by}"
    link = "connected" if status.get("connected") else "not connected"
    broker = status.get("broker") or "broker"
    yield "account", f"{status.get('account') or UNKNOWN}, {broker} {link}"
    if status.get("bar"):
        decided = status.get("decision") or {}
        binds = f"; the decision binds {decided['binds']}" if decided.get("binds") else ""
        because = f" ({decided['because']})" if decided.get("because") else ""
        yield "bar", f"{status['bar']}{binds}{because}"
    if status.get("nav") is not None:
        yield "NAV", f"{_usd(status['nav'])}, cash {_usd(status.get('cash'))}"
        if status.get("cash_difference"):
            yield "cash", f"{difference_words(status['cash_difference'])}; see 'dpa trade adopt'"
        today, total = status.get("pnl_today"), status.get("pnl_total")
        yield "profit", f"today {_usd(today, '+')}, in all {_usd(total, '+')}, with fees"
    if status["lease"].get("holder"):
        yield "lease", str(status["lease"]["holder"])


def _tables(
    status: Mapping[str, Any],
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    yield (
        "limits",
        ["", "now", "limit", "used"],
        [
            [
                limit["name"],
                _amount(limit["value"], limit["unit"]),
                _amount(limit["limit"], limit["unit"]),
                UNKNOWN if limit["used"] is None else f"{limit['used']:.0%}",
            ]
            for limit in status["limits"]
        ],
    )
    yield (
        "positions",
        ["symbol", "shares", "cost", "price", "value", "weight", "open profit"],
        [
            [
                position["symbol"],
                f"{position['shares']:,.0f}",
                f"{position['average_cost']:.4f}",
                UNKNOWN if position["price"] is None else f"{position['price']:.4f}",
                _usd(position["value"]),
                UNKNOWN if position["weight"] is None else f"{position['weight']:.2%}",
                _usd(position["unrealised"], "+"),
            ]
            for position in status["positions"]
        ],
    )
    yield (
        "orders",
        ["symbol", "side", "shares", "filled", "limit", "state", "purpose", "intent"],
        [
            [
                order["symbol"],
                order["side"],
                f"{order['shares']:,}",
                f"{order['filled']:,.0f}",
                UNKNOWN if order["limit"] is None else f"{order['limit']:.4f}",
                order["state"],
                order["purpose"],
                order["ref"],
            ]
            for order in status["orders"]
        ],
    )


def _remark(told: Mapping[str, Any]) -> str:
    kind = told.get("symbol") or told.get("severity") or told.get("code") or ""
    return f"  {told.get('at', '')}  {kind}  {told.get('what', '')}"


def _usd(value: float | None, sign: str = "") -> str:
    return UNKNOWN if value is None else f"{value:{sign},.2f} USD"


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.2%}" if unit == "of NAV" else f"{value:,.0f}"
