"""The report of a session as files: ``report.json`` and ``report.html``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpa.runs import write_atomically
from dpa.trading.intents import record_of
from dpa.trading.report.session import Costs, SessionReport, plain

SCHEMA_VERSION = 1


def write_report(report: SessionReport, folder: Path) -> tuple[Path, Path]:
    """Write the report as JSON and as a page that opens offline.

    Parameters
    ----------
    report : SessionReport
    folder : Path
        Made where it does not exist.

    Returns
    -------
    tuple of Path
        The JSON document and the page.
    """
    from dpa.trading.report.page import render  # pictures take a moment to import

    folder.mkdir(parents=True, exist_ok=True)
    document, page = folder / "report.json", folder / "report.html"
    write_atomically(document, json.dumps(to_dict(report), indent=1) + "\n")
    write_atomically(page, render(report))
    return document, page


def to_dict(report: SessionReport) -> dict[str, Any]:
    """The report for JSON: money as text, what is unknown as None."""
    facts = report.facts
    found: dict[str, Any] = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "account": facts.account,
            "begun": facts.begun,
            "ended": report.last_at,
            "bars": report.bars,
            "bars_without_decision": report.without_decision,
            "decisions": dict(report.bound),
            "link_up_share": report.link_share,
            "nav_usd": report.nav,
            "change_usd": report.change,
            "realised_usd": report.realised,
            "fees_usd": report.fees,
            "fees_pending": report.fees_pending,
            "fees_in_other_currencies": facts.foreign_fees,
            "cash_difference_usd": facts.cash_difference,
            "unrealised_usd": report.unrealised,
            "costs": {"measured": _costs(report.measured), "compared": _costs(report.compared)},
            "limits": [{**asdict(limit), "share": limit.share} for limit in report.limits],
            "trades": [{**asdict(t), "side": t.side.value} for t in report.trades],
            "names": [asdict(name) for name in report.names],
            "orders": [
                {
                    **record_of(cost.intent),
                    "filled": cost.filled,
                    "price": cost.price,
                    "shortfall_bps": cost.shortfall_bps,
                    "fee_bps": cost.fee_bps,
                    "total_bps": cost.total_bps,
                }
                for cost in report.costs
            ],
            "outcomes": dict(report.outcomes),
            "refusals": [{"at": note.at, **note.facts} for note in report.refusals],
            "left_out": dict(report.left_out),
            "levels": [{"at": note.at, **note.facts} for note in report.levels],
            "alerts": [{"at": note.at, **note.facts} for note in report.alerts],
        }
    )
    return found


def _costs(costs: Costs) -> dict[str, Any]:
    return asdict(costs)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return plain(value)
