from dataclasses import replace

import numpy as np
import pytest

from dpa.decision.alignment import Alignment
from dpa.decision.labels import NO_ARM, LabelQueue, Play, Seen, scaled_labels
from dpa.horizons.targets import scaled_targets
from dpa.market.interval_specs import Horizon

HORIZONS = (Horizon(5, 1, "5m"), Horizon(15, 3, "15m"), Horizon(30, 6, "30m"))
CLIP = 5.0


def history(seed: int, n_bars: int = 40, n_symbols: int = 7) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    prices = 50 * np.exp(2e-3 * rng.standard_normal((n_bars, n_symbols)).cumsum(axis=0))
    prices[rng.random(prices.shape) < 0.1] = np.nan
    sigma = rng.uniform(5, 15, prices.shape)
    sigma[rng.random(prices.shape) < 0.05] = np.nan
    sigma[0, 0] = 0.0
    return prices, sigma, rng.random(prices.shape) < 0.8


def replay(
    prices: np.ndarray,
    sigma: np.ndarray,
    member: np.ndarray,
    lag: int = 1,
    target: str = "excess",
    absent: frozenset[int] = frozenset(),
) -> np.ndarray:
    """Labels by bar of the forecast, as the queue lets them mature; (n_bars, n_symbols, n_h)."""
    found = np.full((*prices.shape, len(HORIZONS)), np.nan)
    queue = LabelQueue.start(len(HORIZONS))
    nothing = np.zeros((1, prices.shape[1]))
    for bar in range(len(prices)):
        if bar in absent:
            continue
        for one in queue.mature(bar, prices[bar], HORIZONS, CLIP):
            assert one.play.bar + lag - 1 + one.bars == bar
            found[one.play.bar, :, one.horizon] = one.labels
        seen = Seen(bar, lag, target, prices[bar], sigma[bar], member[bar])  # type: ignore[arg-type]
        plays = tuple(
            Play(bar, bar + lag - 1 + h.bars, nothing, nothing, np.zeros(1)) for h in HORIZONS
        )
        queue = queue.remember(seen, plays)
    return found


@pytest.mark.parametrize("lag", [1, 2, 4])
@pytest.mark.parametrize("target", ["excess", "return"])
def test_labels_are_what_the_families_learned(lag: int, target: str) -> None:
    prices, sigma, member = history(lag)
    wanted = scaled_targets(prices, sigma, HORIZONS, lag, member if target == "excess" else None)
    found = replay(prices, sigma, member, lag, target)
    np.testing.assert_allclose(found, np.clip(wanted, -CLIP, CLIP), rtol=2e-7)  # oracle is float32
    assert np.isfinite(found).sum() > 300


def test_bars_that_never_came_leave_no_label() -> None:
    prices, sigma, member = history(5)
    absent = frozenset({7, 8, 20, 33})
    holes = prices.copy()
    holes[list(absent)] = np.nan
    wanted = scaled_targets(holes, sigma, HORIZONS, 2, member)
    wanted[list(absent)] = np.nan  # no forecast was made there either
    found = replay(prices, sigma, member, 2, absent=absent)
    np.testing.assert_allclose(found, np.clip(wanted, -CLIP, CLIP), rtol=2e-7)


def scaled_label(
    entry: np.ndarray, end: np.ndarray, minutes: int, decided: Seen, clip: float
) -> np.ndarray:
    return scaled_labels(entry[None], end, np.array([float(minutes)]), [decided], clip)[0]


def test_hand_computed_label() -> None:
    decided = Seen(0, 1, "excess", np.ones(4), np.full(4, 10.0), np.array([1, 1, 1, 0], bool))
    end = np.array([1.01, 1.00, 1.02, 1.05])
    label = scaled_label(np.ones(4), end, 25, decided, 5.0)
    # 100, 0, 200 and 500 bps; members' mean 100; sigma_h 50 bps; cut at 5
    np.testing.assert_allclose(label, [0.0, -2.0, 2.0, 5.0], atol=1e-12)
    plain = scaled_label(np.ones(4), end, 25, replace(decided, target="return"), 5.0)
    np.testing.assert_allclose(plain, [2.0, 0.0, 4.0, 5.0], atol=1e-12)


def test_excess_needs_three_members() -> None:
    decided = Seen(0, 1, "excess", np.ones(4), np.full(4, 10.0), np.array([1, 1, 0, 0], bool))
    assert np.isnan(scaled_label(np.ones(4), np.full(4, 1.01), 5, decided, 5.0)).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_prices_have_no_label(bad: float) -> None:
    decided = Seen(0, 1, "return", np.ones(2), np.full(2, 10.0), np.ones(2, bool))
    good, wrong = np.array([1.0, 1.01]), np.array([bad, 1.0])
    for entry, end in ((good, wrong), (wrong, good)):
        label = scaled_label(entry, end, 5, decided, 5.0)
        assert np.isnan(label[0])
        assert np.isfinite(label[1])


def test_only_what_is_pending_is_kept() -> None:
    prices, sigma, member = history(1)
    queue, nothing = LabelQueue.start(len(HORIZONS)), np.zeros((1, 7))
    for bar in range(40):
        seen = Seen(bar, 2, "return", prices[bar], sigma[bar], member[bar])
        plays = tuple(Play(bar, bar + 1 + h.bars, nothing, nothing, np.zeros(1)) for h in HORIZONS)
        queue = queue.remember(seen, plays)
    assert [len(plays) for plays in queue.plays] == [2, 4, 7]  # bars + lag - 1
    assert [seen.bar for seen in queue.seen] == list(range(33, 40))
    late = queue.remember(
        replace(queue.seen[-1], bar=1000), tuple(replace(p[-1], end=2000) for p in queue.plays)
    )
    assert [len(plays) for plays in late.plays] == [1, 1, 1]


def test_alignment_keeps_what_is_known() -> None:
    play = Play(0, 3, np.arange(6.0).reshape(2, 3), np.ones((2, 3)), np.array([0.3, 0.7]), 1)
    seen = Seen(0, 1, "return", np.array([1.0, 2.0, 3.0]), np.ones(3), np.ones(3, bool))
    queue = LabelQueue((seen,), ((play,),))
    to = Alignment(np.array([-1, 0]), np.array([1, -1]), np.array([2, -1, 0]))
    moved = queue.aligned(to)
    assert moved.plays[0] == ()
    found = moved.plays[1][0]
    np.testing.assert_array_equal(found.forecasts, [[5.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(found.chances, [0.7, 0.0])
    assert found.arm == 0
    np.testing.assert_array_equal(moved.seen[0].price, [3.0, np.nan, 1.0])
    np.testing.assert_array_equal(moved.seen[0].member, [True, False, True])
    gone = queue.aligned(Alignment(np.array([0]), np.array([0]), np.array([0])))
    assert gone.plays[0][0].arm == NO_ARM
