"""Shards through Ray: the same bars as in memory, read once, whatever the size."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpa.config import DataConfig
from dpa.errors import DataError
from dpa.market.calendars import TradingCalendar
from dpa.market.panel import EXTRAS, Panel, concat
from dpa.market.selections import select_shards
from dpa.market.session_grid import GridSource, on_session_grid
from dpa.market.shards import (
    ShardStoreSource,
    open_shard_store,
    start_shard_store,
    write_shards,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def random_panel(n_bars: int, n_assets: int, seed: int = 0) -> Panel:
    """Minute bars with gaps."""
    generator = np.random.default_rng(seed)
    times = TradingCalendar("XNYS").bar_closes("1m", "2018-01-02", "2020-12-31")[:n_bars]
    assert len(times) == n_bars
    prices = np.exp(generator.normal(0, 0.01, (n_bars, n_assets)).cumsum(axis=0))
    prices[generator.random(prices.shape) < 0.05] = np.nan
    extras = {name: generator.uniform(1e5, 1e7, prices.shape) for name in EXTRAS}
    names = tuple(f"N{k}" for k in range(n_assets))
    return Panel(times, names, prices, np.isfinite(prices), "1m", "XNYS", **extras)


def same(left: Panel, right: Panel) -> None:
    pd.testing.assert_index_equal(left.times, right.times, exact=False)
    np.testing.assert_array_equal(left.prices, right.prices)
    np.testing.assert_array_equal(left.mask, right.mask)
    assert left.extras().keys() == right.extras().keys()
    for name, values in left.extras().items():
        np.testing.assert_array_equal(values, right.extras()[name])
    assert (left.names, left.interval) == (right.names, right.interval)


def test_stream_equals_memory(tmp_path: Path) -> None:
    import ray

    panel = random_panel(5_000, 7)
    write_shards(panel, tmp_path / "shards", bars_per_shard=613)
    source = open_shard_store(DataConfig(path=str(tmp_path / "shards")), segment_bars=450)
    assert ray.get(source.store.finish.remote()) == 5_000
    same(source.window(0, 5_000), panel)
    for start, stop in ((0, 1), (449, 451), (1_000, 3_000), (4_999, 5_000), (7, 7)):
        same(source.window(start, stop), panel.window(start, stop))
    with pytest.raises(DataError, match=r"bars \[0, 5001\)"):
        source.window(0, 5_001)


def test_names_dates_and_universe_are_applied_on_the_way(tmp_path: Path) -> None:
    panel = random_panel(5_000, 6)
    write_shards(panel, tmp_path / "shards", bars_per_shard=700)
    config = DataConfig(
        path=str(tmp_path / "shards"),
        names=("N4", "N1", "N2", "N0"),
        start="2018-01-05",
        end="2018-01-12",
        min_history_bars=200,
        min_dollar_volume=1e6,
        top_by_dollar_volume=2,
        liquidity_lookback_bars=30,
    )
    source = open_shard_store(config, segment_bars=333)
    expected = select_shards(tmp_path / "shards", config).panel()
    assert 0 < expected.mask.sum() < expected.mask.size
    same(source.window(0, source.n_bars), expected)


def test_a_grid_over_a_store_travels_to_trials(tmp_path: Path) -> None:
    import ray

    panel = random_panel(3_000, 3)
    kept = [panel.window(0, 700), panel.window(750, 1_999), panel.window(2_000, 3_000)]
    write_shards(iter(kept), tmp_path / "shards", bars_per_shard=400)
    config = DataConfig(path=str(tmp_path / "shards"))

    @ray.remote(num_cpus=0)
    def middle(source: GridSource) -> tuple[int, Panel]:
        return source.n_bars, source.window(690, 2_010)

    expected = on_session_grid(concat(kept))
    assert expected.n_bars == 3_000
    for source in (open_shard_store(config, segment_bars=450), select_shards(config.path, config)):
        n_bars, window = ray.get(middle.remote(GridSource(source)))
        assert n_bars == 3_000
        same(window, expected.window(690, 2_010))


def test_plain_files_of_others_stream(tmp_path: Path) -> None:
    panel = random_panel(1_500, 3)
    frame = pd.DataFrame(panel.prices, panel.times, panel.names)
    for number, start in enumerate((1_000, 500, 0)):  # file names against the order of time
        frame.iloc[start : start + 500].to_parquet(tmp_path / f"{number}.parquet")
    source = open_shard_store(DataConfig(path=str(tmp_path)), segment_bars=350)
    streamed = source.window(0, source.n_bars)
    np.testing.assert_array_equal(streamed.prices, panel.prices)
    np.testing.assert_array_equal(streamed.mask, panel.mask)
    assert (streamed.times == panel.times).all()
    assert streamed.dollar_volume is None


def test_files_are_read_once_even_when_trials_hold_every_cpu(tmp_path: Path) -> None:
    import ray

    @ray.remote(num_cpus=2, max_restarts=0)
    class Trial:
        def use(self, source: ShardStoreSource, stop: int) -> float:
            return float(np.nansum(source.window(0, stop).prices))

    panel = random_panel(2_000, 5)
    write_shards(panel, tmp_path / "shards", bars_per_shard=500)
    expected = float(np.nansum(panel.prices))
    trial = Trial.remote()
    ray.get(trial.__ray_ready__.remote())
    source = open_shard_store(DataConfig(path=str(tmp_path / "shards")), segment_bars=300)
    assert ray.get(trial.use.remote(source, 2_000)) == pytest.approx(expected, rel=1e-12)
    for file in (tmp_path / "shards").glob("*.parquet"):
        file.unlink()  # nothing can be read a second time
    assert ray.get(trial.use.remote(source, 2_000)) == pytest.approx(expected, rel=1e-12)
    same(source.window(0, 2_000), panel)
    ray.kill(trial)


def private_megabytes() -> float:
    """Memory of this process alone: the shared object store is not counted."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    private = [line.split()[1] for line in rollup.splitlines() if line.startswith("Private_")]
    return sum(map(int, private)) / 1024


