import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dpa.config import OnlineConfig
from dpa.decision.alignment import Alignment
from dpa.decision.labels import Matured, Play
from dpa.decision.online import (
    OnlineRecord,
    adahedge_weights,
    drawn_arm,
    exp3_weights,
    filled,
    losses,
    mixability_gap,
)

SETTINGS = OnlineConfig()


def played(profits: list[float], *, arm: int = -1, chances: list[float] | None = None) -> Matured:
    """A bar on which family m earned ``profits[m]`` sigma per unit gross."""
    labels = np.array([1.0, *profits])
    scores = np.full((len(profits), len(labels)), np.nan)
    for family in range(len(profits)):
        scores[family, family + 1] = 1.0 if math.isfinite(profits[family]) else np.nan
    where = np.zeros(len(profits)) if chances is None else np.array(chances)
    return Matured(0, 1, Play(0, 1, scores, scores, where, arm), labels)


def test_hand_computed_losses() -> None:
    scores = np.array([[1.0, -3.0], [-1.0, 3.0], [0.0, 0.0], [np.nan, 2.0], [np.nan, np.nan]])
    labels = np.array([0.2, -0.1])
    # profits (0.2 + 0.3) / 4 = 0.125, -0.125, none, -0.1, none; scale 0.5
    wanted = [0.5 - 0.125, 0.5 + 0.125, np.nan, 0.5 + 0.1, np.nan]
    np.testing.assert_allclose(losses(scores, labels, 0.5), wanted)


