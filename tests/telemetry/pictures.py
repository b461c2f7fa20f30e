"""Draws a dashboard from its JSON and what Prometheus answers to its queries.

Not Grafana: a small renderer for the pictures in the documentation. Places, titles, units,
colours and queries are those of the JSON; lines are drawn as SVG.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.telemetry.live_run import Prometheus

CELL, LINE = 53, 26  # pixels of a column and of a unit of height
WIDTH = 24 * CELL
MOST_LEGENDS = 8
COLOURS = ("#5794f2", "#73bf69", "#f2cc0c", "#ff780a", "#f2495c", "#b877d9", "#37872d", "#fa6400")
NAMED = {"green": "#56a64b", "yellow": "#d9a400", "orange": "#ff780a", "red": "#e02f44",
         "blue": "#3274d9"}  # fmt: skip
STYLE = f"""
body {{ margin: 0; width: {WIDTH}px; background: #f4f5f5; font: 12px sans-serif; color: #24292e; }}
h1 {{ font-size: 17px; margin: 10px 8px 2px; }} p.sub {{ margin: 0 8px 6px; color: #6b7280; }}
main {{ position: relative; }}
section {{ position: absolute; box-sizing: border-box; padding: 3px; }}
section > div {{ background: #fff; border: 1px solid #e0e2e5; border-radius: 2px; height: 100%;
  box-sizing: border-box; padding: 4px 7px; overflow: hidden; }}
section.row > div {{ background: none; border: none; font-weight: bold; padding: 3px 2px; }}
h2 {{ font-size: 12px; margin: 0; font-weight: 600; }}
.big {{ font-size: 23px; margin-top: 14px; white-space: nowrap; }}
.legend {{ color: #52545c; font-size: 10px; line-height: 12px; white-space: nowrap;
  overflow: hidden; }}
.legend span {{ margin-right: 8px; }} .legend i {{ display: inline-block; width: 9px; height: 3px;
  margin-right: 3px; vertical-align: middle; }}
.none {{ color: #9fa7b3; padding-top: 30px; text-align: center; }}
svg text {{ font: 9px sans-serif; fill: #6b7280; }}
"""


@dataclass(frozen=True)
class Line:
    """One series: its name, and where it was known."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


def ask(
    prometheus: Prometheus, panel: Mapping[str, Any], start: float, end: float, step: float
) -> list[Line]:
    """The series of a panel between two moments, those with a number only."""
    found = []
    for target in panel["targets"]:
        expr = target["expr"].replace("$__rate_interval", "20s").replace("$run", ".*")
        for series in prometheus.series(expr, start, end, step):
            points = tuple((float(t), float(v)) for t, v in series["values"])
            points = tuple((t, v) for t, v in points if math.isfinite(v))
            if points:
                found.append(Line(_name(target["legendFormat"], series["metric"]), points))
    return found


def _name(legend: str, tags: Mapping[str, str]) -> str:
    for tag, value in tags.items():
        legend = legend.replace("{{" + tag + "}}", value)
    return legend


def page(
    content: Mapping[str, Any],
    found: Mapping[int, Sequence[Line]],
    words: str,
    span: tuple[float, float],
) -> str:
    """A dashboard as HTML.

    Parameters
    ----------
    content : mapping
        Grafana's JSON.
    found : mapping of int to sequence of Line
        By the number of the panel.
    words : str
        Under the title.
    span : (float, float)
        Beginning and end of what is shown, seconds since 1970.
    """
    parts = [_section(panel, found.get(panel["id"], ()), span) for panel in content["panels"]]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in content["panels"]) * LINE
    head = f"<h1>{escape(content['title'])}</h1><p class=sub>{escape(words)}</p>"
    body = f"{head}<main style='height:{height}px'>{''.join(parts)}</main>"
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{body}"


def _section(panel: Mapping[str, Any], lines: Sequence[Line], span: tuple[float, float]) -> str:
    at = panel["gridPos"]
    width, height = at["w"] * CELL, at["h"] * LINE
    place = f"left:{at['x'] * CELL}px;top:{at['y'] * LINE}px;width:{width}px;height:{height}px"
    if panel["type"] == "row":
        return f"<section class=row style='{place}'><div>{escape(panel['title'])}</div></section>"
    if not lines:
        inside = "<div class=none>no data</div>"
    elif panel["type"] == "stat":
        inside = _number(panel, lines)
    else:
        size = width - 24, height - 62
        inside = _lines(panel, lines, span, *size) + _legend(panel, lines)
    return (
        f"<section style='{place}'><div><h2>{escape(panel['title'])}</h2>{inside}</div></section>"
    )


def _number(panel: Mapping[str, Any], lines: Sequence[Line]) -> str:
    field, value = panel["fieldConfig"]["defaults"], lines[0].last
    text, colour = shown(value, field), NAMED["green"]
    for step in field["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = NAMED[step["color"]]
    for mapping in field["mappings"]:
        if (found := mapping["options"].get(f"{value:g}")) is not None:
            text, colour = found["text"], NAMED[found["color"]]
    if panel["options"]["textMode"] == "value_and_name":
        text = f"{lines[0].name} {text}"
    small = ";font-size:14px" if len(text) > 14 else ""
    return f"<div class=big style='color:{colour}{small}'>{escape(text)}</div>"


def shown(value: float, field: Mapping[str, Any]) -> str:
    """A number with its unit, about as Grafana writes it."""
    unit, decimals = field["unit"], field.get("decimals")

    def rounded(number: float, most: int = 3) -> str:
        if decimals is not None:
            return f"{number:.{decimals}f}"
        return f"{number:.{most}g}" if abs(number) < 1000 else f"{number:,.0f}"

    if unit == "s":
        for size, name in ((31557600.0, "years"), (86400.0, "days"), (3600.0, "hours"),
                           (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):  # fmt: skip
            if abs(value) >= size:
                return f"{rounded(value / size)} {name}"
        return "0 s"
    if unit == "percentunit":
        return f"{rounded(value * 100)}%"
    if unit == "currencyUSD":
        return f"${value:,.2f}" if abs(value) < 1e5 else f"${value:,.0f}"
    if unit == "bytes":
        for size, name in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
            if abs(value) >= size:
                return f"{rounded(value / size)} {name}"
        return f"{value:.0f} B"
    ends = {"ops": " ops/s", "reqps": " req/s", "mps": " msg/s", "suffix: bps": " bps"}
    return rounded(value, 4) + ends.get(unit, "")


class Axes:
    """Where values and moments are in a picture.

    Parameters
    ----------
    lines : sequence of Line
    field : mapping
        Of the panel: its ends and unit.
    span : (float, float)
        The moments at the left and the right.
    width, height : int
        Pixels.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        field: Mapping[str, Any],
        span: tuple[float, float],
        width: int,
        height: int,
    ) -> None:
        values = [v for line in lines for _, v in line.points]
        low, high = field.get("min", min(values)), max(field.get("max", max(values)), *values)
        if high <= low:
            room = 0.5 * (abs(low) or 1.0)
            low, high = 0.0 if field.get("min") == 0 else low - room, high + room
        self.field, self.width, self.height = field, width, height
        self.low, self.high, self.left = low, high, 52
        self.first, self.last = span

    def x(self, t: float) -> float:
        """Pixels from the left of a moment."""
        return self.left + (self.width - self.left) * (t - self.first) / (self.last - self.first)

    def y(self, v: float) -> float:
        """Pixels from the top of a value."""
        return self.height - 12 - (self.height - 18) * (v - self.low) / (self.high - self.low)

    def level(self, value: float, how: str) -> str:
        """A line across."""
        y = f"{self.y(value):.1f}"
        return f"<line x1={self.left} x2={self.width} y1={y} y2={y} {how} />"

    def grid(self) -> str:
        """Lines across with their values, moments below."""
        parts = []
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            value = self.low + share * (self.high - self.low)
            parts.append(self.level(value, "stroke='#e7e9ec'"))
            parts.append(_text(self.left - 4, self.y(value) + 3, shown(value, self.field), "end"))
            t = self.first + share * (self.last - self.first)
            words = f"+{(t - self.first) / 60:.1f} min"
            parts.append(_text(self.x(t), self.height - 1, words, anchor))
        return "".join(parts)

    def thresholds(self) -> str:
        """Lines from where on a number is bad."""
        if self.field["custom"]["thresholdsStyle"]["mode"] != "line":
            return ""
        return "".join(
            self.level(step["value"], f"stroke='{NAMED[step['color']]}' stroke-dasharray='4 3'")
            for step in self.field["thresholds"]["steps"]
            if step["value"] is not None and self.low <= step["value"] <= self.high
        )

    def path(self, line: Line) -> str:
        """A series as the path of an SVG."""
        steps = self.field["custom"]["lineInterpolation"] == "stepAfter"
        path, before = "", None
        for t, v in line.points:
            if before is not None and steps:
                path += f"L{self.x(t):.1f} {self.y(before):.1f}"
            path += f"{'L' if path else 'M'}{self.x(t):.1f} {self.y(v):.1f}"
            before = v
        return path

    def below(self, line: Line) -> str:
        """From the end of a series down and back, so that it can be filled."""
        first, last, bottom = line.points[0][0], line.points[-1][0], f"{self.y(self.low):.1f}"
        return f"L{self.x(last):.1f} {bottom}L{self.x(first):.1f} {bottom}Z"


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f"<text x={x:.1f} y={y:.1f} text-anchor={anchor}>{escape(words)}</text>"


def _lines(
    panel: Mapping[str, Any],
    lines: Sequence[Line],
    span: tuple[float, float],
    width: int,
    height: int,
) -> str:
    field = panel["fieldConfig"]["defaults"]
    stacked = field["custom"]["stacking"]["mode"] == "normal"
    drawn = _stacked(lines) if stacked else list(lines)
    axes = Axes(drawn, field, span, width, height)
    parts = [axes.grid(), axes.thresholds()]
    for number, line in reversed(list(enumerate(drawn))):
        colour, path = COLOURS[number % len(COLOURS)], axes.path(line)
        if stacked:
            filled = path + axes.below(line)
            parts.append(f"<path d='{filled}' fill='{colour}' fill-opacity='.35'/>")
        parts.append(f"<path d='{path}' fill=none stroke='{colour}' stroke-width=1.4 />")
    return f"<svg width={width} height={height}>{''.join(parts)}</svg>"


def _stacked(lines: Sequence[Line]) -> list[Line]:
    sums: dict[float, float] = {}
    found = []
    for line in lines:
        points = []
        for t, v in line.points:
            sums[t] = sums.get(t, 0.0) + v
            points.append((t, sums[t]))
        found.append(Line(line.name, tuple(points)))
    return found


def _legend(panel: Mapping[str, Any], lines: Sequence[Line]) -> str:
    field = panel["fieldConfig"]["defaults"]
    parts = [
        f"<span><i style='background:{COLOURS[number % len(COLOURS)]}'></i>{escape(line.name)}"
        f" {escape(shown(line.last, field))}</span>"
        for number, line in enumerate(lines[:MOST_LEGENDS])
    ]
    more = len(lines) - MOST_LEGENDS
    if more > 0:
        parts.append(f"<span>and {more} more</span>")
    return f"<div class=legend style='white-space:normal;max-height:24px'>{''.join(parts)}</div>"


def screenshot(html: str, path: Path) -> None:
    """The page as a PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        shown_page = browser.new_page(viewport={"width": WIDTH, "height": 600})
        shown_page.set_content(html)
        path.parent.mkdir(parents=True, exist_ok=True)
        shown_page.screenshot(path=str(path), full_page=True)
        browser.close()