@pytest.fixture(scope="module")
def big_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """250 MB of bars, two and a half times the object store; bar t of every name costs t + 1."""
    folder = tmp_path_factory.mktemp("big") / "shards"
    times = TradingCalendar("XNYS").bar_closes("1m", "2018-01-02", "2020-12-31")[:150_000]
    names = tuple(f"N{k:03d}" for k in range(100))

    def pieces() -> Iterator[Panel]:
        for start in range(0, len(times), 15_000):
            part = times[start : start + 15_000]
            level = np.arange(start + 1, start + len(part) + 1, dtype=float)
            prices = np.repeat(level[:, None], 100, axis=1)
            yield Panel(part, names, prices, np.ones(prices.shape, bool), "1m", "XNYS", prices)

    write_shards(pieces(), folder, bars_per_shard=15_000)
    return folder


def test_history_larger_than_the_object_store_in_bounded_memory(big_history: Path) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Trial:
        def walk(self, source: ShardStoreSource, first: int, last: int) -> tuple[int, float]:
            for start in range(first, last, 3_000):
                window = source.window(start, start + 6_000)
                expected = np.arange(start + 1, start + 6_001)
                assert (window.prices == expected[:, None]).all()
            return last, private_megabytes()

    source = open_shard_store(DataConfig(path=str(big_history)), segment_bars=2_500)
    size = source.n_bars * len(source.names) * 17
    assert size > 2 * ray.cluster_resources()["object_store_memory"]
    trial = Trial.remote()
    _, early = ray.get(trial.walk.remote(source, 0, 15_000))
    _, late = ray.get(trial.walk.remote(source, 15_000, 144_000))
    window_megabytes = 6_000 * 100 * 17 / 2**20
    assert late - early < 3 * window_megabytes
    ray.kill(trial)


def test_a_killed_store_reads_again(tmp_path: Path) -> None:
    import ray

    panel = random_panel(2_000, 5)
    write_shards(panel, tmp_path / "shards", bars_per_shard=500)
    source = open_shard_store(DataConfig(path=str(tmp_path / "shards")), segment_bars=300)
    same(source.window(0, 700), panel.window(0, 700))
    process = ray.get(source.store.process_id.remote())
    os.kill(process, signal.SIGKILL)
    same(source.window(500, 2_000), panel.window(500, 2_000))
    assert ray.get(source.store.process_id.remote()) != process


def test_an_unreadable_shard_is_one_line_for_the_trial(tmp_path: Path) -> None:
    manifest = write_shards(random_panel(900, 3), tmp_path / "shards", bars_per_shard=300)
    broken = tmp_path / "shards" / manifest.files[1].name
    config = DataConfig(path=str(tmp_path / "shards"))
    source = open_shard_store(config, segment_bars=300)
    broken.write_bytes(broken.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"000001.parquet: is not the file that was written"):
        open_shard_store(config)  # a run that begins now does not get as far
    with pytest.raises(DataError, match=r"000001.parquet: cannot be read") as caught:
        source.window(0, 900)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"000001.parquet"):
        source.window(0, 900)  # and again, rather than waiting for ever


def test_a_source_travels_without_what_it_holds(tmp_path: Path) -> None:
    import ray

    panel = random_panel(400, 3)
    write_shards(panel, tmp_path / "shards")
    selection = select_shards(tmp_path / "shards", DataConfig())
    source = ShardStoreSource(start_shard_store(selection, 100), selection, 100)
    source.window(0, 400)

    @ray.remote(num_cpus=0)
    def first_bar(source: ShardStoreSource) -> tuple[int, Panel]:
        return len(source._held), source.window(0, 1)

    held, window = ray.get(first_bar.remote(source))
    assert held == 0
    same(window, panel.window(0, 1))
