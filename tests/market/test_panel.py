"""The panel refuses what cannot be, shows nothing outside a cut, and cannot be written to."""

import numpy as np
import pandas as pd
import pytest

from dpa.errors import DataError
from dpa.market.panel import Panel, concat


def panel(**parts: object) -> Panel:
    prices = np.array([[10.0, np.nan], [11.0, 5.0], [np.nan, 6.0], [12.1, 3.0]])
    values: dict[str, object] = {
        "times": pd.date_range("2020-01-01", periods=4, tz="UTC"),
        "names": ("A", "B"),
        "prices": prices,
        "mask": np.isfinite(prices),
        "interval": "1d",
        "dollar_volume": prices * 100,
    }
    return Panel(**(values | parts))


def test_returns_are_simple_and_missing_is_missing() -> None:
    expected = [[np.nan, np.nan], [0.1, np.nan], [np.nan, 0.2], [np.nan, -0.5]]
    np.testing.assert_allclose(panel().returns(), expected, rtol=1e-12)


def test_nothing_can_be_written() -> None:
    whole = panel()
    for array in (whole.prices, whole.mask, whole.dollar_volume, whole.window(1, 3).prices):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_until_ends_with_the_bar_known_then() -> None:
    whole = panel()
    assert whole.until(whole.times[2]).n_bars == 3
    assert whole.until(whole.times[2] - pd.Timedelta("1ns")).n_bars == 2
    assert whole.until(whole.times[0] - pd.Timedelta("1ns")).n_bars == 0


def test_joined_cuts_are_the_whole() -> None:
    whole = panel()
    joined = concat([whole.window(0, 1), whole.window(1, 1), whole.window(1, 4)])
    assert (joined.times == whole.times).all()
    for part in ("prices", "mask", "dollar_volume"):
        np.testing.assert_array_equal(getattr(joined, part), getattr(whole, part))
    with pytest.raises(DataError, match="differ in names"):
        concat([whole, panel(names=("A", "C"))])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"names": ("A",)}, "do not match"),
        ({"times": pd.date_range("2020-01-01", periods=4)}, "times are naive"),
        ({"times": pd.DatetimeIndex(["2020-01-01"] * 4, tz="UTC")}, "not strictly increasing"),
        ({"mask": np.ones((4, 2), dtype=bool)}, "mask is True where there is no price"),
        ({"dollar_volume": np.ones((4, 1))}, "dollar_volume is"),
    ],
)
def test_what_cannot_be_is_refused(parts: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        panel(**parts)
    with pytest.raises(DataError, match=r"bars \[2, 5\)"):
        panel().window(2, 5)
