"""What ``dpa data`` says about a history, and what it writes."""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.market.calendars import TradingCalendar
from dpa.market.commands import add_data_commands
from dpa.market.fingerprints import panel_fingerprint
from dpa.market.panel import Panel
from dpa.market.quality import (
    check_quality,
    gap_cells,
    jump_cells,
    longest_runs,
    stale_cells,
)
from dpa.market.readers import load_wide_data
from dpa.market.resampling import resample
from dpa.market.shard_files import read_shards, write_shards
from dpa.options import OneLineParser


def run(*words: str) -> int:
    """``dpa data ...`` without the rest of dpa."""
    parser = OneLineParser(prog="dpa")
    add_data_commands(parser.add_subparsers(required=True))
    arguments: argparse.Namespace = parser.parse_args(["data", *words])
    return int(arguments.run(arguments))


def messy(folder: Path) -> str:
    """Daily prices with one oddity of each kind."""
    dates = pd.bdate_range("2021-02-16", periods=30, name="date")
    frame = pd.DataFrame({"A": np.linspace(10, 12, 30), "B": 5.0, "C": 7.0}, dates)
    frame["C"] += np.arange(30) % 2 / 100
    frame.loc[dates[10:13], "A"] = np.nan  # a gap
    frame.loc[dates[:4], "C"] = np.nan  # lists late
    frame.loc[dates[20] :, "C"] *= 2.0  # a split that was not adjusted
    frame = frame.drop(index=dates[15])  # nobody has this session
    frame.loc[pd.Timestamp("2021-03-06")] = [1.0, 1.0, 1.0]  # a Saturday
    path = folder / "messy.csv"
    frame.sort_index().to_csv(path)
    return str(path)


def counts(path: str, **options: float) -> dict[str, int]:
    report = check_quality(DataConfig(path=path), **options)
    return {finding.kind.split(",")[0].split(":")[0]: finding.count for finding in report.findings}


def test_each_oddity_is_counted(tmp_path: Path) -> None:
    path = messy(tmp_path)
    found = counts(path)
    assert found["off-session prices"] == 3
    assert found["session bars of no name"] == 1
    assert found["gaps"] == 3
    assert found["price jumps above 25%"] == 1
    assert found["stale prices"] == 29  # the whole of B
    report = check_quality(DataConfig(path=path, min_history_bars=11))
    assert not report.is_refused
    assert report.masked["no price"] == pytest.approx(7 / 87)
    assert report.masked["too short a history"] == pytest.approx(30 / 87)
    assert sum(report.masked.values()) == pytest.approx(
        1 - load_wide_data(DataConfig(path=path, min_history_bars=11)).mask.mean()
    )
    worst = report.names[0]
    assert (worst.name, worst.missing, worst.longest_gap) == ("A", 3, 3)
    assert [name.jumps for name in report.names if name.name == "C"] == [1]


def test_what_loading_refuses_is_reported_without_stopping(tmp_path: Path) -> None:
    rows = [
        "2020-01-02,1,1,",
        "2020-01-03,2,-1,",
        "2020-01-03,2,1,",
        "2020-01-02,2,1,",
        "2020-01-06,0,inf,",
        "2020-01-07,1,1,",
    ]
    path = tmp_path / "bad.csv"
    path.write_text("date,A,B,C\n" + "\n".join(rows))
    with pytest.raises(DataError):
        load_wide_data(DataConfig(path=str(path)))
    found = counts(str(path))
    assert found["repeated bars"] == 1
    assert found["bars out of order"] == 1
    assert found["impossible prices"] == 3
    assert found["names without a price"] == 1
    assert run("check", str(path)) == 1


def test_impossible_ranges_are_counted(tmp_path: Path) -> None:
    rows = [
        "A,2020-01-02,5,6,4,5,100",
        "A,2020-01-03,5,4.5,4,5,100",
        "A,2020-01-06,5,6,5.5,5,100",
        "A,2020-01-07,5,6,4,5,-1",
        "A,2020-01-08,0,6,4,5,100",
    ]
    path = tmp_path / "bad.csv"
    path.write_text("symbol,date,open,high,low,close,volume\n" + "\n".join(rows))
    found = counts(str(path))
    assert found["highs and lows that are none of their bar"] == 2
    assert found["impossible prices"] == 2
    assert run("check", str(path)) == 1


def test_prices_on_days_without_a_session_are_reported(tmp_path: Path) -> None:
    days = pd.date_range("2021-01-04", "2021-03-31", name="time")
    path = tmp_path / "a.parquet"
    pd.DataFrame({"X": np.arange(len(days)) + 1.0}, days).to_parquet(path)
    report = check_quality(DataConfig(path=str(path)))
    found = {finding.kind: finding for finding in report.findings}
    assert found["too many prices on days without a session"].count == len(days) - report.n_bars
    assert report.is_refused


def test_repeated_rows_of_a_long_file_and_of_plain_shards(tmp_path: Path) -> None:
    row = "2020-01-0{},1\n"
    long = "symbol,time,close\nA," + row.format(2) + "A," + row.format(2) + "A," + row.format(3)
    (tmp_path / "long.csv").write_text(long)
    assert counts(str(tmp_path / "long.csv"))["repeated bars"] == 1
    folder = tmp_path / "plain"
    folder.mkdir()
    dates = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-03"], name="date")
    pd.DataFrame({"A": [1.0, -2.0, 3.0]}, dates).to_parquet(folder / "a.parquet")
    found = counts(str(folder))
    assert (found["repeated bars"], found["impossible prices"]) == (1, 1)


