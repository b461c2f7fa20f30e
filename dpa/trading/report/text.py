"""The report of a session for a terminal."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal

from dpa.trading.cash import difference_words
from dpa.trading.report.session import Costs, Nearness, SessionReport, Trade

UNKNOWN = "unknown"
MOST_ROWS = 20


def usd(value: Decimal | None, digits: int = 2) -> str:
    """Money; ``unknown`` where it is."""
    if value is None or not value.is_finite():
        return UNKNOWN
    rounded = round(value, digits)
    return f"{rounded if rounded else abs(rounded):,.{digits}f}"


def dollars(value: Decimal | None) -> str:
    """Money with its unit; ``unknown`` where it is."""
    return UNKNOWN if value is None or not value.is_finite() else f"{usd(value)} USD"


def bps(value: float | None) -> str:
    """Basis points; ``unknown`` where they are."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.2f} bps"


def share(value: float | None) -> str:
    """A fraction as a percentage; ``unknown`` where it is."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.1%}"


def counted(counts: Counter[str]) -> str:
    """Counts in a line, most first; ``none`` where there are none."""
    return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "none"


def lines(report: SessionReport) -> list[str]:
    """The report as lines of text.

    Parameters
    ----------
    report : SessionReport
    """
    return [line.rstrip() for line in _lines(report)]


def _lines(report: SessionReport) -> Iterator[str]:
    facts = report.facts
    yield f"account     {facts.account}"
    yield f"time        {facts.begun:%Y-%m-%d %H:%M:%S} to {report.last_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"level       {level(report)}"
    yield f"bars        {report.bars}, without a decision {report.without_decision}"
    yield f"decisions   {counted(report.bound)}"
    yield f"link up     {share(report.link_share)} of the time"
    yield f"intents     {len(facts.intents)}; orders: {counted(report.outcomes)}"
    yield f"fills       {len(facts.fills)} in {len(report.trades)} trades"
    yield ""
    yield f"NAV         {dollars(report.nav)}; since the prior close {dollars(report.change)}"
    yield f"realised    {dollars(report.realised)}, before fees"
    yield f"fees        {fees(report)}"
    yield f"unrealised  {dollars(report.unrealised)}"
    if facts.cash_difference:
        yield f"cash        {difference_words(facts.cash_difference)}"
    yield ""
    yield from _cost_lines(report)
    yield ""
    yield "limit                              most      limit     share"
    for limit in report.limits:
        yield _limit_line(limit)
    yield from _tables(report)


def level(report: SessionReport) -> str:
    """The newest level of the switch, and who set it."""
    if not report.levels:
        return "no change was kept"
    newest = report.levels[-1].facts
    why = f": {newest['why']}" if newest["why"] else ""
    return f"{newest['level']} by {newest['by'] or 'nobody'}{why}"


def fees(report: SessionReport) -> str:
    """Fees, and how many are not known."""
    if report.fees is not None:
        text = f"{usd(report.fees)} USD"
    else:
        text = f"unknown: those of {report.fees_pending} fills were not told"
    foreign = report.facts.foreign_fees
    return text + (f"; {foreign} in other currencies are not counted" if foreign else "")


def _cost_lines(report: SessionReport) -> Iterator[str]:
    measured, compared = report.measured, report.compared
    yield f"cost        of {measured.orders} orders with fills, {usd(measured.value, 0)} USD"
    yield f"  measured  {bps(measured.shortfall_bps)} against the mid of the decision, " + (
        f"{bps(measured.total_bps)} with fees"
    )
    yield f"  model     {comparison(compared, measured)}"


def comparison(compared: Costs, measured: Costs) -> str:
    """The model's estimate beside what was measured of the same orders."""
    if not compared.orders:
        return "unknown: no filled order has an estimate and known fees"
    text = f"{bps(compared.expected_bps)} expected, {bps(compared.total_bps)} measured with fees"
    left = measured.orders - compared.orders
    return text + (f"; {left} orders are left out, of which one of both is unknown" if left else "")


def _limit_line(limit: Nearness) -> str:
    most = UNKNOWN if limit.most is None else f"{limit.most:,.5g}"
    return f"{limit.name:<30}{most:>9}{limit.limit:>11,.6g}{share(limit.share):>10}"


def _tables(report: SessionReport) -> Iterator[str]:
    if report.trades:
        yield ""
        yield f"{'trade':<8}{'side':<6}{'shares':>8}{'entry':>12}{'exit':>12}{'fees':>9}{'P&L':>12}"
        yield from _some([trade_line(trade) for trade in report.trades])
    if report.names:
        yield ""
        yield f"{'name':<8}{'traded':>16}{'realised':>14}{'fees':>10}{'unrealised':>14}{'held':>8}"
        yield from _some(
            f"{n.symbol:<8}{usd(n.traded, 0):>16}{usd(n.realised):>14}{usd(n.fees):>10}"
            f"{usd(n.unrealised):>14}{n.held:>8}"
            for n in report.names
        )
    yield ""
    yield f"refused     {counted(report.refused)}"
    yield from _some(f"  {note.at:%H:%M:%S} {note.facts['what']}" for note in report.refusals)
    if report.left_out:
        yield "left out    symbols of decisions that were not made orders"
        yield from _some(f"  {n:>6} {why}" for why, n in report.left_out.most_common())
    if report.alerts:
        yield "alerts"
        yield from _some(
            f"  {note.at:%H:%M:%S} {str(note.facts['severity']).upper()} {note.facts['what']}"
            for note in report.alerts
        )


def trade_line(trade: Trade) -> str:
    """A trade in a line."""
    exited = "–" if trade.exit is None else usd(trade.exit, 4)
    return (
        f"{trade.symbol:<8}{trade.side.value:<6}{trade.shares:>8}{usd(trade.entry, 4):>12}"
        f"{exited:>12}{usd(trade.fees):>9}{usd(trade.realised):>12}"
        f"{'' if trade.closed else '  open'}"
    )


def _some(rows: Iterable[str]) -> Iterator[str]:
    found = list(rows)
    yield from found[:MOST_ROWS]
    if len(found) > MOST_ROWS:
        yield f"  and {len(found) - MOST_ROWS} more"
