"""Dashboards as Grafana reads them: JSON made of the boards, placed on 24 columns."""

from collections.abc import Iterator
from typing import Any, Final

from dpa.telemetry.boards import BOARDS
from dpa.telemetry.panels import GREEN, Board, Panel, Query, Row

Json = dict[str, Any]

COLUMNS: Final = 24
HEIGHTS: Final = {"stat": 4, "timeseries": 7}
SCHEMA_VERSION: Final = 39  # of dashboards; Grafana 10.4 and later
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
RUN_QUERY: Final = "label_values(ray_dpa_trial_folds_done, run)"
ALL: Final = "$__all"


def dashboard(board: Board) -> Json:
    """A board as Grafana's JSON model of a dashboard."""
    return {
        "annotations": {"list": []},
        "description": board.words,
        "editable": True,
        "graphTooltip": 1,
        "links": [_link()],
        "panels": list(_placed(board)),
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["dpa"],
        "templating": {"list": [_choose_datasource(), *([_choose_run()] if board.run else [])]},
        "time": {"from": board.since, "to": "now"},
        "timezone": "browser",
        "title": board.title,
        "uid": f"dpa-{board.name}",
    }


def dashboards() -> dict[str, Json]:
    """Every dashboard by its name."""
    return {board.name: dashboard(board) for board in BOARDS}


def _link() -> Json:
    return {
        "asDropdown": False,
        "icon": "dashboard",
        "includeVars": False,
        "keepTime": True,
        "tags": ["dpa"],
        "targetBlank": False,
        "title": "dpa",
        "tooltip": "",
        "type": "dashboards",
        "url": "",
    }


def _choose_datasource() -> Json:
    return {
        "hide": 0,
        "includeAll": False,
        "label": "Prometheus",
        "multi": False,
        "name": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }


def _choose_run() -> Json:
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": ALL},
        "datasource": DATASOURCE,
        "hide": 0,
        "includeAll": True,
        "label": "Run",
        "multi": True,
        "name": "run",
        "query": {"query": RUN_QUERY, "refId": "runs"},
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 2,
        "type": "query",
    }


def _placed(board: Board) -> Iterator[Json]:
    """Headings and panels from top to bottom, in lines of 24 columns."""
    number, top = 1, 0
    for row in board.rows:
        yield _heading(row, number, top)
        number, top = number + 1, top + 1
        left = height = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, height = 0, top + height, 0
            place = {"h": HEIGHTS[panel.kind], "w": panel.width, "x": left, "y": top}
            yield _panel(panel, number, place)
            number, left = number + 1, left + panel.width
            height = max(height, place["h"])
        top += height


def _heading(row: Row, number: int, top: int) -> Json:
    return {
        "collapsed": False,
        "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
        "id": number,
        "panels": [],
        "title": row.title,
        "type": "row",
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> Json:
    return {
        "datasource": DATASOURCE,
        "description": panel.words,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "gridPos": place,
        "id": number,
        "options": _options(panel),
        "targets": [_target(query, k, panel) for k, query in enumerate(panel.queries)],
        "title": panel.title,
        "type": panel.kind,
    }


def _target(query: Query, number: int, panel: Panel) -> Json:
    now = panel.kind == "stat"
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "instant": now,
        "legendFormat": query.legend,
        "range": not now,
        "refId": chr(ord("A") + number),
    }


def _field(panel: Panel) -> Json:
    steps: list[Json] = [{"color": GREEN, "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.steps]
    found: Json = {
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "mappings": _mappings(panel),
        "thresholds": {"mode": "absolute", "steps": steps},
        "unit": panel.unit,
    }
    for name, value in (("decimals", panel.decimals), ("min", panel.low), ("max", panel.high)):
        if value is not None:
            found[name] = value
    if panel.kind == "timeseries":
        found["custom"] = _lines(panel)
    return found


def _mappings(panel: Panel) -> list[Json]:
    if not panel.values:
        return []
    options = {
        f"{value:g}": {"color": colour, "index": k, "text": words}
        for k, (value, words, colour) in enumerate(panel.values)
    }
    return [{"type": "value", "options": options}]


def _lines(panel: Panel) -> Json:
    return {
        "axisPlacement": "auto",
        "drawStyle": "line",
        "fillOpacity": 30 if panel.stacked else 5,
        "lineInterpolation": "stepAfter" if panel.unit == "short" else "linear",
        "lineWidth": 1,
        "pointSize": 4,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
        "thresholdsStyle": {"mode": "line" if panel.steps else "off"},
    }


def _options(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {
            "legend": {
                "calcs": ["lastNotNull"],
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    named = panel.queries[0].legend.startswith("{{")
    return {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value_and_name" if named else "value",
        "wideLayout": True,
    }
