"""Pictures of the grid as a whole: heat maps, trials against noise, slices, stability."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dpa.research.report.style import (
    BASELINE_COLOURS,
    BEST_COLOUR,
    DIVERGING,
    NOISE_COLOUR,
    QUIET,
    finish,
    short,
    shown,
)
from dpa.research.results import RunResults, SearchStatistics

PANELS_A_ROW = 3
COLOUR_BAR = {
    "title": {"text": "net<br>Sharpe", "font": {"size": 13}},
    "thickness": 12,
    "outlinewidth": 0,
}
MOST_ROWS = 40  # trials of the fold picture
MOST_WHISKERS = 120  # trials drawn with their standard error


def open_axes(run: RunResults) -> list[str]:
    """Axes that take more than one value, in the grid's order."""
    return [name for name, values in run.manifest.axes.items() if len(values) > 1]


def _trial_frame(run: RunResults) -> pd.DataFrame:
    rows = [
        {
            **{axis: shown(value) for axis, value in trial.parameters.items()},
            "net": trial.summary["net_sharpe"],
            "status": trial.status,
        }
        for trial in run.trials
    ]
    return pd.DataFrame(rows)


def heat_maps(run: RunResults) -> go.Figure | None:
    """Net Sharpe ratio over the grid: a panel for each value of the first of three axes.

    Cells are means over any further axes. None with fewer than 2 axes.
    """
    axes = open_axes(run)
    if len(axes) < 2:
        return None
    values = {axis: [shown(value) for value in run.manifest.axes[axis]] for axis in axes}
    many = len(axes) > 2
    across, down = (axes[1], axes[2]) if many else (axes[0], axes[1])
    panels = values[axes[0]] if many else [""]
    columns = min(len(panels), PANELS_A_ROW)
    rows = math.ceil(len(panels) / columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"{axes[0]} {value}" for value in panels] if many else None,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / rows,
    )
    table = _trial_frame(run)
    for number, value in enumerate(panels):
        part = table[table[axes[0]] == value] if many else table
        where = {"row": number // columns + 1, "col": number % columns + 1}
        _heat_map(figure, part, (across, values[across]), (down, values[down]), where)
    reach = max(0.5, float(np.nanmax(np.abs(table["net"]), initial=0.0)))
    figure.update_layout(
        coloraxis={"colorscale": DIVERGING, "cmin": -reach, "cmax": reach, "colorbar": COLOUR_BAR}
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_xaxes(title=across, row=rows)
    figure.update_yaxes(title=down, col=1)
    finish(figure, 90 + rows * (70 + 46 * len(values[down])), legend=False)
    return figure.update_yaxes(zeroline=False)


def _heat_map(
    figure: go.Figure,
    part: pd.DataFrame,
    across: tuple[str, list[str]],
    down: tuple[str, list[str]],
    where: dict[str, int],
) -> None:
    """One panel, at whole-number positions: labels that look like numbers keep their order."""
    for row, high in enumerate(down[1]):
        for column, wide in enumerate(across[1]):
            here = part[(part[down[0]] == high) & (part[across[0]] == wide)]
            if not np.isfinite(here["net"]).any():
                text = "failed" if (here["status"] == "failed").any() else "–"
                figure.add_annotation(x=column, y=row, text=text, showarrow=False, **where)
    cells = part.pivot_table(index=down[0], columns=across[0], values="net")
    cells = cells.reindex(index=down[1], columns=across[1])
    hover = f"{across[0]} %{{customdata[0]}}<br>{down[0]} %{{customdata[1]}}"
    labels = [[[wide, high] for wide in across[1]] for high in down[1]]
    figure.add_heatmap(
        x=list(range(len(across[1]))),
        y=list(range(len(down[1]))),
        z=cells.to_numpy(dtype=float),
        customdata=labels,
        coloraxis="coloraxis",
        texttemplate="%{z:.2f}",
        hovertemplate=hover + "<br>net Sharpe %{z:.2f}<extra></extra>",
        hoverongaps=False,
        xgap=2,
        ygap=2,
        **where,
    )
    figure.update_xaxes(**_ticks(across[1]), **where)
    figure.update_yaxes(**_ticks(down[1]), **where)


def _ticks(labels: list[str]) -> dict[str, Any]:
    places = list(range(len(labels)))
    return {"tickvals": places, "ticktext": labels, "range": [-0.5, len(labels) - 0.5]}


def trials_against_noise(run: RunResults, search: SearchStatistics) -> go.Figure | None:
    """Every trial's net Sharpe ratio in rising order, beside what luck alone would show."""
    judged = sorted(run.judged, key=lambda trial: trial.summary["net_sharpe"])
    if len(judged) < 2:
        return None
    sharpes = [trial.summary["net_sharpe"] for trial in judged]
    errors = [trial.summary["net_sharpe_se"] for trial in judged]
    whiskers: dict[str, Any] = {"array": errors, "color": QUIET, "thickness": 1, "width": 0}
    figure = go.Figure()
    figure.add_scatter(
        x=list(range(1, len(judged) + 1)),
        y=sharpes,
        mode="markers",
        marker={"color": [QUIET] * (len(judged) - 1) + [BEST_COLOUR], "size": 8},
        error_y=whiskers if len(judged) <= MOST_WHISKERS else None,
        text=[short(trial.parameters) for trial in judged],
        customdata=errors,
        hovertemplate="%{text}<br>net Sharpe %{y:.2f} ± %{customdata:.2f}<extra></extra>",
        name="trials, ± one standard error",
    )
    lines = [(f"best of {search.n_trials} without skill", search.expected_max_sharpe,
              NOISE_COLOUR, "dash")]  # fmt: skip
    for number, baseline in enumerate(run.measured_baselines):
        colour = BASELINE_COLOURS[number % len(BASELINE_COLOURS)]
        lines.append((baseline.name, baseline.summary["net_sharpe"], colour, "solid"))
    for name, level, colour, dash in lines:
        figure.add_scatter(
            x=[0.5, len(judged) + 0.5],
            y=[level, level],
            mode="lines",
            line={"color": colour, "width": 1.6, "dash": dash},
            name=f"{name}: {level:.2f}",
            hoverinfo="skip",
        )
    figure.update_xaxes(title="trials, worst to best", range=[0.5, len(judged) + 0.5])
    figure.update_yaxes(title="net Sharpe, annual")
    return finish(figure, 400)


def slices(run: RunResults) -> go.Figure | None:
    """Net Sharpe ratio by each parameter alone: every trial a dot, their mean a line."""
    axes = open_axes(run)
    table = _trial_frame(run)
    table = table[np.isfinite(table["net"])]
    if not axes or table.empty:
        return None
    columns = min(len(axes), PANELS_A_ROW)
    rows = math.ceil(len(axes) / columns)
    figure = make_subplots(
        rows=rows, cols=columns, shared_yaxes=True, subplot_titles=axes,
        horizontal_spacing=0.04, vertical_spacing=0.3 / rows,
    )  # fmt: skip
    for number, axis in enumerate(axes):
        where = {"row": number // columns + 1, "col": number % columns + 1}
        order = [shown(value) for value in run.manifest.axes[axis]]
        means = table.groupby(axis)["net"].mean().reindex(order)
        dots = {"color": QUIET, "size": 7, "opacity": 0.6}
        figure.add_scatter(
            x=table[axis], y=table["net"], mode="markers", marker=dots,
            name="trials", showlegend=number == 0, hovertemplate="%{y:.2f}", **where,
        )  # fmt: skip
        figure.add_scatter(
            x=order, y=means, mode="lines+markers", line={"color": BEST_COLOUR, "width": 2},
            name="mean", showlegend=number == 0, hovertemplate="mean %{y:.2f}", **where,
        )  # fmt: skip
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=order, **where)
    figure.update_yaxes(title="net Sharpe", col=1)
    finish(figure, 80 + 260 * rows)
    return figure.update_layout(legend={"y": 1.0 + 0.13 / rows}, margin={"t": 70})


def fold_sharpes(run: RunResults) -> pd.DataFrame:
    """Net Sharpe ratio of each judged trial in each fold, (n_trials, n_folds), best trial first."""
    judged = sorted(run.judged, key=lambda trial: -trial.summary["net_sharpe"])
    rows = {
        trial.name: trial.folds.set_index("fold")["net_sharpe"]
        for trial in judged
        if "net_sharpe" in trial.folds
    }
    return pd.DataFrame(rows).T


def rank_persistence(run: RunResults) -> float:
    """Mean Spearman correlation of the trials' ranks in one fold and in the next.

    Near 0: which trial was good says nothing about which will be. NaN with fewer than 3 trials
    or 2 folds.
    """
    table = fold_sharpes(run)
    if table.shape[0] < 3 or table.shape[1] < 2:
        return math.nan
    ranks = table.rank()
    pairs = [ranks.iloc[:, k].corr(ranks.iloc[:, k + 1]) for k in range(ranks.shape[1] - 1)]
    known = [value for value in pairs if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def stability(run: RunResults) -> go.Figure | None:
    """Net Sharpe ratio of trials by fold, best trial on top."""
    table = fold_sharpes(run)
    if len(table) < 2 or table.shape[1] < 2:
        return None
    table = table.iloc[:MOST_ROWS]
    labels = {trial.name: short(trial.parameters) for trial in run.judged}
    values = table.to_numpy(dtype=float)
    reach = max(1.0, float(np.nanquantile(np.abs(values), 0.95)))
    figure = go.Figure()
    figure.add_heatmap(
        x=[f"{fold}" for fold in table.columns],
        y=[labels[name] for name in table.index],
        z=values,
        colorscale=DIVERGING,
        zmin=-reach,
        zmax=reach,
        xgap=1,
        ygap=1,
        colorbar=COLOUR_BAR,
        hovertemplate="%{y}<br>fold %{x}: %{z:.2f}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, tickfont_size=11, type="category")
    figure.update_xaxes(title="fold", showgrid=False, type="category")
    finish(figure, 110 + 17 * len(table), legend=False)
    return figure.update_yaxes(dtick=1)
