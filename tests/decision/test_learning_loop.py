"""The learning loop closes: small versions of tests/benchmarks/bench_learning_loop.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SESSIONS = 4


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "bench_learning_loop.py"
    spec = importlib.util.spec_from_file_location("bench_learning_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_right_family_rises_and_falls_when_it_turns_wrong(bench: ModuleType) -> None:
    half = SESSIONS * bench.BARS_PER_SESSION
    runs = [bench.follow(seed, 2 * half) for seed in range(2)]
    for place, horizon in enumerate(bench.HORIZONS):
        for run in runs:
            assert bench.first_bar(np.isfinite(run.ic[:, place])) == horizon.bars
        ic, parity, weight, bandit, hedge, share = (
            np.mean([getattr(run, name)[:, place] for run in runs], axis=0)
            for name in ("ic", "parity", "weight", "weight_exp3", "adahedge", "share")
        )
        assert bench.first_bar(ic > 0) <= 4 * horizon.bars
        assert bench.first_bar(parity > bench.EQUAL) <= 8 * horizon.bars
        assert (parity[: horizon.bars] == 0).all()
        for rising in (weight, bandit, hedge):
            assert rising[half - 1] > 0.5
            assert rising[-1] < bench.EQUAL
        assert share[half - 1] > 0.6
        assert share[-1] < bench.EQUAL
        assert 0.03 < ic[half - 1] < bench.SKILL
        assert ic[-1] < 0.01


@pytest.mark.parametrize(("noise", "least"), [(5.0, 2.8), (20.0, 2.4), (50.0, 1.2)])
def test_adahedge_earns_what_the_best_arm_does(
    bench: ModuleType, noise: float, least: float
) -> None:
    """2,000 steps, best arm +3 bps; Exp3-IX and equal weights earn next to nothing (M2b)."""
    streams = bench.profit_streams(8, noise)
    hedged, bandit = bench.adahedge(streams), bench.exp3ix(streams, 0.07, 0.05)
    assert hedged.profit.mean() > least
    assert abs(bandit.profit.mean()) < 0.6
    assert abs(bench.equal_weights(streams).profit.mean()) < 0.4
    for found in (hedged, bandit):
        assert (found.regret <= found.bound).all()
    assert bench.adahedge(streams, delay=78).profit.mean() > least - 0.3


def test_forgetting_limits_what_a_turn_costs(bench: ModuleType) -> None:
    streams = bench.profit_streams(8, 20.0)
    streams[:, bench.STEPS // 2 :, 0] -= 6.0
    never, some = bench.adahedge(streams), bench.adahedge(streams, fade=0.5 ** (1 / 5))
    after = slice(bench.STEPS // 2, None)
    assert some.profit[:, after].mean() > never.profit[:, after].mean() + 1.0
    assert some.profit[:, : bench.STEPS // 2].mean() > 2.0
