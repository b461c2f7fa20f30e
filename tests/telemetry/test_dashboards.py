"""Dashboards are what Grafana reads, lie on its grid, and ask for metrics that exist."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from dpa.cli import main
from dpa.telemetry.boards import BOARDS
from dpa.telemetry.catalogue import ALL, Kind
from dpa.telemetry.dashboards import COLUMNS, dashboards
from dpa.telemetry.panels import Board, Panel
from dpa.telemetry.rules import RULES

SCHEMA = json.loads(Path(__file__).with_name("grafana_dashboard.schema.json").read_text("utf-8"))
RAYS_OWN = {
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_node_mem_total",
    "ray_object_store_memory",
    "ray_node_disk_usage",
    "ray_node_disk_free",
    "ray_serve_num_http_requests_total",
    "ray_serve_num_http_error_requests_total",
}
EXPORTED = {
    metric.exported + end
    for metric in ALL
    for end in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}
PANELS = [(board, panel) for board in BOARDS for panel in board.panels]
UNITS = {
    "short", "s", "bytes", "percentunit", "currencyUSD", "ops", "reqps", "mps", "suffix: bps"
}  # fmt: skip
each_panel = pytest.mark.parametrize(
    ("board", "panel"), PANELS, ids=[f"{board.name}: {panel.title}" for board, panel in PANELS]
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The files that the command writes, by name."""
    folder = tmp_path_factory.mktemp("monitoring")
    assert main(["metrics", "export", str(folder)]) == 0
    paths = (folder / "dashboards").glob("*.json")
    return {path.stem: json.loads(path.read_text("utf-8")) for path in paths}


def problems(content: Any) -> list[str]:
    return [str(list(e.absolute_path)) for e in Draft7Validator(SCHEMA).iter_errors(content)]


def test_there_are_three(written):
    assert set(written) == {"research", "serving", "trading"}
    assert written == dashboards()


def test_they_are_valid_by_the_schema_of_grafana(written):
    for name, content in written.items():
        assert problems(content) == [], name


def _misspelt(content: Any) -> None:
    content["panels"][1]["fieldConfigs"] = content["panels"][1].pop("fieldConfig")


def _unknown_kind(content: Any) -> None:
    content["panels"][1]["type"] = "picture"


def _threshold(content: Any) -> None:
    content["panels"][1]["fieldConfig"]["defaults"]["thresholds"]["mode"] = "relative"


def _target(content: Any) -> None:
    del content["panels"][1]["targets"][0]["expr"]


def _legend(content: Any) -> None:
    lines = next(panel for panel in content["panels"] if panel["type"] == "timeseries")
    lines["options"]["legend"]["displayMode"] = "cloud"


def _stacking(content: Any) -> None:
    lines = next(panel for panel in content["panels"] if panel["type"] == "timeseries")
    lines["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] = "heap"


@pytest.mark.parametrize(
    "spoil", [_misspelt, _unknown_kind, _threshold, _target, _legend, _stacking]
)
def test_the_schema_refuses_what_grafana_would_not_read(spoil: Callable[[Any], None]):
    content = copy.deepcopy(dashboards()["trading"])
    spoil(content)
    assert problems(content)


@pytest.mark.parametrize("name", ["research", "serving", "trading"])
def test_panels_fill_the_grid_and_none_lies_on_another(name):
    taken: dict[tuple[int, int], int] = {}
    content = dashboards()[name]
    for panel in content["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]
    lines = {y for _, y in taken}
    assert lines == set(range(max(lines) + 1))
    assert len(taken) == COLUMNS * len(lines), "a gap"
    numbers = [panel["id"] for panel in content["panels"]]
    assert len(set(numbers)) == len(numbers)


@each_panel
def test_a_panel_says_what_it_shows(board: Board, panel: Panel):
    assert panel.words.endswith(".")
    assert len(panel.words) > 10
    assert panel.unit in UNITS
    assert all(query.legend for query in panel.queries)
    levels = [value for value, _ in panel.steps]
    assert levels == sorted(levels)


def test_titles_are_unique_within_a_dashboard():
    for board in BOARDS:
        titles = [panel.title for panel in board.panels]
        assert len(set(titles)) == len(titles)


@each_panel
def test_a_panel_asks_for_metrics_that_exist(board: Board, panel: Panel):
    for query in panel.queries:
        names = set(re.findall(r"\bray_[a-z_]+", query.expr))
        assert names <= EXPORTED | RAYS_OWN, query.expr
        assert names


@each_panel
def test_legends_name_tags_that_the_question_keeps(board: Board, panel: Panel):
    for query in panel.queries:
        for tag in re.findall(r"\{\{(\w+)\}\}", query.legend):
            kept = re.findall(r"by \(([^)]*)\)", query.expr)
            assert any(tag in names.split(", ") for names in kept), query


def test_there_is_no_metric_that_nobody_looks_at():
    asked = " ".join(query.expr for _, panel in PANELS for query in panel.queries)
    asked += " ".join(rule.expr for rule in RULES)
    unseen = {metric.name for metric in ALL if not re.search(rf"\b{metric.exported}", asked)}
    assert unseen == {"dpa_account_cash_usd"}  # for those who ask by hand: NAV less positions


def test_the_data_source_is_chosen_by_who_looks():
    for content in dashboards().values():
        uids = set(re.findall(r'"uid": "([^"]+)"', json.dumps(content)))
        assert uids == {content["uid"], "${datasource}"}
        assert content["templating"]["list"][0]["type"] == "datasource"


def test_the_run_is_chosen_where_it_is_asked_for():
    for name, content in dashboards().items():
        names = {variable["name"] for variable in content["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(content["panels"])))
        assert used <= names, name
        assert ("run" in names) == (name == "research")
