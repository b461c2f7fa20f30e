"""The look of a report's pictures: colours that read on light and dark paper, few lines."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

BEST_COLOUR = "#2f7fc1"
BASELINE_COLOURS = ("#d08a1d", "#2f9e7d", "#b0628f", "#8a8a3c")
NOISE_COLOUR = "#c4513f"
QUIET = "#8f959e"
GRID_LINES = "rgba(128,134,145,0.25)"
DIVERGING = ((0.0, "#b4553f"), (0.5, "#eceae6"), (1.0, "#2a6f9e"))
MOST_POINTS = 1500  # points drawn of one line
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


def finish(figure: go.Figure, height: int, legend: bool = True) -> go.Figure:
    """The house style: no background, thin grid lines, legend above the picture."""
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 44, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": "#4a4f57"},
        hoverlabel={"font": {"family": FONT, "size": 12}},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom", "xanchor": "left"},
        bargap=0.25,
    )
    figure.update_annotations(font_size=13)
    figure.update_layout(
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": QUIET, "activecolor": BEST_COLOUR}
    )
    figure.update_xaxes(
        gridcolor=GRID_LINES,
        zeroline=False,
        automargin=True,
        title_font_size=13,
        ticks="outside",
        tickcolor="rgba(0,0,0,0)",  # only moves the labels off the picture
    )
    figure.update_yaxes(
        gridcolor=GRID_LINES,
        zerolinecolor="rgba(128,134,145,0.6)",
        automargin=True,
        title_font_size=13,
    )
    return figure


def shown(value: Any) -> str:
    """A parameter value as a label."""
    return "none" if value is None else str(value)


def short(parameters: Mapping[str, Any]) -> str:
    """Parameters of a trial in one line."""
    return ", ".join(f"{key} {shown(value)}" for key, value in parameters.items()) or "defaults"


def number(value: float, digits: int = 2) -> str:
    """A number for a sentence; a dash where there is none."""
    return f"{_whole_zero(value, digits):.{digits}f}" if math.isfinite(value) else "–"


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage; a dash where there is none."""
    return f"{_whole_zero(value, digits + 2):.{digits}%}" if math.isfinite(value) else "–"


def whole(value: Any) -> str:
    """A count with thousands set off; a dash where there is none."""
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def day(value: Any) -> str:
    """The date of a time."""
    return str(value)[:10]


def moment(value: Any) -> str:
    """A time to the minute."""
    return str(value)[:16].replace("T", " ")


def _whole_zero(value: float, digits: int) -> float:
    """`value`, or plain 0 where rounding would leave a minus before zeros."""
    return value if round(value, digits) else 0.0


def bucket_starts(n_bars: int, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """First bars of at most `most` stretches of nearly equal length."""
    return np.linspace(0, n_bars, min(n_bars, most) + 1).astype(np.int64)[:-1]


def bucket_means(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of `values` (n_bars,) over each stretch."""
    counts = np.diff(np.append(starts, len(values)))
    means: NDArray[np.float64] = np.add.reduceat(values, starts) / counts
    return means