@given(st.integers(0, 10_000), st.floats(1e-3, 100.0), st.floats(1e-3, 100.0))
@hypothesis_settings(max_examples=50, deadline=None)
def test_losses_are_in_the_unit_interval(seed: int, scale: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    found = losses(rng.standard_normal((3, 6)), size * rng.standard_normal(6), scale)
    assert ((found >= 0) & (found <= 1)).all()


def test_missing_family_gets_the_mean_of_the_others() -> None:
    np.testing.assert_allclose(filled(np.array([0.2, np.nan, 0.6])), [0.2, 0.4, 0.6])
    assert np.isnan(filled(np.full(3, np.nan))).all()


def plain_adahedge(stream: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Cumulative losses and gaps, as the paper writes them, on plain numbers."""
    total, gap, gaps = [0.0] * stream.shape[1], 0.0, []
    for row in stream:
        k = len(row)
        least = min(total)
        if gap == 0.0:
            raw = [1.0 if value == least else 0.0 for value in total]
        else:
            eta = math.log(k) / gap
            raw = [math.exp(-eta * (value - least)) for value in total]
        weights = [value / math.fsum(raw) for value in raw]
        hedge = math.fsum(w * x for w, x in zip(weights, row, strict=True))
        if gap == 0.0:
            mix = min(x for w, x in zip(weights, row, strict=True) if w > 0)
            mix = min(t + x for t, x in zip(total, row, strict=True)) - least
        else:
            mix = (
                -math.log(
                    math.fsum(w * math.exp(-eta * x) for w, x in zip(weights, row, strict=True))
                )
                / eta
            )
        gap += max(0.0, hedge - mix)
        total = [t + x for t, x in zip(total, row, strict=True)]
        gaps.append(gap)
    return np.array(total), gaps


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 40))
@hypothesis_settings(max_examples=50, deadline=None)
def test_adahedge_is_the_papers(seed: int, n_families: int, steps: int) -> None:
    stream = np.random.default_rng(seed).random((steps, n_families))
    total, gap = np.zeros(n_families), 0.0
    gaps = []
    for loss in stream:
        gap += mixability_gap(total, gap, loss)
        total = total + loss
        gaps.append(gap)
    wanted_total, wanted_gaps = plain_adahedge(stream)
    np.testing.assert_allclose(total, wanted_total, rtol=1e-12)
    np.testing.assert_allclose(gaps, wanted_gaps, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.0, 0.5))
@hypothesis_settings(max_examples=30, deadline=None)
def test_adahedge_regret_is_within_the_bound(seed: int, n_families: int, edge: float) -> None:
    """Regret at most 2 Delta (Lemma 3) and the bound in T of Theorem 8."""
    rng = np.random.default_rng(seed)
    stream = rng.random((300, n_families))
    stream[:, 0] *= 1.0 - edge
    total, gap, suffered = np.zeros(n_families), 0.0, 0.0
    for loss in stream:
        suffered += adahedge_weights(total, gap) @ loss
        gap += mixability_gap(total, gap, loss)
        total = total + loss
    regret = suffered - total.min()
    ln_k = math.log(n_families)
    best = total.min()
    bound = 2 * math.sqrt(best * (300 - best) / 300 * ln_k) + 16 / 3 * ln_k + 2
    assert regret <= 2 * gap + 1e-9
    assert regret <= bound


@pytest.mark.parametrize("gap", [0.0, 1e-300, 1e-17, 1.0, 1e6])
def test_adahedge_weights_are_weights_at_any_scale(gap: float) -> None:
    for total in (np.zeros(3), np.array([0.0, 1e6, 1e6]), np.array([1e-9, 0.0, 5.0])):
        weights = adahedge_weights(total, gap)
        assert weights.sum() == pytest.approx(1.0)
        assert (weights >= 0).all()
        for loss in (np.array([0.0, 1.0, 0.5]), np.array([1.0, 0.0, 0.0])):
            assert 0.0 <= mixability_gap(total, gap, loss) <= 1.0
    assert adahedge_weights(np.array([3.0]), gap) == [1.0]


def test_one_extreme_profit_does_not_decide() -> None:
    """+100 bps once gave one arm weight 1 (PITFALLS M2): here a loss is at most 1."""
    for mode in ("adahedge", "exp3ix"):
        settings = OnlineConfig(online_mode=mode)  # type: ignore[arg-type]
        record = OnlineRecord.start(1, 4)
        rng = np.random.default_rng(0)
        for _ in range(100):
            profits = rng.uniform(-0.2, 0.2, 4).tolist()
            record = record.with_matured([played(profits, arm=0, chances=[0.25] * 4)], settings)
        before = record.weights(settings)[0]
        record = record.with_matured(
            [played([1e6, 0.0, 0.0, 0.0], arm=0, chances=[1e-9, 0.3, 0.3, 0.4])], settings
        )
        after = record.weights(settings)[0]
        assert np.isfinite(after).all()
        assert np.abs(after - before).max() < 0.3


def test_exp3_ix_divides_by_the_chance_at_play_time() -> None:
    settings = OnlineConfig(online_mode="exp3ix", exploration=0.05, exp3_rate=0.07)
    record = OnlineRecord.start(1, 2)
    np.testing.assert_array_equal(record.weights(settings), [[0.5, 0.5]])
    record = record.with_matured([played([-0.25, 0.25], arm=0, chances=[0.2, 0.8])], settings)
    estimate = 0.75 / (0.2 + 0.05)
    np.testing.assert_allclose(record.estimates, [[estimate, 0.0]])
    weight = math.exp(-0.07 * estimate)
    np.testing.assert_allclose(
        record.weights(settings), [[weight / (1 + weight), 1 / (1 + weight)]]
    )
    later = record.with_matured([played([-0.25, 0.25], arm=1, chances=[0.9, 0.1])], settings)
    np.testing.assert_allclose(later.estimates, [[estimate, 0.25 / 0.15]])


def test_arms_are_drawn_by_their_chances_and_reproducibly() -> None:
    chances = np.array([0.1, 0.2, 0.3, 0.4])
    arms = [drawn_arm(chances, 0, bar, 5) for bar in range(4000)]
    shares = np.bincount(arms, minlength=4) / 4000
    np.testing.assert_allclose(shares, chances, atol=4 * np.sqrt(0.25 / 4000))
    assert arms == [drawn_arm(chances, 0, bar, 5) for bar in range(4000)]
    assert arms != [drawn_arm(chances, 1, bar, 5) for bar in range(4000)]
    assert arms != [drawn_arm(chances, 0, bar, 10) for bar in range(4000)]


def test_bars_without_any_loss_teach_nothing() -> None:
    record = OnlineRecord.start(1, 2).with_matured([played([math.nan, math.nan])], SETTINGS)
    assert record.bars == [0]
    np.testing.assert_array_equal(record.weights(SETTINGS), [[0.5, 0.5]])


def test_forgetting_brings_weights_back() -> None:
    record = OnlineRecord.start(1, 2)
    for _ in range(50):
        record = record.with_matured([played([0.1, -0.1])], SETTINGS)
    changed = record
    for bar in range(50):
        changed = (changed.faded(0.5) if bar % 5 == 0 else changed).with_matured(
            [played([-0.1, 0.1])], SETTINGS
        )
    kept = record
    for _ in range(40):
        kept = kept.with_matured([played([-0.1, 0.1])], SETTINGS)
    assert record.weights(SETTINGS)[0, 0] > 0.9
    assert changed.weights(SETTINGS)[0, 0] < 0.1
    assert kept.weights(SETTINGS)[0, 0] > 0.5


def test_exp3_weights_do_not_overflow() -> None:
    weights = exp3_weights(np.array([0.0, 1e9, 2e9]), 0.07)
    np.testing.assert_array_equal(weights, [1.0, 0.0, 0.0])


def test_new_family_starts_at_the_mean_of_the_others() -> None:
    record = replace(
        OnlineRecord.start(2, 2),
        losses=np.array([[10.0, 20.0], [1.0, 2.0]]),
        gap=np.array([3.0, 4.0]),
        bars=np.array([7, 8]),
    )
    to = Alignment(np.array([0, -1]), np.array([1, -1, 0]), np.array([], np.int64))
    moved = record.aligned(to)
    np.testing.assert_array_equal(moved.losses, [[20.0, 15.0, 10.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(moved.gap, [3.0, 0.0])
    np.testing.assert_array_equal(moved.bars, [7, 0])
    alone = record.aligned(Alignment(np.array([0]), np.array([1]), np.array([], np.int64)))
    np.testing.assert_array_equal(alone.weights(SETTINGS), [[1.0]])
