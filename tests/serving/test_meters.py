"""What the graph counts."""

from datetime import UTC, datetime

import pytest

from dpa.serving.meters import ServingMeters
from dpa.telemetry import catalogue as c
from tests.telemetry.recorded import Recorded

UNTIL = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def meters(recorded: Recorded) -> ServingMeters:
    return ServingMeters(recorded)


def test_a_decision_is_counted_by_level_reason_and_action(meters, recorded):
    meters.decided({"no_skill": 6, "limit": 0}, {"enter": 2, "hold": 6}, "reduce_only")
    meters.decided({"no_skill": 8, "limit": 0}, {"enter": 0, "hold": 8}, "normal")
    assert recorded.of(c.DECISIONS, level="normal") == 1
    assert recorded.of(c.DECISIONS, level="reduce_only") == 1
    assert recorded.of(c.DECISION_REASONS, reason="no_skill") == 14
    assert recorded.of(c.DECISION_ACTIONS, action="enter") == 2


def test_a_family_is_counted_by_what_came_of_it(meters, recorded):
    meters.family("gbdt", ok=True)
    meters.family("gbdt", ok=False, why="late")
    meters.family("gbdt", ok=False, why="failed")
    for outcome in ("ok", "late", "failed"):
        assert recorded.of(c.FAMILY_ANSWERS, family="gbdt", outcome=outcome) == 1


def test_one_bundle_is_in_use_at_a_time(meters, recorded):
    meters.bundle("old", UNTIL, refused=True)
    assert recorded.of(c.BUNDLE_REFUSED) == 1
    meters.bundle("new", UNTIL, refused=False)
    assert recorded.of(c.BUNDLE_SERVED, bundle="old") == 0
    assert recorded.of(c.BUNDLE_SERVED, bundle="new") == 1
    assert recorded.of(c.BUNDLE_TRAINED_UNTIL) == UNTIL.timestamp()
    assert recorded.of(c.BUNDLE_REFUSED) == 0


def test_a_stage_is_timed_in_seconds(meters, recorded):
    meters.stage("gate", 0.0025)
    assert recorded.observed[c.STAGE_SECONDS.name, (("stage", "gate"),)] == [0.0025]
