"""Shards on disk: exact, atomic, named by their content."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.market.calendars import TradingCalendar
from dpa.market.fingerprints import panel_fingerprint
from dpa.market.panel import EXTRAS, Panel
from dpa.market.readers import load_wide_data
from dpa.market.selections import bar_times, select_shards
from dpa.market.shard_files import (
    MANIFEST,
    ShardManifest,
    bar_bytes,
    default_bars_per_shard,
    read_shards,
    write_shards,
)
from dpa.market.universe import Universe, UniverseRules


def random_panel(
    seed: int = 0, n_bars: int = 300, n_assets: int = 5, arrays: tuple[str, ...] = EXTRAS
) -> Panel:
    generator = np.random.default_rng(seed)
    times = TradingCalendar("XNYS").bar_closes("1d", "2019-01-01", "2023-12-31")[:n_bars]
    prices = np.exp(generator.normal(0, 0.02, (n_bars, n_assets)).cumsum(axis=0))
    prices[generator.random(prices.shape) < 0.1] = np.nan
    mask = np.isfinite(prices) & (generator.random(prices.shape) < 0.8)
    extras = {name: generator.uniform(1e5, 1e8, prices.shape) for name in arrays}
    names = ("A", "BRK.B", "C", "D", "E", "F", "G", "H", "I", "J", "K")[:n_assets]
    return Panel(times, names, prices, mask, "1d", "XNYS", **extras)


def same(left: Panel, right: Panel) -> None:
    assert (left.times == right.times).all()
    assert (left.names, left.interval, left.calendar) == (
        right.names,
        right.interval,
        right.calendar,
    )
    np.testing.assert_array_equal(left.prices, right.prices)
    np.testing.assert_array_equal(left.mask, right.mask)
    assert left.extras().keys() == right.extras().keys()
    for name, values in left.extras().items():
        np.testing.assert_array_equal(values, right.extras()[name])


@given(
    seed=st.integers(0, 10_000),
    bars_per_shard=st.integers(1, 400) | st.none(),
    n_assets=st.sampled_from([1, 8, 11]),
    arrays=st.sampled_from([(), ("dollar_volume",), ("open", "volume"), EXTRAS]),
    cut=st.integers(0, 300),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_is_read(
    tmp_path: Path,
    seed: int,
    bars_per_shard: int | None,
    n_assets: int,
    arrays: tuple[str, ...],
    cut: int,
) -> None:
    panel = random_panel(seed, 300, n_assets, arrays)
    if bars_per_shard is not None and bars_per_shard < 20:
        panel = panel.window(0, 40)
    cut = min(cut, panel.n_bars)
    pieces = [panel.window(0, cut), panel.window(cut, panel.n_bars)]
    manifest = write_shards(iter(pieces), tmp_path / "s", bars_per_shard, force=True)
    same(read_shards(tmp_path / "s"), panel)
    same(load_wide_data(DataConfig(path=str(tmp_path / "s"))), panel)
    assert manifest == ShardManifest.load(tmp_path / "s")
    assert manifest.n_bars == panel.n_bars == sum(file.n_bars for file in manifest.files)
    assert manifest.fingerprint == panel_fingerprint(panel)
    assert manifest.altered_files() == []
    assert manifest.extras == arrays


def test_prices_of_a_shard_are_plain_columns(tmp_path: Path) -> None:
    panel = random_panel()
    write_shards(panel, tmp_path / "s", 100)
    frame = pd.read_parquet(tmp_path / "s" / "000001.parquet").set_index("time")
    np.testing.assert_array_equal(frame["BRK.B"], panel.prices[100:200, 1])
    assert (frame.index == panel.times[100:200]).all()
    for name, values in panel.extras().items():
        stored = np.stack(frame[f"__{name}__"].to_list())
        np.testing.assert_array_equal(stored, values[100:200])
    bits = np.frombuffer(b"".join(frame["__member__"]), np.uint8).reshape(100, 1)
    np.testing.assert_array_equal(
        np.unpackbits(bits, axis=1, count=5, bitorder="little"), panel.mask[100:200]
    )


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    panel = random_panel()
    one, other = (
        write_shards(panel, tmp_path / name, size) for name, size in (("a", 70), ("b", 300))
    )
    assert one.fingerprint == other.fingerprint

    def changed(**parts: object) -> str:
        values = {
            name: parts.get(name, getattr(panel, name))
            for name in ("times", "names", "prices", "mask", "interval", "calendar")
        }
        extras = {name: parts.get(name, panel.extras()[name]) for name in EXTRAS}
        return panel_fingerprint(Panel(**values, **extras))

    prices, mask = panel.prices.copy(), panel.mask.copy()
    prices[0, 0] = np.nextafter(prices[0, 0], 2)
    mask[np.argwhere(mask)[0][0], np.argwhere(mask)[0][1]] = False
    different = {
        changed(),
        changed(prices=prices),
        changed(mask=mask),
        changed(names=("A", "BRK.B", "C", "D", "X")),
        changed(times=panel.times + pd.Timedelta("1s")),
        changed(volume=None),
        changed(dollar_volume=None),
        changed(open=panel.high, high=panel.open),
        changed(low=panel.low * 2),
        changed(calendar="XLON"),
    }
    assert len(different) == 10
    assert changed() == one.fingerprint


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ((), "8750545b8ac479e05cced9c1e281844eea3436a8e2819a56f19637807e8955e2"),
        (("dollar_volume",), "9345e2bfc52139434e5062f0be4117a2082ed1d4f0b918d6a4245c4feb0cd6b4"),
    ],
)
def test_fingerprints_of_data_without_ranges_are_what_they_always_were(
    arrays: tuple[str, ...], expected: str
) -> None:
    times = pd.DatetimeIndex(["2024-01-02 21:00", "2024-01-03 21:00"], tz="UTC")
    prices = np.array([[1.0, np.nan], [1.5, 2.0]])
    extras = dict.fromkeys(arrays, prices * 100)
    panel = Panel(times, ("A", "B.C"), prices, np.isfinite(prices), "1d", "XNYS", **extras)
    assert panel_fingerprint(panel) == expected


@pytest.mark.parametrize("arrays", [(), ("dollar_volume",)])
def test_shards_of_version_1_are_read(tmp_path: Path, arrays: tuple[str, ...]) -> None:
    panel = random_panel(arrays=arrays)
    write_shards(panel, tmp_path / "s", 100)
    path = tmp_path / "s" / MANIFEST
    content = json.loads(path.read_text())
    assert content.pop("schema_version") == 2
    assert tuple(content.pop("extras")) == arrays
    earlier = {"schema_version": 1, "has_dollar_volume": bool(arrays)}
    path.write_text(json.dumps(content | earlier))
    same(read_shards(tmp_path / "s"), panel)
    same(select_shards(tmp_path / "s", DataConfig()).panel(), panel)


def test_every_array_counts_for_the_size_of_a_shard() -> None:
    def nbytes(panel: Panel) -> int:
        arrays: list[NDArray[np.generic]] = [panel.prices, panel.mask, *panel.extras().values()]
        return sum(array.nbytes for array in arrays)

    for arrays in ((), ("open",), EXTRAS):
        panel = random_panel(n_bars=1, arrays=arrays)
        assert bar_bytes(panel.n_assets, len(arrays)) == nbytes(panel)
    assert default_bars_per_shard(1_000, 5) == 32 * 2**20 // 49_000
    assert default_bars_per_shard(10**9, 5) == 1


def test_a_name_may_not_be_called_like_a_stored_array(tmp_path: Path) -> None:
    panel = random_panel(n_assets=1)
    for name in ("time", "__member__", "__high__"):
        odd = Panel(panel.times, (name,), panel.prices, panel.mask, "1d")
        with pytest.raises(DataError, match="collides with a column of shards"):
            write_shards(odd, tmp_path / "s")


def test_nothing_is_overwritten_or_left_half_written(tmp_path: Path) -> None:
    panel = random_panel()
    write_shards(panel, tmp_path / "s", 100)
    with pytest.raises(DataError, match=r"holds shards already; choose another --out, or use --f"):
        write_shards(panel, tmp_path / "s")

    def failing() -> object:
        yield panel.window(0, 200)
        raise DataError("the source broke off")

    with pytest.raises(DataError, match="broke off"):
        write_shards(failing(), tmp_path / "s", 50, force=True)
    same(read_shards(tmp_path / "s"), panel)
    with pytest.raises(DataError, match="broke off"):
        write_shards(failing(), tmp_path / "t", 50)
    with pytest.raises(DataError, match="overlap"):
        write_shards(iter([panel, panel]), tmp_path / "t", 300)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    write_shards(panel.window(0, 10), tmp_path / "s", force=True)
    assert read_shards(tmp_path / "s").n_bars == 10
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="exists and is no directory of shards"):
        write_shards(panel, tmp_path / "mine", force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written|no directory of shards"):
        write_shards(panel, tmp_path / "file" / "deeper")


def test_changed_or_broken_shards_are_refused(tmp_path: Path) -> None:
    panel = random_panel()
    manifest = write_shards(panel, tmp_path / "s", 100)
    second = tmp_path / "s" / manifest.files[1].name
    second.write_bytes((tmp_path / "s" / manifest.files[0].name).read_bytes())
    assert manifest.altered_files() == ["000001.parquet"]
    with pytest.raises(DataError, match=r"000001.parquet: is not the file its manifest"):
        read_shards(tmp_path / "s")
    with pytest.raises(DataError, match=r"000001.parquet: is not the file that was written.*res"):
        select_shards(tmp_path / "s", DataConfig())
    early = DataConfig(end=manifest.files[0].last[:10])
    assert select_shards(tmp_path / "s", early).n_bars == 100  # reads the first file only
    second.unlink()
    with pytest.raises(DataError, match=r"000001.parquet: cannot be read"):
        read_shards(tmp_path / "s")
    path = tmp_path / "s" / MANIFEST
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(DataError, match=r"has version 99, not 1 to 2; import the data again"):
        ShardManifest.load(tmp_path / "s")
    odd = json.dumps(content | {"extras": ["colour"]})
    for text in ("{", "[]", '{"schema_version": 1}', '{"schema_version": 2}', odd):
        path.write_text(text)
        with pytest.raises(DataError, match="is no manifest"):
            ShardManifest.load(tmp_path / "s")
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        ShardManifest.load(tmp_path / "s")


@given(
    first=st.integers(0, 299),
    length=st.integers(0, 299),
    min_history=st.sampled_from([0, 30]),
    top=st.sampled_from([None, 2]),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_selecting_dates_and_universe_equals_doing_so_in_memory(
    tmp_path: Path, first: int, length: int, min_history: int, top: int | None
) -> None:
    panel = random_panel()
    folder = tmp_path / "s"
    if not folder.exists():
        write_shards(panel, folder, 70)
    last = min(first + length, 299)
    local = panel.times.tz_convert("America/New_York")
    config = DataConfig(
        path=str(folder),
        start=str(local[first].date()),
        end=str(local[last].date()),
        min_history_bars=min_history,
        top_by_dollar_volume=top,
        liquidity_lookback_bars=20,
    )
    rules = UniverseRules.from_config(config)
    mask = panel.mask & Universe(rules, 5).update(panel.prices, panel.dollar_volume)
    selection = select_shards(folder, config)
    expected = replace(panel, mask=mask).window(first, last + 1)
    same(selection.panel(), expected)
    assert (bar_times(selection) == expected.times).all()
    assert selection.n_bars == expected.n_bars


def test_selections_that_cannot_be(tmp_path: Path) -> None:
    write_shards(random_panel(arrays=()), tmp_path / "s", 100)

    def select(**fields: object) -> None:
        select_shards(tmp_path / "s", DataConfig(**fields))

    with pytest.raises(DataError, match="no bar from 2030-01-01"):
        select(start="2030-01-01")
    with pytest.raises(ConfigError, match=r"5m, but .* holds 1d bars"):
        select(interval="5m")
    with pytest.raises(ConfigError, match="no traded value"):
        select(top_by_dollar_volume=3)
    with pytest.raises(ConfigError, match="give it to 'dpa data import'"):
        select(dollar_volume_path="x.csv")
    with pytest.raises(DataError, match=r"has no name 'BRKB'.*BRK.B"):
        select(names=("BRKB",))


def plain(folder: Path) -> pd.DataFrame:
    """Three yearly files of other people, names against the order of time."""
    dates = pd.bdate_range("2019-12-20", periods=12, name="date")
    frame = pd.DataFrame(np.arange(1.0, 37).reshape(12, 3), dates, ["A", "B", "C"])
    frame.iloc[:5, 2] = np.nan
    for name, rows in (("z", slice(0, 5)), ("m", slice(5, 9)), ("a", slice(9, 12))):
        frame.iloc[rows].to_parquet(folder / f"{name}.parquet")
    return frame


def test_plain_files_equal_one_wide_file(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    plain(folder).to_parquet(tmp_path / "whole.parquet")
    fields = {"start": "2019-12-24", "min_history_bars": 3, "names": ("C", "A")}
    same(
        load_wide_data(DataConfig(path=str(folder), **fields)),
        load_wide_data(DataConfig(path=str(tmp_path / "whole.parquet"), **fields)),
    )


def test_plain_files_that_do_not_fit_together(tmp_path: Path) -> None:
    frame = plain(tmp_path)
    config = DataConfig(path=str(tmp_path))
    frame.iloc[4:9].to_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"m.parquet: overlaps in time"):
        load_wide_data(config)
    frame.iloc[5:9].drop(columns="B").to_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"column 'B' is not in every file"):
        load_wide_data(config)
    frame.iloc[5:9].assign(C=0.0).to_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"m.parquet: column 'C', row 1 .*above zero"):
        load_wide_data(config)
    frame.iloc[5:9].tz_localize("UTC").to_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="some files have time zones"):
        load_wide_data(config)
    for name in ("z", "m", "a"):
        pd.read_parquet(tmp_path / f"{name}.parquet").assign(C=np.nan).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    frame.iloc[5:9].assign(C=np.nan).to_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="column 'C' has no price in any row"):
        load_wide_data(config)
    dropped = load_wide_data(config.model_copy(update={"drop_empty_names": True}))
    assert dropped.names == ("A", "B")
