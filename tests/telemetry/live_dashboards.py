"""``make dashboards-test``: every panel of every dashboard has data on a live run. Minutes.

A grid, predictors, the decision graph and a trader run on a real Ray, a real Prometheus finds
them through the file that Ray writes and reads them, and each question of each panel is asked
through its HTTP interface. With ``DPA_PICTURES=1`` the dashboards are drawn into docs/images.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dpa.telemetry.boards import BOARDS
from dpa.telemetry.catalogue import ALL, Kind
from dpa.telemetry.dashboards import dashboards
from dpa.telemetry.rules import RULES
from tests.telemetry.live_run import LiveRun, live_run
from tests.telemetry.pictures import Line, ask, page, screenshot

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
STEP = 2.0  # seconds between points
NOT_COUNTED = {  # in this run, and why
    "dpa_trial_restarts": "no process died",
    "dpa_targets_left_out": "every part of a decision made an intent",
    "dpa_orders_refused": "no check refused an order",
    "dpa_fill_corrections": "the simulated gateway corrected no fill",
    "dpa_gateway_link_changes": "the connection lasted from the beginning to the end",
    "dpa_alerts": "there was nothing to alert of",
}
NO_DATA: dict[tuple[str, str], str] = {}  # panels without data in this run, and why

pytestmark = [
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (Debian)"
    ),
]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveRun]:
    with live_run() as running:
        yield running


def drawn(live: LiveRun, name: str) -> dict[int, Sequence[Line]]:
    """What each panel of a dashboard shows, by its number."""
    start, end = live.span(name)
    panels = [panel for panel in dashboards()[name]["panels"] if panel["type"] != "row"]
    return {panel["id"]: ask(live.prometheus, panel, start, end, STEP) for panel in panels}


@pytest.mark.parametrize("name", [board.name for board in BOARDS])
def test_every_panel_has_data(live: LiveRun, name: str) -> None:
    content, found = dashboards()[name], drawn(live, name)
    if os.environ.get("DPA_PICTURES"):
        start, end = live.span(name)
        words = (
            f"A run of {(end - start) / 60:.0f} minutes; drawn by dpa's own renderer from the "
            "dashboard's JSON and what Prometheus answered to its queries, not by Grafana."
        )
        screenshot(page(content, found, words, (start, end)), IMAGES / f"dashboard-{name}.png")
    empty = {
        (name, panel["title"]) for panel in content["panels"] if not found.get(panel["id"], ["row"])
    }
    assert empty == {key for key in NO_DATA if key[0] == name}


def test_every_metric_was_counted_but_those_that_had_no_reason_to(live: LiveRun) -> None:
    names = set(live.prometheus.get("label/__name__/values"))
    missing = {
        metric.name
        for metric in ALL
        if metric.exported + ("_count" if metric.kind is Kind.HISTOGRAM else "") not in names
    }
    assert missing <= set(NOT_COUNTED), missing - set(NOT_COUNTED)


def test_everything_of_ours_in_prometheus_is_in_the_catalogue(live: LiveRun) -> None:
    names = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in live.prometheus.get("label/__name__/values")
        if name.startswith("ray_dpa_")
    }
    assert names <= {metric.exported for metric in ALL} | {f"ray_{metric.name}" for metric in ALL}


def test_prometheus_has_the_rules_and_found_none_it_cannot_judge(live: LiveRun) -> None:
    groups = live.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule.name for rule in RULES}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_no_tag_names_a_symbol_or_an_account(live: LiveRun) -> None:
    series = live.prometheus.get("series", **{"match[]": '{__name__=~"ray_dpa_.*"}'})
    own = {tag for metric in ALL for tag in metric.tags}
    values = {str(each[tag]) for each in series for tag in own & set(each)}
    assert not [value for value in values if re.fullmatch(r"N\d+|DU\d+", value)]
    assert len(series) < 3000
