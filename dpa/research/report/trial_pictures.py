"""Pictures of one trial beside the baselines: wealth, costs, exposure, clusters, parameters."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dpa.research.report.style import (
    BASELINE_COLOURS,
    BEST_COLOUR,
    NOISE_COLOUR,
    QUIET,
    bucket_means,
    bucket_starts,
    finish,
    percent,
)
from dpa.research.results import COST_COLUMNS, RunResults, TrialResults
from dpa.validation.statistics import annual_volatility, drawdowns

CLUSTER_COLOURS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#76b7b2",
    "#edc948",
    "#b07aa1",
    "#ff9da7",
    "#9c755f",
    "#86bcb6",
    "#d37295",
    "#8cd17d",
    "#499894",
    "#fabfd2",
    "#b6992d",
    "#a0cbe8",
)
EQUAL_VOLATILITY = 0.10  # a year
OUTSIDE_COLOUR = "rgba(128,134,145,0.15)"
MOST_NAMES = 60  # names of the cluster strip
MOST_DATES = 400  # dates of the cluster strip
LEARNED = (
    "entry_threshold",
    "stop_threshold",
    "signal_scale",
    "temperature",
    "similarity_threshold",
)


def _tracks(run: RunResults, best: TrialResults) -> list[tuple[str, pd.Series, dict[str, Any]]]:
    """Name, net returns and line of the best trial and each baseline, the best drawn last."""
    tracks = [("best trial", best, BEST_COLOUR, 2.4)]
    for number, baseline in enumerate(run.measured_baselines):
        colour = BASELINE_COLOURS[number % len(BASELINE_COLOURS)]
        tracks.append((baseline.name, baseline, colour, 1.5))
    return [
        (name, trial.returns["net"], {"color": colour, "width": width})
        for name, trial, colour, width in reversed(tracks)
    ]


def wealth_and_drawdown(run: RunResults, best: TrialResults) -> go.Figure:
    """Net wealth of one unit, and its fall from the peak: the best trial and the baselines."""
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.66, 0.34], vertical_spacing=0.05
    )
    for name, net, line in _tracks(run, best):
        starts = bucket_starts(len(net))
        stops = np.append(starts[1:], len(net)) - 1
        wealth = np.cumprod(1.0 + net.to_numpy())[stops]
        fall = -np.maximum.reduceat(drawdowns(net), starts)
        style = {
            "x": net.index[stops],
            "name": name,
            "legendgroup": name,
            "mode": "lines",
            "line": line,
        }
        figure.add_scatter(y=wealth, row=1, col=1, hovertemplate="%{y:.3f}", **style)
        style |= {"showlegend": False, "hovertemplate": "%{y:.1%}"}
        figure.add_scatter(y=fall, row=2, col=1, **style)
    figure.update_yaxes(title="value of 1, net of costs", row=1, col=1)
    figure.update_yaxes(title="drawdown", tickformat=".0%", row=2, col=1)
    figure.update_layout(hovermode="x unified", legend_traceorder="reversed")
    return finish(figure, 520)


def wealth_at_equal_risk(run: RunResults, best: TrialResults) -> go.Figure | None:
    """Sum of net returns, each track scaled to 10 % volatility a year; None without baselines."""
    if not run.measured_baselines:
        return None
    figure = go.Figure()
    for name, net, line in _tracks(run, best):
        volatility = annual_volatility(net, run.periods_per_year)
        scale = EQUAL_VOLATILITY / volatility if volatility > 0 else 0.0
        stops = np.append(bucket_starts(len(net))[1:], len(net)) - 1
        total = np.cumsum(net.to_numpy() * scale)[stops]
        figure.add_scatter(
            x=net.index[stops],
            y=total,
            name=name,
            mode="lines",
            line=line,
            hovertemplate="%{y:.1%}",
        )
    figure.update_yaxes(title="sum of scaled net returns", tickformat=".0%")
    figure.update_layout(hovermode="x unified", legend_traceorder="reversed")
    return finish(figure, 340)


def cost_attribution(run: RunResults, best: TrialResults) -> go.Figure:
    """Mean annual return before costs, each cost, and what is left."""
    annual = best.returns[["gross", *COST_COLUMNS]].mean() * run.periods_per_year
    heights = [annual["gross"], *(-annual[name] for name in COST_COLUMNS), 0.0]
    net = float(annual["gross"] - annual[list(COST_COLUMNS)].sum())
    figure = go.Figure()
    figure.add_waterfall(
        x=["gross", *COST_COLUMNS, "net"],
        y=heights,
        measure=["relative"] * (len(COST_COLUMNS) + 1) + ["total"],
        text=[percent(value, 2) for value in (*heights[:-1], net)],
        textposition="outside",
        cliponaxis=False,
        connector={"line": {"color": QUIET, "width": 1}},
        increasing={"marker": {"color": BEST_COLOUR}},
        decreasing={"marker": {"color": NOISE_COLOUR}},
        totals={"marker": {"color": BEST_COLOUR if net >= 0 else NOISE_COLOUR}},
        hoverinfo="skip",
    )
    figure.update_yaxes(title="mean return a year, of NAV", tickformat=".2~%")
    return finish(figure, 360, legend=False)


def exposure_and_turnover(best: TrialResults) -> go.Figure:
    """Gross and net exposure after each bar's trade, and turnover, fractions of NAV."""
    returns = best.returns
    starts = bucket_starts(len(returns), 500)
    dates = returns.index[starts]
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.07
    )
    for column, colour, row in (
        ("gross_exposure", BEST_COLOUR, 1),
        ("net_exposure", BASELINE_COLOURS[0], 1),
        ("turnover", BASELINE_COLOURS[1], 2),
    ):
        figure.add_scatter(
            x=dates,
            y=bucket_means(returns[column].to_numpy(dtype=float), starts),
            mode="lines",
            line={"color": colour, "width": 1.5},
            name=column.replace("_", " "),
            hovertemplate="%{y:.1%}",
            row=row,
            col=1,
        )
    figure.update_yaxes(title="of NAV", tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title="a bar", tickformat=".0%", rangemode="tozero", row=2, col=1)
    figure.update_layout(hovermode="x unified")
    return finish(figure, 400)


