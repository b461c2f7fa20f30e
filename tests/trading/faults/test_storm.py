"""A short storm on the whole stack; ``tests/benchmarks/storm_trading.py`` plays long ones."""

import asyncio
from pathlib import Path

import pytest

from tests.trading.faults.storm import Storm


@pytest.mark.parametrize("seed", [7])
def test_in_a_storm_no_fill_is_lost_and_no_order_sent_twice(seed: int, tmp_path: Path) -> None:
    storm = Storm(tmp_path, seed, orders=300, names=16, decisions=15, faults=4)
    result = asyncio.run(asyncio.wait_for(storm.run(), 280))
    assert result.good, result
    assert result.orders >= 300
    assert len(result.faults) > 10
