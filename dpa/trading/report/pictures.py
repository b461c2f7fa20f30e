"""Pictures of a session: what the account was worth, what each name brought, what orders cost."""

from collections.abc import Sequence
from decimal import Decimal

import plotly.graph_objects as go

from dpa.research.report.style import (
    BASELINE_COLOURS,
    BEST_COLOUR,
    NOISE_COLOUR,
    QUIET,
    finish,
)
from dpa.trading.report.session import NameResult, OrderCost, SessionReport

MOST_NAMES = 40


def worth(report: SessionReport) -> go.Figure:
    """NAV bar by bar, the prior close, and gross exposure below."""
    times = [note.at for note in report.values]
    nav = [float(Decimal(note.facts["nav"])) for note in report.values]
    prior = [float(Decimal(note.facts["prior_nav"])) for note in report.values]
    figure = go.Figure()
    figure.add_scatter(
        x=times, y=nav, name="NAV", line={"color": BEST_COLOUR, "width": 2},
        hovertemplate="%{x|%H:%M} %{y:,.0f} USD<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=times, y=prior, name="prior close", line={"color": QUIET, "width": 1, "dash": "dot"},
        hovertemplate="%{y:,.0f} USD<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(title_text="USD", tickformat=",.0f")
    return finish(figure, 320)


def exposure(report: SessionReport) -> go.Figure:
    """Gross, net and the largest position, fractions of NAV."""
    times = [note.at for note in report.values]
    figure = go.Figure()
    for field, name, colour in (
        ("gross", "gross", BEST_COLOUR),
        ("net", "net", BASELINE_COLOURS[0]),
        ("largest", "largest name", BASELINE_COLOURS[1]),
    ):
        figure.add_scatter(
            x=times,
            y=[float(note.facts[field]) for note in report.values],
            name=name,
            line={"color": colour, "width": 1.6},
            hovertemplate="%{x|%H:%M} %{y:.1%}<extra>" + name + "</extra>",
        )
    figure.update_yaxes(title_text="of NAV", tickformat=".0%")
    return finish(figure, 260)


def by_name(names: Sequence[NameResult]) -> go.Figure:
    """Realised profit less known fees of each name, the largest first."""
    ordered = sorted(names, key=lambda n: (-abs(n.realised), n.symbol))[:MOST_NAMES]
    values = [float(name.realised - (name.fees or Decimal(0))) for name in ordered]
    figure = go.Figure()
    figure.add_bar(
        x=[name.symbol for name in ordered],
        y=values,
        marker_color=[BEST_COLOUR if value >= 0 else NOISE_COLOUR for value in values],
        hovertemplate="%{x} %{y:,.2f} USD<extra></extra>",
    )
    figure.update_yaxes(title_text="USD")
    figure.update_xaxes(type="category")
    return finish(figure, 300, legend=False)


def costs(measured: Sequence[OrderCost]) -> go.Figure:
    """Each order: what was expected across, what it cost up, the diagonal where they agree."""
    known = [c for c in measured if c.expected_bps is not None and c.total_bps is not None]
    across = [c.expected_bps for c in known if c.expected_bps is not None]
    up = [c.total_bps for c in known if c.total_bps is not None]
    figure = go.Figure()
    ends = [min(*across, 0.0), max(*across, 1.0)]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="as expected", hoverinfo="skip",
        line={"color": QUIET, "width": 1, "dash": "dot"},
    )  # fmt: skip
    figure.add_scatter(
        x=across,
        y=up,
        mode="markers",
        name="orders",
        text=[f"{c.intent.symbol} {c.intent.side.value} {c.filled}" for c in known],
        marker={"color": BEST_COLOUR, "size": 6, "opacity": 0.6},
        hovertemplate="%{text}<br>expected %{x:.2f}, measured %{y:.2f} bps<extra></extra>",
    )
    figure.update_xaxes(title_text="expected, bps")
    figure.update_yaxes(title_text="measured with fees, bps")
    return finish(figure, 380)
