"""Files become panels: layouts, time stamps, and a one-line error for each mistake."""

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError, UserError
from dpa.market.panel import Panel
from dpa.market.readers import load_wide_data, load_with_report


def daily(n_bars: int = 6, names: tuple[str, ...] = ("AAA", "BRK.B", "CC")) -> pd.DataFrame:
    """Prices from 2020-01-02 on, one row per session, by date."""
    dates = pd.DatetimeIndex(
        ["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08", "2020-01-09"]
    )[:n_bars]
    prices = 10.0 + np.arange(n_bars * len(names)).reshape(n_bars, -1) / 8
    return pd.DataFrame(prices, dates.rename("date"), list(names))


def write(frame: pd.DataFrame, path: Path) -> str:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path)
    return str(path)


def load(path: str | Path, **fields: object) -> Panel:
    return load_wide_data(DataConfig(path=str(path), **fields))


def same(left: Panel, right: Panel) -> None:
    assert (left.times == right.times).all()
    assert (left.names, left.interval) == (right.names, right.interval)
    np.testing.assert_array_equal(left.prices, right.prices)
    np.testing.assert_array_equal(left.mask, right.mask)
    assert left.extras().keys() == right.extras().keys()
    for name, values in left.extras().items():
        np.testing.assert_array_equal(values, right.extras()[name])


# ---- daily, wide


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_dates_become_session_closes(tmp_path: Path, kind: str) -> None:
    frame = daily()
    frame.iloc[2, 1] = np.nan
    panel = load(write(frame, tmp_path / f"wide.{kind}"))
    assert panel.times[0] == pd.Timestamp("2020-01-02 21:00", tz="UTC")
    assert (panel.interval, panel.calendar) == ("1d", "XNYS")
    assert panel.names == ("AAA", "BRK.B", "CC")
    np.testing.assert_array_equal(panel.prices, frame.to_numpy())
    np.testing.assert_array_equal(panel.mask, frame.notna().to_numpy())
    assert panel.dollar_volume is None


@pytest.mark.parametrize(
    "restamp",
    [
        lambda dates: dates.tz_localize("UTC"),  # midnight UTC is the date itself
        lambda dates: dates.tz_localize("America/New_York"),
        lambda dates: (dates + pd.Timedelta("16h")).tz_localize("America/New_York"),
        lambda dates: dates + pd.Timedelta("16h"),
        lambda dates: dates.strftime("%Y%m%d"),
        lambda dates: dates.strftime("%Y-%m-%dT21:00:00Z"),
        lambda dates: dates.date,
    ],
)
def test_many_spellings_of_a_date(tmp_path: Path, restamp: Callable[..., object]) -> None:
    plain, other = daily(), daily()
    other.index = pd.Index(restamp(plain.index), name="date")
    expected = load(write(plain, tmp_path / "plain.parquet"))
    same(load(write(other, tmp_path / "other.parquet")), expected)
    same(load(write(other, tmp_path / "other.csv")), expected)


def test_dates_that_are_no_session_are_left_out_and_counted(tmp_path: Path) -> None:
    frame = daily()
    frame.loc[pd.Timestamp("2020-01-04")] = 1.0  # a Saturday
    panel, report = load_with_report(DataConfig(path=write(frame.sort_index(), tmp_path / "a.csv")))
    np.testing.assert_array_equal(panel.prices, daily().to_numpy())
    assert (report.off_session_prices, report.n_rows, report.layout) == (3, 7, "wide")
    assert report.lines() == [f"{tmp_path / 'a.csv'}: 3 off-session prices left out"]


def test_compressed_csv_and_first_column_without_a_name(tmp_path: Path) -> None:
    frame = daily()
    frame.index.name = None
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        frame.to_csv(file)
    same(load(tmp_path / "a.csv.gz"), load(write(frame, tmp_path / "b.parquet")))