def sampled_clusters(clusters: pd.DataFrame) -> pd.DataFrame:
    """At most 400 dates of at most 60 names, names of one cluster beside each other.

    Names are taken at equal steps from those that were ever in a cluster, sorted by the cluster
    they are most often in.
    """
    some = clusters.iloc[bucket_starts(len(clusters), MOST_DATES)]
    some = some.loc[:, (some >= 0).any()]
    home = some.where(some >= 0).mode().iloc[0] if some.shape[1] else pd.Series(dtype=float)
    order = list(home.sort_values(kind="stable").index)
    kept = [order[i] for i in bucket_starts(len(order), MOST_NAMES)]
    return some[kept]


def cluster_strip(clusters: pd.DataFrame) -> go.Figure | None:
    """Cluster of each name over time, (n_bars, n_assets) of ids; None where none was held."""
    some = sampled_clusters(clusters)
    if some.empty:
        return None
    ids = some.to_numpy().T.astype(float)
    count = len(CLUSTER_COLOURS)
    scale = []
    for index, colour in enumerate((OUTSIDE_COLOUR, *CLUSTER_COLOURS)):
        scale += [[index / (count + 1), colour], [(index + 1) / (count + 1), colour]]
    figure = go.Figure()
    figure.add_heatmap(
        x=some.index,
        y=list(some.columns),
        z=np.where(ids < 0, -1, ids % count),
        customdata=ids,
        colorscale=scale,
        zmin=-1.5,
        zmax=count - 0.5,
        showscale=False,
        hovertemplate="%{y}, %{x|%Y-%m-%d}: cluster %{customdata}<extra></extra>",
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, tickfont_size=10, autorange="reversed", type="category")
    finish(figure, 110 + 13 * some.shape[1], legend=False)
    return figure.update_yaxes(dtick=1)


def learned_parameters(best: TrialResults) -> go.Figure | None:
    """Learned parameters after each fold; None where nothing was learned."""
    known = [name for name in LEARNED if name in best.folds and best.folds[name].notna().any()]
    if len(best.folds) < 2 or not known:
        return None
    titles = [name.replace("_", " ") for name in known]
    figure = make_subplots(rows=1, cols=len(known), subplot_titles=titles, horizontal_spacing=0.06)
    for column, name in enumerate(known, start=1):
        figure.add_scatter(
            x=best.folds["fold"],
            y=best.folds[name],
            mode="lines",
            line={"color": BEST_COLOUR, "width": 2},
            hovertemplate="fold %{x}: %{y:.3g}<extra></extra>",
            row=1,
            col=column,
        )
        middle = float(best.folds[name].mean())
        reach = max(float((best.folds[name] - middle).abs().max()) * 1.1, abs(middle) * 0.1)
        figure.update_yaxes(range=[middle - reach, middle + reach], row=1, col=column)
    figure.update_xaxes(title="fold")
    return finish(figure, 280, legend=False)


def fold_by_fold(best: TrialResults) -> go.Figure | None:
    """Net Sharpe ratio of each fold: training, validation and test."""
    folds = best.folds
    if len(folds) < 2:
        return None
    figure = go.Figure()
    figure.add_bar(
        x=folds["fold"],
        y=folds["net_sharpe"],
        marker_color=BEST_COLOUR,
        name="test",
        hovertemplate="%{y:.2f}",
    )
    for column, name, colour, symbol in (
        ("train_sharpe", "training", QUIET, "circle"),
        ("validation_sharpe", "validation", BASELINE_COLOURS[0], "diamond"),
    ):
        if folds[column].notna().any():
            figure.add_scatter(
                x=folds["fold"],
                y=folds[column],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8},
                name=name,
                hovertemplate="%{y:.2f}",
            )
    figure.update_layout(hovermode="x unified")
    ends = [folds["fold"].min() - 0.6, folds["fold"].max() + 0.6]
    figure.update_xaxes(title="fold", dtick=max(1, len(folds) // 25), range=ends)
    figure.update_yaxes(title="net Sharpe, annual")
    return finish(figure, 340)
