"""Every metric that is counted is in the catalogue, and none is there that nobody counts."""

import ast
import re
from pathlib import Path

import pytest

from dpa.cli import main
from dpa.telemetry import catalogue
from dpa.telemetry.catalogue import ALL, Kind, Metric, Room, Unit
from tests.telemetry.fed import feed
from tests.telemetry.recorded import Recorded

REPOSITORY = Path(__file__).resolve().parents[2]
OPEN_ENDED = {"symbol", "account", "order", "intent", "decision", "id", "ref", "user", "what"}
SOURCES = sorted(
    path for room in ("dpa", "serve", "tune") for path in (REPOSITORY / room).rglob("*.py")
)


def test_what_is_counted_is_the_catalogue():
    recorded = Recorded()
    feed(recorded)
    assert recorded.metrics == set(ALL)


def test_each_metric_is_counted_somewhere_in_the_code():
    used = set()
    for path in SOURCES:
        if path.parent.name != "telemetry":
            used |= set(re.findall(r"\bcatalogue\.([A-Z_]+)\b", path.read_text(encoding="utf-8")))
    named = {name for name, value in vars(catalogue).items() if isinstance(value, Metric)}
    assert used == named


def test_instruments_are_made_of_the_catalogue_only():
    makers = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in (
                "ray.util.metrics",
                "prometheus_client",
            ):
                makers.add(path.relative_to(REPOSITORY).as_posix())
    assert makers == {"serve/meters.py", "tune/_meters.py"}


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_says_what_it_is(metric: Metric):
    assert re.fullmatch(r"dpa_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help[-1] not in ".;: "
    assert len(metric.help) > 8
    assert not metric.name.endswith("_total"), "Ray adds it"
    if metric.unit is not Unit.COUNT:
        assert metric.name.endswith(f"_{metric.unit}")
    else:
        units = tuple(f"_{unit}" for unit in Unit if unit is not Unit.COUNT)
        assert not metric.name.endswith((*units, "_milliseconds", "_ms", "_bps", "_percent"))


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_the_values_of_tags_are_few(metric: Metric):
    assert not OPEN_ENDED & set(metric.tags)
    by_trial = metric.room is Room.TRIALS and set(metric.tags) == {"run", "trial"}
    assert metric.most == (catalogue.TRIALS_MOST if by_trial else catalogue.FEW)


def test_histograms_have_bounds_that_rise_and_nothing_else_has():
    for metric in ALL:
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert all(bound > 0 for bound in metric.buckets), "Ray refuses others"


def test_names_are_unique_and_every_room_has_some():
    assert len({metric.name for metric in ALL}) == len(ALL)
    assert {metric.room for metric in ALL} == set(Room)


def test_the_command_lists_them_all(capsys):
    assert main(["metrics", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ALL) + 1
    for metric, line in zip(ALL, lines[1:], strict=True):
        assert metric.exported in line.split()
        assert line.endswith(metric.help)
    assert main(["metrics", "list", "--room", "fills"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == {"fills"}