def test_integers_decimals_and_float32_are_prices(tmp_path: Path) -> None:
    table = pa.table(
        {
            "time": pa.array(daily().index.date),
            "I": pa.array([1, 2, 3, 4, 5, None]),
            "D": pa.array([1, 2, 3, 4, 5, 6], pa.decimal128(10, 2)),
            "F": pa.array([0.5] * 6, pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    prices = load(tmp_path / "a.parquet").prices
    np.testing.assert_array_equal(prices[:, 0], [1, 2, 3, 4, 5, np.nan])
    np.testing.assert_array_equal(prices[:, 1:], [[k, 0.5] for k in range(1, 7)])


def test_names_and_dates_are_selected_in_the_order_asked(tmp_path: Path) -> None:
    path = write(daily(), tmp_path / "a.csv")
    panel = load(path, names=("CC", "AAA"), start="2020-01-03", end="2020-01-07")
    expected = daily().loc["2020-01-03":"2020-01-07", ["CC", "AAA"]]
    np.testing.assert_array_equal(panel.prices, expected.to_numpy())
    assert panel.names == ("CC", "AAA")


def test_membership_looks_back_before_the_start(tmp_path: Path) -> None:
    path = write(daily(), tmp_path / "a.csv")
    mask = load(path, min_history_bars=4, start="2020-01-06").mask
    np.testing.assert_array_equal(mask[:, 0], [False, True, True, True])


def test_traded_value_of_another_file(tmp_path: Path) -> None:
    prices, volume = daily(), daily() * 1e6
    volume = volume.drop(columns="CC").drop(index="2020-01-06")
    volume.iloc[0, 0] = 0.0  # nothing traded: allowed here
    panel = load(
        write(prices, tmp_path / "p.csv"),
        dollar_volume_path=write(volume, tmp_path / "v.parquet"),
        top_by_dollar_volume=1,
        liquidity_lookback_bars=1,
    )
    expected = volume.reindex(prices.index).reindex(columns=prices.columns)
    np.testing.assert_array_equal(panel.dollar_volume, expected.to_numpy())
    assert panel.mask.sum(axis=1).tolist() == [1, 1, 0, 1, 1, 1]
    assert panel.mask[1:, 1].sum() == 4  # BRK.B trades most


def test_a_name_without_prices_is_refused_or_left_out(tmp_path: Path) -> None:
    frame = daily()
    frame["CC"] = np.nan
    path = write(frame, tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a.csv: column 'CC' has no price in any row; remove it"):
        load(path)
    panel, report = load_with_report(DataConfig(path=path, drop_empty_names=True))
    assert panel.names == ("AAA", "BRK.B")
    assert report.dropped_names == ("CC",)
    assert load(path, names=("AAA",)).names == ("AAA",)


def test_a_name_listed_after_the_dates_used_stays(tmp_path: Path) -> None:
    frame = daily()
    frame.iloc[:4, 2] = np.nan
    config = DataConfig(path=write(frame, tmp_path / "a.csv"), end="2020-01-06")
    panel, report = load_with_report(config)
    assert report.empty_names == ("CC",)
    assert not panel.mask[:, 2].any()


# ---- intraday and long


def bars(stamps: list[str], names: tuple[str, ...] = ("X", "Y")) -> pd.DataFrame:
    """Long bars, names interleaved, close rising by one each row."""
    rows = [(name, stamp) for stamp in stamps for name in names]
    frame = pd.DataFrame(rows, columns=["symbol", "time"])
    frame["time"] = pd.to_datetime(frame["time"])
    close = 100.0 + np.arange(len(frame))
    extra = {"open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 10.0}
    return frame.assign(**extra)


STARTS = ["09:30", "09:35", "09:40", "15:55"]


def test_long_bars_stamped_at_their_start(tmp_path: Path) -> None:
    stamps = [f"2025-10-31 {t}" for t in STARTS] + [f"2025-11-03 {t}" for t in STARTS]
    frame = bars([*stamps, "2025-11-03 16:05"]).drop(index=3)  # Y lacks a bar; one is late
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    panel, report = load_with_report(DataConfig(path=str(tmp_path / "a.parquet"), stamps="start"))
    assert (panel.interval, report.layout, report.off_session_prices) == ("5m", "long", 2)
    assert panel.times[[0, 3, 4]].tolist() == [
        pd.Timestamp("2025-10-31 13:35", tz="UTC"),
        pd.Timestamp("2025-10-31 20:00", tz="UTC"),
        pd.Timestamp("2025-11-03 14:35", tz="UTC"),  # clocks went back in between
    ]
    expected = 100.0 + np.arange(16).reshape(8, 2)
    expected[1, 1] = np.nan
    np.testing.assert_array_equal(panel.prices, expected)
    np.testing.assert_array_equal(panel.dollar_volume, expected * 10)
    np.testing.assert_array_equal(panel.open, expected)
    np.testing.assert_array_equal(panel.high, expected + 1)
    np.testing.assert_array_equal(panel.low, expected - 1)
    np.testing.assert_array_equal(panel.volume, np.where(np.isnan(expected), np.nan, 10.0))


def test_rows_of_a_long_file_may_come_in_any_order_and_spelling(tmp_path: Path) -> None:
    frame = bars([f"2025-11-28 {t}" for t in ["09:35", "09:40", "13:00"]])  # a half day
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    mixed = frame.sample(frac=1, random_state=1).rename(columns=str.upper)
    mixed = mixed.rename(columns={"SYMBOL": "Ticker", "TIME": "Timestamp"})
    mixed["Timestamp"] = mixed["Timestamp"].dt.tz_localize("America/New_York")
    mixed.to_csv(tmp_path / "b.csv", index=False)
    panel = load(tmp_path / "a.parquet", interval="5m")
    same(load(tmp_path / "b.csv", interval="5m"), panel)
    assert panel.times[-1] == pd.Timestamp("2025-11-28 18:00", tz="UTC")


def test_the_adjusted_close_is_the_price_and_the_close_counts_for_value(tmp_path: Path) -> None:
    frame = bars(["2025-11-26", "2025-11-28"]).assign(adj_close=5.0)
    frame.to_csv(tmp_path / "a.csv", index=False)
    panel = load(tmp_path / "a.csv")
    assert panel.interval == "1d"
    assert (panel.prices == 5.0).all()
    np.testing.assert_array_equal(panel.dollar_volume, [[1000, 1010], [1020, 1030]])
    np.testing.assert_array_equal(panel.volume, np.full((2, 2), 10.0))
    close = np.array([[100.0, 101], [102, 103]])
    for name, values in (("open", close), ("high", close + 1), ("low", close - 1)):
        np.testing.assert_allclose(panel.extras()[name], values * 5 / close, rtol=1e-15)


def test_ranges_of_unknown_scale_are_left_out(tmp_path: Path) -> None:
    frame = bars(["2025-11-26", "2025-11-28"]).rename(columns={"close": "adj_close"})
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert load(tmp_path / "a.csv").extras().keys() == {"volume", "dollar_volume"}


def test_a_long_file_has_the_arrays_of_its_columns(tmp_path: Path) -> None:
    frame = bars(["2025-11-26", "2025-11-28"]).drop(columns=["high", "volume"])
    frame.loc[1, "open"] = np.nan
    frame.to_csv(tmp_path / "a.csv", index=False)
    panel = load(tmp_path / "a.csv")
    assert panel.extras().keys() == {"open", "low"}
    np.testing.assert_array_equal(panel.open, [[100, np.nan], [102, 103]])


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("high", 101.9, r"column 'high', row 3 .*101.9 is below 102, another price of its bar"),
        ("low", 102.1, r"column 'low', row 3 .*102.1 is above 102, another price"),
        ("open", 110.0, r"column 'high', row 3 .*103 is below 110"),
        ("open", 90.0, r"column 'low', row 3 .*101 is above 90"),
        ("low", 104.0, r"column 'high', row 3 .*103 is below 104"),
        ("open", 0.0, r"column 'open', row 3 .*above zero"),
        ("high", np.inf, r"column 'high', row 3 .*above zero"),
        ("low", -1.0, r"column 'low', row 3 .*above zero"),
        ("close", -1.0, r"column 'close', row 3 .*above zero"),
        ("volume", -1.0, r"column 'volume', row 3 .*not negative"),
    ],
)
def test_impossible_bars_are_refused(tmp_path: Path, column: str, value: float, words: str) -> None:
    frame = bars(["2025-11-26", "2025-11-28"])
    frame.loc[2, column] = value
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=rf"a.csv: {words}"):
        load(tmp_path / "a.csv")
    adjusted = frame.assign(adj_close=7.0)  # judged on the scale of the file
    adjusted.to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match=rf"b.csv: {words}"):
        load(tmp_path / "b.csv")


def test_rounding_of_single_precision_is_no_error(tmp_path: Path) -> None:
    frame = bars(["2025-11-26", "2025-11-28"])
    frame["high"] = frame["close"] * (1 - 1e-7)
    frame["low"] = frame["close"] * (1 + 1e-7)
    frame.astype(dict.fromkeys(("open", "high", "low", "close"), "float32")).to_parquet(
        tmp_path / "a.parquet", index=False
    )
    assert load(tmp_path / "a.parquet").n_bars == 2


def test_a_symbol_called_na_is_a_symbol(tmp_path: Path) -> None:
    bars(["2025-11-26", "2025-11-28"], ("NA", "NULL")).to_csv(tmp_path / "a.csv", index=False)
    assert load(tmp_path / "a.csv").names == ("NA", "NULL")


def test_last_short_bar_stamped_at_its_start(tmp_path: Path) -> None:
    stamps = [f"2025-11-26 {t}" for t in ("09:30", "10:30", "11:30", "15:30")]
    bars(stamps).to_csv(tmp_path / "a.csv", index=False)
    closes = load(tmp_path / "a.csv", stamps="start").times.tz_convert("America/New_York")
    assert closes.strftime("%H:%M").tolist() == ["10:30", "11:30", "12:30", "16:00"]


@given(seed=st.integers(0, 10_000))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_wide_and_long_csv_and_parquet_agree(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    dates = pd.bdate_range("2021-03-01", periods=20, name="date")
    prices = np.exp(generator.normal(0, 5, (20, 4)))
    prices[1:][generator.random((19, 4)) < 0.3] = np.nan
    wide = pd.DataFrame(prices, dates, ["A", "B.C", "NA", "Z"])
    long = wide.rename_axis(columns="symbol").stack().rename("close").reset_index()
    panels = [load(write(wide, tmp_path / f"wide.{kind}")) for kind in ("csv", "parquet")]
    long.to_csv(tmp_path / "long.csv", index=False)
    long.to_parquet(tmp_path / "long.parquet")
    panels += [load(tmp_path / f"long.{kind}") for kind in ("csv", "parquet")]
    for panel in panels:
        same(panel, panels[0])
    np.testing.assert_array_equal(panels[0].prices, prices)


# ---- mistakes


def changed(row: int, column: str, value: object) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        frame = daily().astype(object)
        frame.loc[frame.index[row], column] = value
        return write(frame, folder / "bad.csv")

    return make


def reindexed(*dates: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        frame = daily(len(dates))
        frame.index = pd.Index(dates, name="date")
        return write(frame, folder / "bad.csv")

    return make


def content(name: str, data: str | bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return str(folder / name)

    return make


def truncated_parquet(folder: Path) -> str:
    whole = Path(write(daily(), folder / "whole.parquet")).read_bytes()
    return content("bad.parquet", whole[:-20])(folder)


LONG = "symbol,time,close,volume\n"
MISTAKES: dict[str, tuple[Callable[[Path], str], str]] = {
    "text": (
        changed(2, "BRK.B", "n.v."),
        r"column 'BRK.B', row 3 \(2020-01-06\): 'n.v.' is text, not a number; mend the cell",
    ),
    "zero": (changed(1, "CC", 0), r"column 'CC', row 2 \(2020-01-03\): 0 must be finite and above"),
    "negative": (changed(0, "AAA", -1.5), r"column 'AAA', row 1 \(2020-01-02\): -1.5 must be"),
    "infinite": (changed(4, "AAA", np.inf), r"column 'AAA', row 5 \(2020-01-08\): inf must be"),
    "repeated": (
        reindexed("2020-01-02", "2020-01-03", "2020-01-03"),
        r"bad.csv: row 3 \(2020-01-03.*\): has the time of the row before; keep one row",
    ),
    "unordered": (
        reindexed("2020-01-02", "2020-01-06", "2020-01-03"),
        r"bad.csv: row 3 \(2020-01-03.*\): is earlier than the row before; sort the rows",
    ),
    "one date twice": (
        reindexed(
            *("2020-01-02 10:00", "2020-01-03 10:00", "2020-01-03 16:00", "2020-01-06 10:00"),
            *("2020-01-07 10:00", "2020-01-08 10:00"),
        ),
        r"row 3 \(2020-01-03 16:00:00\): a second row for one 1d bar",
    ),
    "no date": (
        reindexed("2020-01-02", "someday"),
        r"column 'date', row 2: 'someday' is not a time stamp; write ISO 8601",
    ),
    "missing date": (reindexed("2020-01-02", ""), r"column 'date', row 2: '' is not a time stamp"),
    "half zoned": (
        reindexed("2020-01-02 16:00", "2020-01-03 16:00-05:00"),
        r"column 'date', row 2: .* has a UTC offset and row 1 has none",
    ),
    "weekends only": (
        reindexed("2020-01-04", "2020-01-05"),
        r"no time stamp falls in a session of XNYS; check data.calendar",
    ),
    "monthly": (
        reindexed("2020-01-31", "2020-02-28", "2020-03-31"),
        r"bad.csv: stamps are \d+ s apart, no supported bar; set data.interval",
    ),
    "empty": (content("bad.csv", ""), r"bad.csv: is empty"),
    "header only": (content("bad.csv", "date,A\n"), r"bad.csv: has a header but no rows"),
    "no prices": (content("bad.csv", "date\n2020-01-02\n"), r"has 1 column"),
    "twice named": (content("bad.csv", "date,A,A\n2020-01-02,1,2\n"), r"column 'A' appears twice"),
    "nameless": (content("bad.csv", "date,A,\n2020-01-02,1,2\n"), r"column 3 has no name"),
    "ragged": (content("bad.csv", "date,A\n2020-01-02,1,2\n"), r"cannot be read as CSV \(.*got 3"),
    "not text": (
        content("bad.csv", b"date,A\n2020-01-02,\xff\n"),
        r"cannot be read as CSV|is text",
    ),
    "unknown kind": (content("bad.xlsx", "x"), r"unknown kind of file '.xlsx'; use .parquet"),
    "no parquet": (content("bad.parquet", "hello"), r"bad.parquet: cannot be read as Parquet"),
    "cut parquet": (truncated_parquet, r"bad.parquet: cannot be read as Parquet"),
    "missing": (lambda folder: str(folder / "none.csv"), r"none.csv: no such file"),
    "empty folder": (lambda folder: str(folder), r"holds neither manifest.json nor Parquet"),
    "long without close": (
        content("bad.csv", "symbol,time,price\nA,2020-01-02,1\n"),
        r"a long file needs a column 'close'; add it; the file has symbol, time, price",
    ),
    "long without time": (
        content("bad.csv", "symbol,day,close\nA,2020-01-02,1\n"),
        r"a long file needs a column 'time'",
    ),
    "bars without symbol": (
        content("bad.csv", "time,open,high,low,close\n2020-01-02,1,1,1,1\n"),
        r"has columns of bars but no column 'symbol'",
    ),
    "long repeated": (
        content("bad.csv", LONG + "A,2020-01-02,1,1\nB,2020-01-02,1,1\nA,2020-01-02,1,1\n"),
        r"column 'symbol', row 3 \(2020-01-02\): a second row for 'A' and this bar",
    ),
    "long text": (
        content("bad.csv", LONG + "A,2020-01-02,1,1\nB,2020-01-02,x,1\n"),
        r"column 'close', row 2 \(2020-01-02\): 'x' is text",
    ),
    "long negative": (
        content("bad.csv", LONG + "A,2020-01-02,1,1\nB,2020-01-02,-1,1\n"),
        r"column 'close', row 2 \(2020-01-02\): -1 must be finite and above zero",
    ),
    "long volume": (
        content("bad.csv", LONG + "A,2020-01-02,1,-1\nB,2020-01-02,1,1\n"),
        r"column 'volume', row 1 \(2020-01-02\): -1 must be finite and not negative",
    ),
    "long nameless": (
        content("bad.csv", LONG + "A,2020-01-02,1,1\n,2020-01-02,1,1\n"),
        r"column 'symbol', row 2 \(2020-01-02\): is empty",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_with_place_and_cure(tmp_path: Path, mistake: str) -> None:
    make, message = MISTAKES[mistake]
    interval = "1d" if "long" in mistake else None
    with pytest.raises(DataError, match=message) as caught:
        load(make(tmp_path), interval=interval)
    assert "\n" not in str(caught.value)
    assert caught.value.cure
    assert caught.value.exit_code == 2


def test_text_in_a_parquet_column(tmp_path: Path) -> None:
    frame = daily()
    frame["sector"] = "tech"
    with pytest.raises(DataError, match=r"column 'sector', row 1 \(2020-01-02.*'tech' is text"):
        load(write(frame, tmp_path / "a.parquet"))
    assert load(tmp_path / "a.parquet", names=("AAA",)).n_assets == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ("AA",)}, r"has no name 'AA'; correct data.names; did you mean AAA\?"),
        ({"start": "2021-01-01"}, r"no bar from 2021-01-01 to its end; it covers 2020-01-02 to"),
        ({"start": "soon"}, r"data.start: 'soon' is not a date"),
        ({"calendar": "NYSE!"}, r"data.calendar: 'NYSE!' is not known"),
        ({"interval": "30s"}, r"data.interval: interval '30s' is not understood"),
        ({"min_dollar_volume": 1.0}, r"no traded value, which min_dollar_volume"),
        ({"dollar_volume_path": "nowhere.csv"}, r"nowhere.csv: no such file"),
    ],
)
def test_settings_that_do_not_fit_the_file(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path = write(daily(), tmp_path / "a.csv")
    with pytest.raises(UserError, match=message):
        load(path, **fields)


def intraday(folder: Path, stamps: list[str]) -> Path:
    bars([f"2025-11-26 {t}" for t in stamps]).to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def test_stamps_on_the_wrong_side_are_noticed(tmp_path: Path) -> None:
    path = intraday(tmp_path, ["09:30", "09:35", "15:55"])
    with pytest.raises(DataError, match=r"stamps mark the start of bars; set data.stamps: start"):
        load(path)
    path = intraday(tmp_path, ["09:35", "09:40", "16:00"])
    with pytest.raises(DataError, match=r"stamps mark the close of bars; set data.stamps: close"):
        load(path, stamps="start")
    assert load(path).n_bars == 3


def test_stamps_are_told_from_the_edges_of_sessions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starts = intraday(tmp_path, ["09:30", "09:35", "09:40"])
    told, given = load(starts, stamps="auto"), load(starts, stamps="start")
    assert told.times.equals(given.times)
    np.testing.assert_array_equal(told.prices, given.prices)
    assert "taken to mark the start of bars" in caplog.text
    closes = intraday(tmp_path, ["15:50", "15:55", "16:00"])
    assert load(closes, stamps="auto").times.equals(load(closes, stamps="close").times)


@pytest.mark.parametrize("times", [["09:30", "09:35", "16:00"], ["10:00", "10:05", "10:10"]])
def test_stamps_that_do_not_tell_are_refused(tmp_path: Path, times: list[str]) -> None:
    path = intraday(tmp_path, times)
    with pytest.raises(DataError, match=r"does not tell what stamps mark; set data.stamps"):
        load(path, stamps="auto", interval="5m")


def test_an_interval_that_is_not_the_file_s_is_noticed(tmp_path: Path) -> None:
    path = intraday(tmp_path, ["09:35", "09:40", "16:00"])
    with pytest.raises(DataError, match=r"stamps are multiples of 300 s apart.*longer than 1m"):
        load(path, interval="1m")
    with pytest.raises(DataError, match=r"row 1 .*inside a session but no edge of a 15m bar"):
        load(path, interval="15m")
    with pytest.raises(DataError, match=r"a second row for 'X' and this bar"):
        load(path, interval="1d")


def test_an_hour_that_happens_twice_needs_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    bars(["2025-11-02 01:30", "2025-11-02 01:35"]).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"row 1 .*clock change; write time stamps with a UTC"):
        load(path)
    with pytest.raises(ConfigError, match=r"data.time_zone: 'Mars' is not known"):
        load(path, time_zone="Mars")
    assert load(path, time_zone="UTC", calendar="24/7").n_bars == 2


def test_the_time_zone_is_the_calendar_s_own(tmp_path: Path) -> None:
    dates = pd.DatetimeIndex(["2020-01-07", "2020-01-08", "2020-01-09", "2020-01-10"])
    frame = pd.DataFrame({"X": [1.0, 2.0, 3.0, 4.0]}, dates.rename("time"))
    naive = write(frame, tmp_path / "naive.parquet")
    instants = write(frame.tz_localize("Asia/Tokyo"), tmp_path / "instants.parquet")
    expected = load(naive, calendar="XTKS")
    assert expected.times.tz_convert("Asia/Tokyo").normalize().tz_localize(None).equals(dates)
    same(load(instants, calendar="XTKS"), expected)
    path = tmp_path / "five.csv"
    bars(["2025-11-04 09:05", "2025-11-04 09:10"]).to_csv(path, index=False)
    local = load(path, calendar="XTKS", interval="5m").times.tz_convert("Asia/Tokyo")
    assert local.strftime("%H:%M").tolist() == ["09:05", "09:10"]


def test_daily_prices_of_another_calendar_are_refused(tmp_path: Path) -> None:
    weeks = pd.date_range("2021-01-04", "2021-03-31", name="time")
    frame = pd.DataFrame({"X": np.arange(len(weeks)) + 1.0, "Y": 1.0}, weeks)
    path = write(frame, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 6 \(2021-01-09\).*XNYS.*of 174 .*data.calendar"):
        load(path)
    assert load(path, calendar="24/7").n_bars == len(weeks)
    weekends = frame.index.day_of_week > 4
    frame[weekends] = np.nan  # a calendar of all days, without prices at weekends
    assert load(write(frame, tmp_path / "b.parquet")).n_bars == 61


def test_daily_instants_in_the_wrong_time_zone_are_refused(tmp_path: Path) -> None:
    days = pd.bdate_range("2021-01-04", "2021-06-30", tz="Asia/Tokyo", name="time")
    frame = pd.DataFrame({"X": np.arange(len(days)) + 1.0}, days)
    path = write(frame, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no session of XTKS.*data.time_zone"):
        load(path, calendar="XTKS", time_zone="America/New_York")


# ---- the sample and real data


def test_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = load_wide_data(DataConfig(start="2015-01-01", end="2015-12-31", names=("XOM", "AAPL")))
    assert (panel.n_bars, panel.names, panel.interval) == (252, ("XOM", "AAPL"), "1d")
    assert panel.mask.all()
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "dpa.market.sample.find_spec", lambda name: None if name == "skfolio" else real(name)
    )
    with pytest.raises(DataError, match=r"skfolio, which is not installed; pip install dpa\[samp"):
        load_wide_data(DataConfig(path="sample"))


def test_real_daily_prices(market_data: Path) -> None:
    path = market_data / "us_daily_close.parquet"
    with pytest.raises(DataError, match=r"has no price in any row \(nor have 9 more"):
        load(path)
    panel = load(path, drop_empty_names=True, start="2008-01-01", end="2013-12-31")
    oracle = pd.read_parquet(path).loc["2008":"2013", list(panel.names)]
    np.testing.assert_array_equal(panel.prices, oracle.to_numpy(dtype=float))
    assert panel.times.tz_convert("America/New_York").strftime("%Y-%m-%d").tolist() == list(
        oracle.index.strftime("%Y-%m-%d")
    )
    assert panel.n_assets == 494


def test_real_five_minute_bars(market_data: Path) -> None:
    path = market_data / "us_5min_bars.parquet"
    panel, report = load_with_report(DataConfig(path=str(path), stamps="start"))
    assert panel.n_assets == 101
    assert report.off_session_prices > 0
    local = panel.times.tz_convert("America/New_York")
    per_day = pd.Series(1, index=local).groupby(local.strftime("%Y-%m-%d")).sum()
    assert per_day[per_day != 78].to_dict() == {
        "2025-07-03": 42,
        "2025-11-28": 42,
        "2025-12-24": 42,
    }
    # oracle: pandas, with the hours of a full and of a half day written out
    frame = pd.read_parquet(path)
    clock = frame["time"].dt.hour * 60 + frame["time"].dt.minute
    half = frame["time"].dt.strftime("%Y-%m-%d").isin(per_day.index[per_day == 42])
    inside = (clock >= 570) & (clock < np.where(half, 780, 960))
    assert report.off_session_prices == int((~inside).sum())
    wide = (
        frame[inside].astype({"symbol": str}).pivot(index="time", columns="symbol", values="close")
    )
    np.testing.assert_array_equal(panel.prices, wide.to_numpy(dtype=float))
    starts = (wide.index + pd.Timedelta("5min")).tz_localize("America/New_York")
    assert (panel.times == starts).all()
    assert panel.names == tuple(wide.columns)
