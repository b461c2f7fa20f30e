"""Windows from files without Ray: the same bars, and no more files than needed."""

import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpa.config import DataConfig
from dpa.errors import DataError
from dpa.market.calendars import TradingCalendar
from dpa.market.disk_source import DiskSource
from dpa.market.panel import EXTRAS, Panel
from dpa.market.selections import select_shards
from dpa.market.session_grid import GridSource
from dpa.market.shard_files import bar_bytes, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 daily bars of 4 names in 100 files."""
    folder = tmp_path_factory.mktemp("disk") / "shards"
    generator = np.random.default_rng(3)
    times = TradingCalendar("XNYS").bar_closes("1d", "2019-01-01", "2023-12-31")[:900]
    prices = np.exp(generator.normal(0, 0.02, (900, 4)).cumsum(axis=0))
    prices[generator.random(prices.shape) < 0.1] = np.nan
    extras = {name: generator.uniform(1e5, 1e8, prices.shape) for name in EXTRAS}
    panel = Panel(times, tuple("ABCD"), prices, np.isfinite(prices), "1d", **extras)
    write_shards(panel, folder, 9)
    return folder


def same(left: Panel, right: Panel) -> None:
    assert (left.times == right.times).all()
    assert left.names == right.names
    np.testing.assert_array_equal(left.prices, right.prices)
    np.testing.assert_array_equal(left.mask, right.mask)
    assert left.extras().keys() == right.extras().keys()
    for name, values in left.extras().items():
        np.testing.assert_array_equal(values, right.extras()[name])


@given(
    windows=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 60)), min_size=1, max_size=4),
    rules=st.sampled_from(
        [
            {},
            {"min_history_bars": 200},
            {"top_by_dollar_volume": 2, "liquidity_lookback_bars": 20},
        ]
    ),
    names=st.sampled_from([None, ("C", "A")]),
    start=st.sampled_from([None, "2019-03-01"]),
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_windows_are_those_of_the_whole(
    shards: Path,
    windows: list[tuple[int, int]],
    rules: dict[str, int],
    names: tuple[str, ...] | None,
    start: str | None,
) -> None:
    config = DataConfig(names=names, start=start, end="2022-04-29", **rules)
    selection = select_shards(shards, config)
    whole = selection.panel()
    source = DiskSource(selection)
    assert (source.n_bars, source.names, source.interval) == (whole.n_bars, whole.names, "1d")
    for begin, length in windows:
        same(source.window(begin, begin + length), whole.window(begin, begin + length))
    sent = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    same(sent.window(20, 40), whole.window(20, 40))
    assert len(source._universes) <= 34


def count_reads(source: DiskSource, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    kind = type(source.selection)
    honest = kind.raw_blocks

    def watched(self: object, file: object, *rest: object) -> Iterator[object]:
        read.append(file.name)
        return honest(self, file, *rest)

    monkeypatch.setattr(kind, "raw_blocks", watched)
    return read


def test_only_the_files_of_a_window_are_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DiskSource(select_shards(shards, DataConfig()))
    read = count_reads(source, monkeypatch)
    source.window(450, 460)
    assert read == ["000050.parquet", "000051.parquet"]
    source.window(459, 463)  # the last file is held
    assert len(read) == 2
    source.window(5, 5)
    assert len(read) == 2
    source.window(445, 462)  # the one that is held comes first
    assert read[2:] == ["000049.parquet", "000050.parquet"]


def test_rules_that_look_back_read_the_past_once(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DiskSource(select_shards(shards, DataConfig(min_history_bars=30)))
    read = count_reads(source, monkeypatch)
    source.window(810, 818)
    assert len(read) == 91
    source.window(819, 820)  # goes on from there
    assert len(read) == 92
    source.window(450, 451)  # from the nearest state that is kept
    assert len(read) <= 92 + 4


def test_memory_is_bounded_by_the_window_and_one_file(tmp_path: Path) -> None:
    times = TradingCalendar("XNYS").bar_closes("5m", "2019-01-01", "2019-12-31")[:12_000]
    prices = np.repeat(np.arange(1.0, 12_001)[:, None], 40, axis=1)
    names = tuple(f"N{k}" for k in range(40))
    held = np.ones(prices.shape, bool)
    extras = dict.fromkeys(EXTRAS, prices)
    write_shards(Panel(times, names, prices, held, "5m", **extras), tmp_path / "s", 500)
    source = GridSource(select_shards(tmp_path / "s", DataConfig()))
    bar = bar_bytes(40, len(EXTRAS))
    tracemalloc.start()
    try:
        for start in range(0, 11_700, 900):
            window = source.window(start, start + 300)
            assert window.prices[0, 0] == start + 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * (300 + 500) * bar < 12_000 * bar / 5  # the last two windows; one file


def test_bars_outside(shards: Path) -> None:
    source = DiskSource(select_shards(shards, DataConfig()))
    for start, stop in ((-1, 3), (5, 4), (0, 901)):
        with pytest.raises(DataError, match=r"are outside \[0, 900\)"):
            source.window(start, stop)
