"""Nothing that is measured can hurt who measures, and no number is exported that is none."""

import logging
import math
import pickle
from typing import Any

import pytest
from ray.util import metrics as ray_metrics

from dpa.telemetry import catalogue
from dpa.telemetry.catalogue import FEW
from dpa.telemetry.meters import OTHER, InstrumentMeters


class Instrument:
    """Remembers what it was told."""

    made: list["Instrument"]

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.told = arguments, list[tuple[float, dict[str, str]]]()

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.told.append((value, tags))

    set = observe = inc


class Failing(Instrument):
    def inc(self, value: float, tags: dict[str, str]) -> None:
        raise RuntimeError("the agent is away")

    set = observe = inc


class Shelf:
    """Makes instruments and keeps them by name."""

    def __init__(self, kind: type[Instrument] = Instrument) -> None:
        self.kind, self.found = kind, dict[str, Instrument]()

    def __call__(self, name: str, *arguments: Any) -> Instrument:
        assert name not in self.found, "made once"
        self.found[name] = self.kind(name, *arguments)
        return self.found[name]

    def told(self, metric: catalogue.Metric) -> list[tuple[float, dict[str, str]]]:
        return self.found[metric.name].told if metric.name in self.found else []


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def meters(shelf: Shelf) -> InstrumentMeters:
    return InstrumentMeters(shelf, shelf, shelf)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_number_of_money_that_is_none_leaves_the_known_one(meters, shelf, value):
    meters.gauge(catalogue.NAV, 1e6)
    meters.gauge(catalogue.NAV, value)
    assert shelf.told(catalogue.NAV) == [(1e6, {})]


@pytest.mark.parametrize("amount", [math.nan, math.inf, 0.0, -1.0])
def test_a_counter_only_grows(meters, shelf, amount):
    meters.count(catalogue.FEES, amount, sign="paid")
    assert shelf.told(catalogue.FEES) == []


def test_a_clock_that_was_set_back_is_no_negative_time(meters, shelf):
    meters.observe(catalogue.JOURNAL_COMMIT_SECONDS, -3.0)
    meters.observe(catalogue.JOURNAL_COMMIT_SECONDS, math.nan)
    assert shelf.told(catalogue.JOURNAL_COMMIT_SECONDS) == [(0.0, {})]


def test_what_comes_after_the_most_is_other(meters, shelf):
    for code in range(FEW + 40):
        meters.count(catalogue.GATEWAY_CODES, code=str(code))
    meters.count(catalogue.GATEWAY_CODES, code="3")
    told = [tags["code"] for _, tags in shelf.told(catalogue.GATEWAY_CODES)]
    assert len(set(told)) == FEW + 1
    assert told.count(OTHER) == 40
    assert told.count("3") == 2


def test_a_tag_that_is_long_is_cut(meters, shelf):
    meters.count(catalogue.ALERTS, severity="warning", kind="x" * 500)
    ((_, tags),) = shelf.told(catalogue.ALERTS)
    assert len(tags["kind"]) == 80


def test_a_mistake_of_the_program_is_an_error(meters):
    with pytest.raises(TypeError, match="is a gauge"):
        meters.count(catalogue.NAV)
    with pytest.raises(TypeError, match="with tags"):
        meters.count(catalogue.FILLS)
    with pytest.raises(TypeError, match="with tags"):
        meters.count(catalogue.FILLS, side="buy", symbol="AAPL")


def test_instruments_get_what_the_catalogue_says(meters, shelf):
    meters.observe(catalogue.STAGE_SECONDS, 0.1, stage="gate")
    stage = catalogue.STAGE_SECONDS
    made = shelf.found[stage.name].arguments
    assert made == (stage.name, stage.help, list(stage.buckets), ("stage",))


def test_an_instrument_that_fails_hurts_nobody_and_is_logged_once(caplog):
    shelf = Shelf(Failing)
    meters = InstrumentMeters(shelf, shelf, shelf)
    with caplog.at_level(logging.WARNING, logger="dpa.telemetry"):
        for _ in range(3):
            meters.count(catalogue.FILLS, side="buy")
    assert len(caplog.records) == 1


def test_they_travel_to_another_process_as_new_ones():
    meters = InstrumentMeters(ray_metrics.Counter, ray_metrics.Gauge, ray_metrics.Histogram)
    again = pickle.loads(pickle.dumps(meters))  # noqa: S301, what was made here
    assert again._makers == meters._makers
    assert again._instruments == {}
