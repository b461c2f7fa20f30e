"""The history of a run: the same bars from a file, from shards, and when a run is resumed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpa.config import DataConfig, Settings
from dpa.errors import DataError, RunError
from dpa.market import shard_files
from dpa.market.panel import Panel
from dpa.market.shard_files import write_shards
from dpa.research.history import (
    History,
    ensure_shards,
    last_bars_of_shards,
    located,
    open_history,
    reopen_history,
)
from dpa.research.single import last_price_bars
from dpa.simulation.planted import PlantedMarket, simulate
from dpa.validation.splits import Fold


@pytest.fixture(scope="module")
def panel() -> Panel:
    market = PlantedMarket(
        n_clusters=2, names_per_cluster=4, n_bars=120, late_listings=0.4, delistings=0.4
    )
    return simulate(market, 11).panel


@pytest.fixture(scope="module")
def shards(panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(panel, folder, bars_per_shard=25)
    return folder


@pytest.fixture
def file(panel: Panel, tmp_path: Path) -> Path:
    dates = panel.times.tz_convert("America/New_York").normalize().tz_localize(None)
    path = tmp_path / "prices.parquet"
    pd.DataFrame(panel.prices, dates.rename("date"), list(panel.names)).to_parquet(path)
    return path


@pytest.mark.parametrize(("first", "last"), [(0, 119), (30, 119), (0, 70), (26, 49), (60, 61)])
def test_last_bars_are_those_of_the_panel_in_memory(
    first: int, last: int, panel: Panel, shards: Path
) -> None:
    days = panel.times.tz_convert("America/New_York").strftime("%Y-%m-%d")
    config = DataConfig(path=str(shards), start=days[first], end=days[last])
    history = open_history(config)
    assert history.selection is not None
    expected = last_price_bars(panel.window(first, last + 1))
    np.testing.assert_array_equal(last_bars_of_shards(history.selection), expected)
    assert history.n_bars == last + 1 - first


def test_a_file_becomes_shards_once_and_the_bars_stay(file: Path, tmp_path: Path) -> None:
    history = open_history(DataConfig(path=str(file)))
    cached = ensure_shards(history, tmp_path / "cache")
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.parquet")}
    again = ensure_shards(history, tmp_path / "cache")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.parquet")} == written
    for other in (cached, again):
        np.testing.assert_array_equal(other.in_memory().prices, history.in_memory().prices)
        np.testing.assert_array_equal(other.in_memory().mask, history.in_memory().mask)
        assert other.fingerprint == history.fingerprint
        assert other.times.equals(history.times)


def test_damaged_shards_in_the_cache_are_written_again(file: Path, tmp_path: Path) -> None:
    history = open_history(DataConfig(path=str(file)))
    ensure_shards(history, tmp_path / "cache")
    [shard] = (tmp_path / "cache").rglob("*.parquet")
    shard.write_bytes(b"PAR1")
    mended = ensure_shards(history, tmp_path / "cache")
    np.testing.assert_array_equal(mended.in_memory().prices, history.in_memory().prices)


def test_shards_are_used_where_they_lie(shards: Path, tmp_path: Path) -> None:
    history = ensure_shards(open_history(DataConfig(path=str(shards))), tmp_path / "cache")
    assert history.describe().shards == str(shards)
    assert not (tmp_path / "cache").exists()


def test_a_resumed_run_does_not_need_the_file_while_its_shards_are_there(
    file: Path, tmp_path: Path
) -> None:
    config = DataConfig(path=str(file))
    data = ensure_shards(open_history(config), tmp_path / "cache").describe()
    file.unlink()
    assert reopen_history(config, data).describe() == data


def test_a_resumed_run_refuses_other_data(file: Path, shards: Path, tmp_path: Path) -> None:
    config = DataConfig(path=str(file))
    data = open_history(config).describe()
    assert reopen_history(config, data).fingerprint == data.fingerprint
    frame = pd.read_parquet(file)
    (frame * 1.01).to_parquet(file)
    with pytest.raises(RunError, match="the data changed since the run began"):
        reopen_history(config, data)


def change_a_price(history: History) -> Path:
    """Another price in the last shard, with the same rows, times and columns."""
    assert history.selection is not None
    manifest = history.selection.manifest
    path = manifest.path(manifest.files[-1])
    frame, schema = pd.read_parquet(path), pq.read_schema(path)
    frame[manifest.names[0]] *= 1.01
    pq.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False), path)
    return path


def test_changed_prices_in_shards_are_noticed(panel: Panel, tmp_path: Path) -> None:
    write_shards(panel, tmp_path / "shards", bars_per_shard=25)
    config = DataConfig(path=str(tmp_path / "shards"))
    data = open_history(config).describe()
    change_a_price(open_history(config))
    for again in (lambda: reopen_history(config, data), lambda: open_history(config)):
        with pytest.raises(DataError, match=r"000004\.parquet: is not the file.*; restore it"):
            again()


def test_changed_shards_of_a_file_are_made_again(file: Path, tmp_path: Path) -> None:
    config = DataConfig(path=str(file))
    first = ensure_shards(open_history(config), tmp_path / "cache")
    change_a_price(first)
    again = ensure_shards(reopen_history(config, first.describe()), tmp_path / "cache")
    assert again.selection is not None
    assert again.selection.manifest.altered_files() == []
    expected = open_history(config).in_memory().prices
    np.testing.assert_array_equal(again.in_memory().prices, expected)
    change_a_price(again)
    file.unlink()
    with pytest.raises(DataError, match=r"prices\.parquet"):
        reopen_history(config, first.describe())


def test_each_shard_is_hashed_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=str(shards))
    data = open_history(config).describe()
    hashed: list[str] = []
    digest = shard_files._sha256
    monkeypatch.setattr(
        shard_files, "_sha256", lambda path: hashed.append(path.name) or digest(path)
    )
    ensure_shards(reopen_history(config, data), tmp_path / "cache").in_memory()
    assert hashed == [f"{k:06d}.parquet" for k in range(5)]


def test_paths_of_the_data_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(data=DataConfig(path="a.csv", dollar_volume_path="b.csv"))
    assert located(settings).data.path == str(tmp_path / "a.csv")
    assert located(settings).data.dollar_volume_path == str(tmp_path / "b.csv")
    assert located(Settings()) == Settings()


def test_fold_records_carry_the_test_dates(shards: Path) -> None:
    history = open_history(DataConfig(path=str(shards)))
    [record] = history.fold_records([Fold(0, 10, 40, 41, 60, False)])
    assert record.first_test == history.times[41]
    assert record.last_test == history.times[59]
