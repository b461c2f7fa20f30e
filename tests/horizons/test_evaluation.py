"""Tables against obvious loops, on planted forecasts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpa.errors import DataError
from dpa.horizons.calibration import brier_score, brier_skill, reliability
from dpa.horizons.evaluation import ForecastWindow, Scores, Tally
from dpa.market.interval_specs import Horizon
from dpa.validation.information import mean_ic

HORIZONS = (Horizon(5, 1, "5m"), Horizon(30, 6, "30m"))
TIMES = pd.date_range("2024-01-15 14:30", periods=600, freq="h", tz="UTC")


def window(first, n_bars, seed=0, families=("good", "noise")):
    """`good` forecasts the first horizon with an IC near 0.45, the second with one near 0."""
    rng = np.random.default_rng(seed + first)
    outcomes = rng.normal(size=(n_bars, 9, 2))
    outcomes[:, :2][rng.random((n_bars, 2)) < 0.2] = np.nan
    good = rng.normal(size=outcomes.shape)
    good[:, :, 0] += 0.5 * np.nan_to_num(outcomes[:, :, 0])
    forecasts = {"good": good, "noise": rng.normal(size=outcomes.shape)}
    labels = (rng.random((n_bars, 9, 2)) < 0.3).astype(np.float32)
    labels[0] = np.nan
    return ForecastWindow(
        TIMES[first : first + n_bars],
        first,
        {name: forecasts[name] for name in families},
        outcomes,
        {"good": 0.2 + 0.2 * np.nan_to_num(labels, nan=0.5)},
        labels,
    )


def windows():
    return [window(10, 200), window(210, 200), window(450, 100)]


def scored(parts, lag=1):
    scores = Scores(HORIZONS, lag)
    for part in parts:
        scores.add(part)
    return scores


def slow_ic(forecast, outcome):
    out = []
    for first, second in zip(forecast, outcome, strict=True):
        both = np.isfinite(first) & np.isfinite(second)
        enough = both.sum() >= 5
        out.append(stats.spearmanr(first[both], second[both]).statistic if enough else np.nan)
    return np.array(out)


def test_series_keep_their_place_in_history():
    parts = windows()
    found = scored(parts).ic_series("good", 1, 0)
    assert len(found) == 540
    assert np.isnan(found[400:440]).all()
    for part in parts:
        expected = slow_ic(part.forecasts["good"][:, :, 1], part.outcomes[:, :, 0])
        place = part.first_bar - 10
        np.testing.assert_allclose(found[place : place + len(part.times)], expected, atol=1e-12)


def test_ic_table_is_the_mean_of_the_series_with_the_overlap_of_the_label():
    table = scored(windows(), 3).ic_table().set_index(["family", "horizon"])
    assert list(table.columns) == ["ic", "se", "t", "n_bars", "mean_names"]
    for family in ("good", "noise"):
        for place, (horizon, overlap) in enumerate((("5m", 3), ("30m", 8))):
            expected = mean_ic(scored(windows()).ic_series(family, place), overlap)
            row = table.loc[(family, horizon)]
            assert (row.ic, row.se, row.t) == (expected.ic, expected.se, expected.t)
            assert row.n_bars == expected.n_bars == 500
    names = np.concatenate([np.isfinite(w.outcomes[:, :, 0]).sum(axis=1) for w in windows()])
    assert table["mean_names"].iloc[0] == pytest.approx(names.mean())
    assert table.loc[("good", "5m"), "t"] > 10
    assert table.drop(("good", "5m"))["t"].abs().max() < 3


def test_decay_shows_which_horizon_a_forecast_serves():
    table = scored(windows(), 1).decay_table()
    assert table[["horizon", "outcome"]].to_numpy()[:4].tolist() == [
        ["5m", "5m"],
        ["5m", "30m"],
        ["30m", "5m"],
        ["30m", "30m"],
    ]
    good = table[table["family"] == "good"]["ic"].to_numpy()
    assert good[0] > 0.3
    assert np.abs(good[1:]).max() < 0.1
    own = table[table["horizon"] == table["outcome"]].reset_index(drop=True)
    columns = ["family", "horizon", "ic", "se", "t", "n_bars"]
    pd.testing.assert_frame_equal(own[columns], scored(windows(), 1).ic_table()[columns])


def test_months_add_up_to_the_whole():
    table = scored(windows(), 1).month_table()
    one = table[(table["family"] == "good") & (table["horizon"] == "5m")]
    assert one["month"].tolist() == ["2024-01", "2024-02"]
    series = scored(windows()).ic_series("good", 0)
    january = TIMES[10:550].month == 1
    assert one["ic"].tolist() == pytest.approx(
        [np.nanmean(series[january]), np.nanmean(series[~january])]
    )
    assert one["n_bars"].sum() == 500


def test_correlation_between_families():
    parts = windows()
    table = scored(parts).family_correlations()
    assert table[["horizon", "family", "other"]].to_numpy().tolist() == [
        ["5m", "good", "noise"],
        ["30m", "good", "noise"],
    ]
    by_bar = [slow_ic(w.forecasts["good"][:, :, 1], w.forecasts["noise"][:, :, 1]) for w in parts]
    assert table["correlation"].iloc[1] == pytest.approx(np.concatenate(by_bar).mean())
    assert table["n_bars"].tolist() == [500, 500]


def test_a_family_that_is_absent_from_a_window_leaves_a_gap():
    parts = [window(10, 200), window(210, 200, families=("good",))]
    table = scored(parts, 1).ic_table().set_index(["family", "horizon"])
    assert table.loc[("noise", "5m"), "n_bars"] == 200
    assert table.loc[("good", "5m"), "n_bars"] == 400
    assert scored(parts).family_correlations()["n_bars"].tolist() == [200, 200]


def test_a_family_that_says_nothing_is_missing_not_zero():
    part = window(0, 50)
    silent = ForecastWindow(part.times, 0, {"silent": np.full((50, 9, 2), np.nan)}, part.outcomes)
    table = scored([silent], 1).ic_table()
    assert table[["ic", "se", "t", "mean_names"]].isna().to_numpy().all()
    assert (table["n_bars"] == 0).all()
    assert scored([silent], 1).month_table().empty
    assert scored([silent]).barrier_table().empty


def test_without_barrier_heads_the_tables_of_them_are_empty_and_keep_their_columns():
    scores = scored([replace(part, probabilities={}) for part in windows()])
    for table in (scores.barrier_table(), scores.reliability_table()):
        assert table.empty
        assert list(table.columns[:2]) == ["family", "barrier"]


def test_barrier_table_by_hand():
    table = scored(windows()).barrier_table()
    assert table[["family", "barrier"]].to_numpy().tolist() == [
        ["good", "peak"],
        ["good", "valley"],
    ]
    label = np.concatenate([w.labels[1:, :, 0].ravel() for w in windows()])
    base = label.mean()
    row = table.iloc[0]
    assert row.n == len(label) == (500 - 3) * 9
    assert row.base_rate == pytest.approx(base)
    # the forecast is 0.4 where the label is 1, and 0.2 where it is 0
    brier = base * 0.36 + (1 - base) * 0.04
    assert row.brier == pytest.approx(brier, rel=1e-5)
    assert row.skill == pytest.approx(1 - brier / (base * (1 - base)), rel=1e-5)
    curve = scored(windows()).reliability_table()
    peak = curve[curve["barrier"] == "peak"]
    assert peak["forecast"].tolist() == pytest.approx([0.2, 0.4])
    assert peak["frequency"].tolist() == [0.0, 1.0]
    assert peak["count"].sum() == len(label)


def test_a_tally_says_what_the_rows_say():
    rng = np.random.default_rng(3)
    given = rng.beta(2, 5, 20_000)
    seen = (rng.random(20_000) < given**1.3).astype(float)
    seen[::17] = np.nan
    tally = Tally()
    for part in np.array_split(np.arange(20_000), 7):
        tally.add(given[part], seen[part])
    assert tally.brier == pytest.approx(brier_score(given, seen))
    assert tally.skill == pytest.approx(brier_skill(given, seen))
    rows, bins = reliability(given, seen), tally.reliability()
    assert len(bins) == len(rows) == 10
    np.testing.assert_allclose(bins["forecast"], rows["forecast"], atol=2e-3)
    np.testing.assert_allclose(bins["frequency"], rows["frequency"], atol=2e-2)
    assert bins["count"].sum() == np.isfinite(seen).sum()


@pytest.mark.parametrize("wrong", ["times", "forecasts", "probabilities", "labels"])
def test_shapes_that_do_not_fit_are_refused(wrong):
    part = window(0, 20)
    fields = {**vars(part)}
    fields[wrong] = {
        "times": part.times[1:],
        "forecasts": {"good": part.outcomes[:, :, :1]},
        "probabilities": {"good": part.outcomes[:, 1:]},
        "labels": part.labels[:, :, 0],
    }[wrong]
    with pytest.raises(DataError, match="test window"):
        ForecastWindow(**fields)
