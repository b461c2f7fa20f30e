"""The report of a session as one HTML file that opens offline."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

from dpa.research.report.frame import Picture, Tile, render_page
from dpa.research.report.style import moment
from dpa.research.report.tables import Table
from dpa.trading.report import pictures
from dpa.trading.report.session import SessionReport
from dpa.trading.report.text import (
    UNKNOWN,
    bps,
    comparison,
    counted,
    dollars,
    level,
    share,
    usd,
)

OPEN_ROWS = 15


@dataclass(frozen=True)
class Verdict:
    """The head of the page."""

    answer: str
    reason: str


@dataclass(frozen=True)
class Section:
    """A heading with a picture, a table, or both."""

    title: str
    caption: str
    picture: Picture | None = None
    table: Table | None = None
    css: str = ""


def render(report: SessionReport) -> str:
    """The page of a report."""
    facts = report.facts
    name = f"{facts.account} {facts.begun:%Y-%m-%d}"
    return render_page(
        "dpa.trading.report",
        run=SimpleNamespace(manifest=SimpleNamespace(run_id=name)),
        report=report,
        verdict=_verdict(report),
        tiles=list(_tiles(report)),
        sections=list(_sections(report)),
    )


def _verdict(report: SessionReport) -> Verdict:
    answer = f"NAV {dollars(report.nav)}; since the prior close {dollars(report.change)}."
    measured = report.measured
    reason = (
        f"{len(report.facts.fills)} fills in {len(report.trades)} trades; "
        f"cost {bps(measured.total_bps)} with fees. Model: "
        f"{comparison(report.compared, measured)}. Level: {level(report)}."
    )
    return Verdict(answer, reason)


def _tiles(report: SessionReport) -> Iterator[Tile]:
    yield Tile("realised", usd(report.realised), "USD, before fees")
    pending = report.fees_pending
    told = f"USD, {pending} not told" if pending else "USD"
    yield Tile("fees", usd(report.fees), told)
    yield Tile("unrealised", usd(report.unrealised), "USD, of what is held")
    if report.facts.cash_difference:
        words = "USD, in the broker's cash and not in the ledger"
        yield Tile("cash difference", usd(report.facts.cash_difference), words)
    yield Tile("cost", bps(report.measured.total_bps), "with fees, against the mid decided on")
    yield Tile("bars", str(report.bars), f"{report.without_decision} without a decision")
    yield Tile("refused", str(len(report.refusals)), counted(report.refused))
    yield Tile("link up", share(report.link_share), "of the time")


def _sections(report: SessionReport) -> Iterator[Section]:
    yield from _worth(report)
    yield from _profits(report)
    yield from _costs(report)
    yield Section(
        "Limits, and how near they came",
        "The most there was at any bar, beside the limit. Losses count from the prior close and "
        "from the highest NAV of the session.",
        table=_limits(report),
    )
    yield from _not_done(report)
    yield from _events(report)


def _worth(report: SessionReport) -> Iterator[Section]:
    if report.values:
        title, caption = "What the account was worth", "At the last prices known at each bar."
        figure = pictures.worth(report)
        yield Section(title, caption, Picture("worth", title, caption, figure))
        title, caption = "Exposure", "At each bar, fractions of NAV."
        figure = pictures.exposure(report)
        yield Section(title, caption, Picture("exposure", title, caption, figure))


def _profits(report: SessionReport) -> Iterator[Section]:
    if report.names:
        title = "Name by name"
        caption = "Realised profit less the fees that are known, largest first."
        picture = Picture("names", title, caption, pictures.by_name(report.names))
        yield Section(title, caption, picture, _names(report))
    if report.trades:
        yield Section("Trades", "Positions from flat to flat, and those still open.",
                      table=_trades(report))  # fmt: skip


def _costs(report: SessionReport) -> Iterator[Section]:
    if report.costs:
        title = "What orders cost"
        caption = (
            "Each dot is an order: expected cost across, measured cost with fees up. Above the "
            "line it cost more than the model said. Orders with an unknown side are left out."
        )
        picture = None
        if report.compared.orders:
            picture = Picture("costs", title, caption, pictures.costs(report.costs))
        yield Section(title, caption, picture, _orders(report))


def _not_done(report: SessionReport) -> Iterator[Section]:
    if report.refusals:
        yield Section("Refused", "Intents that nothing was sent of, and why.",
                      table=_refusals(report), css="wide")  # fmt: skip
    if report.left_out:
        rows = tuple((str(n), why) for why, n in report.left_out.most_common())
        columns = (("symbols", True), ("why", False))
        yield Section(
            "Left out", "Symbols of decisions that were not made orders.",
            table=Table("left_out", columns, rows, OPEN_ROWS), css="wide",
        )  # fmt: skip


def _events(report: SessionReport) -> Iterator[Section]:
    columns = (("time", False), ("", False), ("what", False))
    alerts = tuple(
        (moment(n.at.isoformat()), str(n.facts["severity"]), str(n.facts["what"]))
        for n in report.alerts
    )
    if alerts:
        table = Table("alerts", columns, alerts, OPEN_ROWS)
        yield Section("Alerts", "In order.", table=table, css="wide")
    levels = tuple(
        (moment(n.at.isoformat()), str(n.facts["level"]), f"{n.facts['by']}: {n.facts['why']}")
        for n in report.levels
    )
    if levels:
        table = Table("levels", columns, levels, OPEN_ROWS)
        yield Section("The switch", "Who moved it, and why.", table=table, css="wide")


def _names(report: SessionReport) -> Table:
    columns = (("name", False), ("traded, USD", True), ("realised", True), ("fees", True),
               ("unrealised", True), ("held", True))  # fmt: skip
    rows = tuple(
        (n.symbol, usd(n.traded, 0), usd(n.realised), usd(n.fees), usd(n.unrealised), str(n.held))
        for n in report.names
    )
    return Table("names", columns, rows, OPEN_ROWS)


def _trades(report: SessionReport) -> Table:
    columns = (("name", False), ("side", False), ("shares", True), ("opened", False),
               ("closed", False), ("entry", True), ("exit", True), ("fees", True),
               ("P&L", True))  # fmt: skip
    rows = tuple(
        (
            t.symbol,
            t.side.value,
            str(t.shares),
            moment(t.opened.isoformat()),
            "open" if t.closed is None else moment(t.closed.isoformat()),
            usd(t.entry, 4),
            "–" if t.exit is None else usd(t.exit, 4),
            usd(t.fees),
            usd(t.realised),
        )
        for t in report.trades
    )
    return Table("trades", columns, rows, OPEN_ROWS)


def _orders(report: SessionReport) -> Table:
    columns = (("decided", False), ("name", False), ("side", False), ("why", False),
               ("shares", True), ("mid", True), ("price", True), ("shortfall", True),
               ("with fees", True), ("expected", True))  # fmt: skip
    rows = tuple(
        (
            moment(c.intent.decided_at.isoformat()),
            c.intent.symbol,
            c.intent.side.value,
            c.intent.purpose.value,
            f"{c.filled} of {c.intent.shares}",
            usd(c.intent.reference, 4),
            usd(c.price, 4),
            bps(c.shortfall_bps),
            bps(c.total_bps),
            bps(c.expected_bps),
        )
        for c in report.costs
    )
    return Table("orders", columns, rows, OPEN_ROWS)


def _limits(report: SessionReport) -> Table:
    columns = (("limit", False), ("most", True), ("allowed", True), ("share", True),
               ("when", False))  # fmt: skip
    rows = tuple(
        (
            limit.name,
            UNKNOWN if limit.most is None else f"{limit.most:,.5g}",
            f"{limit.limit:,.6g}",
            share(limit.share),
            "–" if limit.at is None else moment(limit.at.isoformat()),
        )
        for limit in report.limits
    )
    return Table("limits", columns, rows, OPEN_ROWS)


def _refusals(report: SessionReport) -> Table:
    columns = (("time", False), ("kind", False), ("why", False))
    rows = tuple(
        (moment(n.at.isoformat()), str(n.facts["code"]), str(n.facts["what"]))
        for n in report.refusals
    )
    return Table("refusals", columns, rows, OPEN_ROWS)
