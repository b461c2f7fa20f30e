"""Pictures of a run of predictors: how well forecasts rank, at what horizon, when, and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dpa.horizons.types import BARRIERS
from dpa.research.horizon_report.results import STACKER, Pair
from dpa.research.report.style import (
    BASELINE_COLOURS,
    BEST_COLOUR,
    DIVERGING,
    NOISE_COLOUR,
    QUIET,
    finish,
)

CALIBRATED = "calibrated"
FAMILY_COLOURS = (*BASELINE_COLOURS, "#7a6bb0", NOISE_COLOUR)
RISING = ((0.0, "#eceae6"), (1.0, "#2a6f9e"))
MOST_FEATURES = 20
MOST_STEPS = 200  # points drawn of one training curve
TITLE_PIXELS = 62  # between rows of panels: labels below the one, title above the next
FINAL = "final"


def family_colours(families: Sequence[str]) -> dict[str, str]:
    """A colour for each family, the same in every picture; the stacker's is the accent."""
    plain = [name for name in families if name not in (STACKER, CALIBRATED)]
    colours = {
        name: FAMILY_COLOURS[number % len(FAMILY_COLOURS)] for number, name in enumerate(plain)
    }
    return colours | {STACKER: BEST_COLOUR, CALIBRATED: BEST_COLOUR}