def obvious_runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and length of each run of True."""
    runs, start = [], None
    for place, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = place
        if not flag and start is not None:
            runs.append((start, place - start))
            start = None
    return runs


@given(
    st.lists(st.sampled_from([np.nan, 1.0, 1.1, 2.0]), min_size=1, max_size=25),
    st.integers(2, 5),
)
@settings(max_examples=200, deadline=None)
def test_cells_are_the_obvious_ones(values: list[float], stale_bars: int) -> None:
    prices = np.array(values)[:, None]
    known = [place for place, value in enumerate(values) if np.isfinite(value)]
    gap = [bool(known) and known[0] < t < known[-1] and t not in known for t in range(len(values))]
    assert gap_cells(prices)[:, 0].tolist() == gap
    assert longest_runs(gap_cells(prices))[0] == max(
        [n for _, n in obvious_runs(np.array(gap))] or [0]
    )
    jump = [False] * len(values)
    for before, after in itertools.pairwise(known):
        ratio = values[after] / values[before]
        jump[after] = max(ratio, 1 / ratio) > 1.5
    assert jump_cells(prices, 0.5)[:, 0].tolist() == jump
    stale = [False] * len(values)
    for price in (1.0, 1.1, 2.0):
        for start, length in obvious_runs(np.array(values) == price):
            if length >= stale_bars:
                stale[start : start + length] = [True] * length
    assert stale_cells(prices, stale_bars)[:, 0].tolist() == stale


def test_import_check_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = messy(tmp_path), str(tmp_path / "shards")
    assert run("import", path, "--out", out, "--bars-per-shard", "10", "--start", "2021-02-18") == 0
    assert "3 names, 27 bars of 1d (XNYS), 2021-02-18" in capsys.readouterr().out
    expected = load_wide_data(DataConfig(path=path, start="2021-02-18"))
    np.testing.assert_array_equal(read_shards(out).prices, expected.prices)
    with pytest.raises(DataError, match="holds shards already"):
        run("import", path, "--out", out)
    assert run("import", out, "--out", str(tmp_path / "again"), "--names", "B,A") == 0
    assert read_shards(tmp_path / "again").names == ("B", "A")
    capsys.readouterr()

    assert run("describe", out, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["n_bars"], described["names"]) == (27, ["A", "B", "C"])
    assert run("describe", path, "--start", "2021-02-18", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == described["fingerprint"]
    assert run("describe", out) == 0
    assert "XNYS" in capsys.readouterr().out

    assert run("check", out, "--jump", "0.5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_bars"] == 27
    assert run("check", out, "--worst", "1") == 0
    text = capsys.readouterr().out
    assert "loading accepts this data" in text
    assert "price jumps above 25%" in text


def test_resample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = TradingCalendar("XNYS").bar_closes("5m", "2025-11-26", "2025-12-01")
    prices = 100.0 + np.arange(len(times) * 2).reshape(-1, 2)
    extras = {"open": prices - 1, "volume": prices * 10}
    panel = Panel(times, ("A", "B.C"), prices, prices > 0, "5m", **extras)
    write_shards(panel, tmp_path / "5m", 31)
    days = str(tmp_path / "1d")
    assert run("resample", str(tmp_path / "5m"), "--to", "1d", "--out", days) == 0
    assert "2 names, 3 bars of 1d (XNYS)" in capsys.readouterr().out
    assert panel_fingerprint(read_shards(days)) == panel_fingerprint(resample(panel, "1d"))
    assert run("describe", days) == 0
    assert "prices, open, volume" in capsys.readouterr().out
    with pytest.raises(DataError, match="bars of 1d do not make bars of 5m"):
        run("resample", days, "--to", "5m", "--out", str(tmp_path / "x"))
    with pytest.raises(ConfigError, match=r"--to: interval '7x' is not understood"):
        run("resample", days, "--to", "7x", "--out", str(tmp_path / "x"))
    write_shards(panel.window(0, 70), tmp_path / "short")  # of 78
    with pytest.raises(DataError, match="there are no bars to write"):
        run("resample", str(tmp_path / "short"), "--to", "1d", "--out", str(tmp_path / "x"))


@pytest.mark.parametrize(
    "words",
    [
        ("import", "sample", "--out", "x", "--bars-per-shard", "0"),
        ("check", "sample", "--jump", "0"),
        ("check", "sample", "--stale-bars", "1"),
        ("check",),
        ("import", "sample"),
    ],
)
def test_wrong_options_are_one_line(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*words)
    assert "\n" not in str(caught.value)


def test_altered_shards_are_reported(tmp_path: Path) -> None:
    out = tmp_path / "shards"
    run("import", messy(tmp_path), "--out", str(out))
    frame = pd.read_parquet(out / "000000.parquet")
    frame.loc[3, "A"] = 10.5
    schema = pq.read_schema(out / "000000.parquet")
    pq.write_table(pa.Table.from_pandas(frame, schema), out / "000000.parquet")
    report = check_quality(DataConfig(path=str(out)))
    assert report.is_refused
    assert [f.count for f in report.findings if f.kind == "altered files"] == [1]


def test_real_bars_are_accepted(market_data: Path) -> None:
    path = str(market_data / "us_1min_bars.parquet")
    report = check_quality(DataConfig(path=path, stamps="start", names=("SPY", "QQQ")))
    assert not report.is_refused
    assert report.interval == "1m"