@dataclass(frozen=True)
class Panels:
    """Small pictures of equal size, side by side and in rows.

    Parameters
    ----------
    figure : go.Figure
    columns, rows : int
    height : int
        Pixels of one panel.
    """

    figure: go.Figure
    columns: int
    rows: int
    height: int

    @classmethod
    def of(cls, titles: Sequence[str], columns: int, height: int, **options: Any) -> "Panels":
        """One empty panel for each title."""
        columns = max(1, min(columns, len(titles)))
        rows = math.ceil(len(titles) / columns)
        whole = rows * height + (rows - 1) * TITLE_PIXELS
        figure = make_subplots(
            rows=rows,
            cols=columns,
            subplot_titles=list(titles),
            vertical_spacing=TITLE_PIXELS / whole if rows > 1 else 0.0,
            **({"horizontal_spacing": 0.03} | options),
        )
        return cls(figure, columns, rows, height)

    def place(self, number: int) -> dict[str, int]:
        """Row and column of a panel."""
        return {"row": number // self.columns + 1, "col": number % self.columns + 1}

    def finish(self, legend: bool = False) -> go.Figure:
        """The house style, as high as the panels need."""
        room = 120 if legend else 96
        whole = self.rows * self.height + (self.rows - 1) * TITLE_PIXELS
        finish(self.figure, whole + room, legend)
        if legend:
            self.figure.update_layout(
                margin={"t": 76}, legend={"y": 1.0 + 30 / whole, "yanchor": "bottom"}
            )
        return self.figure


def _colour_axis(title: str, reach: float | None) -> dict[str, Any]:
    """Diverging around zero up to ``+- reach``; rising from zero without one."""
    bar = {"title": {"text": title, "font": {"size": 13}}, "thickness": 12, "outlinewidth": 0}
    if reach is None:
        return {"colorscale": RISING, "cmin": 0.0, "colorbar": bar}
    return {"colorscale": DIVERGING, "cmin": -reach, "cmax": reach, "colorbar": bar}


def _reach(values: pd.Series, least: float) -> float:
    known = np.abs(values.to_numpy(dtype=float))
    return max(least, float(np.nanmax(known, initial=0.0)))


def _matrix(
    panels: Panels, number: int, cells: pd.DataFrame, hover: str, template: str | None, **more: Any
) -> None:
    """One heat map: rows of `cells` downwards, columns across, labels as they are."""
    where = panels.place(number)
    panels.figure.add_heatmap(
        x=list(cells.columns),
        y=list(cells.index),
        z=cells.to_numpy(dtype=float),
        coloraxis="coloraxis",
        texttemplate=template,
        textfont={"size": 11},
        hovertemplate=hover + "<extra></extra>",
        hoverongaps=False,
        xgap=1.5,
        ygap=1.5,
        **more,
        **where,
    )
    axis = {"type": "category", "showgrid": False, "categoryorder": "array"}
    panels.figure.update_xaxes(**axis, categoryarray=list(cells.columns), **where)
    panels.figure.update_yaxes(
        **axis,
        categoryarray=list(cells.index),
        range=[len(cells.index) - 0.5, -0.5],
        **where,
    )


def _finish_matrices(panels: Panels, axis: dict[str, Any]) -> go.Figure:
    panels.figure.update_layout(coloraxis=axis)
    panels.finish()
    return panels.figure.update_yaxes(
        zeroline=False, ticks="outside", ticklen=4, tickcolor="rgba(0,0,0,0)"
    )


def ic_dots(pairs: Sequence[Pair], colours: Mapping[str, str]) -> go.Figure | None:
    """Information coefficient of every family at every horizon, +- two standard errors."""
    known = [pair for pair in pairs if math.isfinite(pair.ic)]
    if not known:
        return None
    horizons = list(dict.fromkeys(pair.horizon for pair in pairs))
    families = sorted(dict.fromkeys(pair.family for pair in known), key=lambda f: f == STACKER)
    step = 0.72 / max(len(families), 2)
    figure = go.Figure()
    for number, family in enumerate(families):
        mine = [pair for pair in known if pair.family == family]
        shift = (number - (len(families) - 1) / 2) * step
        stacked = family == STACKER
        figure.add_scatter(
            x=[horizons.index(pair.horizon) + shift for pair in mine],
            y=[pair.ic for pair in mine],
            mode="markers",
            marker={
                "color": colours[family],
                "size": 12 if stacked else 8,
                "symbol": "diamond" if stacked else "circle",
            },
            error_y={
                "array": [2 * pair.se if math.isfinite(pair.se) else 0.0 for pair in mine],
                "color": colours[family],
                "thickness": 2.2 if stacked else 1.4,
                "width": 0,
            },
            customdata=[[pair.horizon, pair.se, pair.t] for pair in mine],
            hovertemplate="%{customdata[0]}: %{y:.4f} ± %{customdata[1]:.4f}, "
            "t %{customdata[2]:.1f}",
            name=family,
        )
    places = list(range(len(horizons)))
    figure.update_xaxes(
        tickvals=places,
        ticktext=horizons,
        range=[-0.5, len(horizons) - 0.5],
        showgrid=False,
        title="horizon",
    )
    for edge in places[1:]:
        figure.add_vline(x=edge - 0.5, line={"color": "rgba(128,134,145,0.25)", "width": 1})
    figure.update_yaxes(title="rank IC, ± 2 s.e.", tickformat=".3~f")
    finish(figure, 420)
    return figure.update_yaxes(zerolinewidth=2)


def decay(table: pd.DataFrame, families: Sequence[str]) -> go.Figure:
    """Forecasts of every horizon against the returns of every horizon, a panel a family."""
    horizons = list(dict.fromkeys(table["horizon"]))
    outcomes = list(dict.fromkeys(table["outcome"]))
    shown = [name for name in families if name in set(table["family"])]
    panels = Panels.of(shown, 3, 46 + 30 * len(horizons), shared_yaxes=True)
    for number, family in enumerate(shown):
        part = table[table["family"] == family]
        errors = _cells(part, "horizon", "outcome", "se", horizons, outcomes)
        _matrix(
            panels,
            number,
            _cells(part, "horizon", "outcome", "ic", horizons, outcomes),
            "forecast of %{y}, return over %{x}: %{z:.4f} ± %{customdata:.4f}",
            "%{z:.3f}" if len(outcomes) <= 8 else None,
            customdata=errors.to_numpy(dtype=float),
        )
    panels.figure.update_xaxes(title="return realised over", row=panels.rows)
    panels.figure.update_yaxes(title="forecast of", col=1)
    return _finish_matrices(panels, _colour_axis("rank IC", _reach(table["ic"], 0.01)))


def _cells(
    table: pd.DataFrame,
    down: str,
    across: str,
    value: str,
    rows: Sequence[str],
    columns: Sequence[str],
) -> pd.DataFrame:
    wide = table.pivot_table(index=down, columns=across, values=value, dropna=False)
    return wide.reindex(index=list(rows), columns=list(columns))


def months(table: pd.DataFrame, families: Sequence[str]) -> go.Figure:
    """Information coefficient by month, a panel a family."""
    times = sorted(table["month"].unique())
    horizons = list(dict.fromkeys(table["horizon"]))
    shown = [name for name in families if name in set(table["family"])]
    across = 3 if len(times) <= 6 else 2 if len(times) <= 10 else 1
    panels = Panels.of(shown, across, 40 + 26 * len(horizons), shared_yaxes=True)
    for number, family in enumerate(shown):
        part = table[table["family"] == family]
        errors = _cells(part, "horizon", "month", "se", horizons, times)
        _matrix(
            panels,
            number,
            _cells(part, "horizon", "month", "ic", horizons, times),
            "%{x}, %{y}: %{z:.4f} ± %{customdata:.4f}",
            "%{z:.3f}" if len(times) <= 20 else None,
            customdata=errors.to_numpy(dtype=float),
        )
    panels.figure.update_xaxes(nticks=max(2, 24 // panels.columns), tickangle=0)
    panels.figure.update_yaxes(title="horizon", col=1)
    values = table["ic"].abs()
    usual = float(values.quantile(0.98)) if values.notna().any() else 0.0
    return _finish_matrices(panels, _colour_axis("rank IC", max(0.01, usual)))


def reliability(table: pd.DataFrame, colours: Mapping[str, str]) -> go.Figure:
    """Forecast probability against observed frequency, a panel a barrier, Wilson intervals."""
    barriers = [name for name in BARRIERS if name in set(table["barrier"])]
    barriers += [name for name in table["barrier"].unique() if name not in barriers]
    families = sorted(table["family"].unique(), key=lambda name: name == CALIBRATED)
    panels = Panels.of(barriers, 2, 380, horizontal_spacing=0.08)
    for number, barrier in enumerate(barriers):
        part = table[table["barrier"] == barrier]
        ends = [
            float(min(part["forecast"].min(), part["low"].min())),
            float(max(part["forecast"].max(), part["high"].max())),
        ]
        panels.figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            line={"color": QUIET, "width": 1.2, "dash": "dash"},
            name="as often as forecast",
            showlegend=number == 0,
            hoverinfo="skip",
            **panels.place(number),
        )
        for family in families:
            _reliability_line(panels, number, part[part["family"] == family], family, colours)
    panels.figure.update_xaxes(title="probability forecast", tickformat=".0%")
    panels.figure.update_yaxes(title="how often it happened", tickformat=".0%", col=1)
    panels.figure.update_yaxes(tickformat=".0%")
    return panels.finish(legend=True)


def _reliability_line(
    panels: Panels, number: int, rows: pd.DataFrame, family: str, colours: Mapping[str, str]
) -> None:
    rows = rows.sort_values("forecast")
    colour = colours.get(family, QUIET)
    strong = family == CALIBRATED
    panels.figure.add_scatter(
        x=rows["forecast"],
        y=rows["frequency"],
        mode="lines+markers",
        line={"color": colour, "width": 2.4 if strong else 1.2},
        marker={"color": colour, "size": 7 if strong else 5},
        error_y={
            "array": rows["high"] - rows["frequency"],
            "arrayminus": rows["frequency"] - rows["low"],
            "color": colour,
            "thickness": 1.2,
            "width": 0,
        },
        customdata=rows["count"],
        hovertemplate="%{x:.1%} forecast, %{y:.1%} seen in %{customdata:,.0f} rows",
        name=family,
        legendgroup=family,
        showlegend=number == 0,
        **panels.place(number),
    )


def correlations(table: pd.DataFrame, families: Sequence[str]) -> go.Figure:
    """How alike families rank the names, a panel a horizon."""
    horizons = list(dict.fromkeys(table["horizon"]))
    named = set(table["family"]) | set(table["other"])
    shown = [name for name in families if name in named]
    panels = Panels.of(horizons, 3, 46 + 30 * len(shown), shared_yaxes=True)
    swapped = table.rename(columns={"family": "other", "other": "family"})
    both = pd.concat([table, swapped], ignore_index=True)
    for number, horizon in enumerate(horizons):
        part = both[both["horizon"] == horizon]
        _matrix(
            panels,
            number,
            _cells(part, "family", "other", "correlation", shown, shown),
            "%{y} and %{x}: %{z:.3f}",
            "%{z:.2f}",
        )
    return _finish_matrices(panels, _colour_axis("rank<br>correlation", 1.0))


def importance(
    table: pd.DataFrame, families: Sequence[str], colours: Mapping[str, str]
) -> go.Figure | None:
    """The features that matter most to each family; None where none does."""
    tops = {}
    for family in families:
        mine = table[(table["family"] == family) & (table["importance"] > 0)]
        if len(mine):
            tops[family] = mine.sort_values("importance", ascending=False).head(MOST_FEATURES)
    if not tops:
        return None
    longest = max(len(top) for top in tops.values())
    panels = Panels.of(list(tops), 2, 40 + 19 * longest, horizontal_spacing=0.2)
    for number, (family, top) in enumerate(tops.items()):
        where = panels.place(number)
        panels.figure.add_bar(
            x=top["importance"],
            y=top["feature"],
            orientation="h",
            marker_color=colours.get(family, QUIET),
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
            **where,
        )
        panels.figure.update_yaxes(
            type="category",
            range=[longest - 0.5, -0.5],
            categoryorder="array",
            categoryarray=list(top["feature"]),
            showgrid=False,
            **where,
        )
    panels.figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    panels.finish()
    return panels.figure.update_yaxes(tickfont_size=11, dtick=1)


def curve_families(table: pd.DataFrame) -> list[str]:
    """Families with a training curve of more than one step."""
    steps = table.groupby(["family", "target", "fold", "curve"], sort=False)["step"].count()
    return list(dict.fromkeys(steps[steps > 1].index.get_level_values("family")))


def _parts(table: pd.DataFrame) -> pd.DataFrame:
    """Curves with the rows they were taken on ("training") and the head they are of ("5m")."""
    split = table["curve"].str.partition(", ")
    head = split[2].where(split[2] != "", "")
    rows = split[0].str.removesuffix(" loss")
    named = table["target"].where(table["target"] != "all", "")
    return table.assign(rows=rows, head=head.where(head != "", named))


def training_curves(table: pd.DataFrame, family: str) -> go.Figure:
    """Losses of one family while it was fitted: a panel a head, a thin line a fold."""
    mine = _parts(table[table["family"] == family])
    heads = list(dict.fromkeys(mine["head"]))
    kinds = list(dict.fromkeys(mine["rows"]))
    kinds.sort(key=lambda name: name != "training")
    palette = dict(zip(kinds, (QUIET, BEST_COLOUR, *BASELINE_COLOURS), strict=False))
    titles = [head or "all heads, weighted" for head in heads]
    panels = Panels.of(titles, 3, 190, horizontal_spacing=0.06)
    told: set[str] = set()
    for names, curve in mine.groupby(["head", "rows", "fold"], sort=False):
        head, kind, fold = map(str, names)
        drawn = curve.sort_values("step")
        drawn = drawn.iloc[:: max(1, math.ceil(len(drawn) / MOST_STEPS))]
        panels.figure.add_scatter(
            x=drawn["step"],
            y=drawn["value"],
            mode="lines",
            line={"color": palette.get(kind, QUIET), "width": 1.1},
            opacity=0.75,
            name=kind,
            legendgroup=kind,
            showlegend=kind not in told,
            hovertemplate=f"{_fold_name(fold)}, step %{{x}}: %{{y:.4f}}",
            **panels.place(heads.index(head)),
        )
        told.add(kind)
    panels.figure.update_yaxes(title="loss", col=1)
    return panels.finish(legend=True)


def _fold_name(fold: str) -> str:
    return "final fit" if fold == FINAL else f"fold {fold}"


def stacker_weights(table: pd.DataFrame, families: Sequence[str]) -> go.Figure:
    """Weight of each family's forecast of each horizon in each target, a panel a family."""
    targets = list(dict.fromkeys(table["target"]))
    horizons = list(dict.fromkeys(table["horizon"]))
    shown = [name for name in families if name in set(table["family"])]
    panels = Panels.of(shown, 3, 46 + 30 * len(targets), shared_yaxes=True)
    for number, family in enumerate(shown):
        cells = _cells(
            table[table["family"] == family], "target", "horizon", "weight", targets, horizons
        )
        labels = cells.map(lambda weight: f"{weight:.3f}" if weight > 0 else "")
        _matrix(
            panels,
            number,
            cells,
            "%{y} takes %{z:.4f} of the forecast of %{x}",
            "%{text}" if len(horizons) <= 8 else None,
            text=labels.to_numpy(dtype=str),
        )
    panels.figure.update_xaxes(title="forecast of", row=panels.rows)
    panels.figure.update_yaxes(title="combined for", col=1)
    return _finish_matrices(panels, _colour_axis("weight", None))
