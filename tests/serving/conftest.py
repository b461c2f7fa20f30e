"""Requests for the tests of serving: ``from tests.serving.conftest import make_request``."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd

from dpa.serving.types import Request

TIME = pd.Timestamp("2024-07-01 14:35", tz="UTC")


def make_request(n_symbols: int = 5, seed: int = 0, **changes: Any) -> Request:
    """A plausible request, everything known."""
    rng = np.random.default_rng(seed)
    price = np.round(np.exp(rng.uniform(np.log(10), np.log(400), n_symbols)), 2)
    built = Request(
        time=TIME,
        moment=TIME + pd.Timedelta(milliseconds=200),
        account="default",
        nav_usd=1e6,
        prior_nav_usd=1.01e6,
        feed="direct",
        names=tuple(f"S{k:03d}" for k in range(n_symbols)),
        bars={
            "close": price,
            "open": price * 1.001,
            "high": price * 1.002,
            "low": price * 0.999,
            "volume": np.round(rng.uniform(1e3, 1e6, n_symbols)),
            "dollar_volume": price * 1e5,
        },
        member=np.ones(n_symbols, dtype=bool),
        bid=price * 0.9999,
        ask=price * 1.0001,
        quote_age_ms=rng.uniform(0, 150, n_symbols),
        adv_usd=price * 1e7,
        shares=np.round(rng.normal(0, 100, n_symbols)),
        lot=np.ones(n_symbols),
    )
    return replace(built, **changes)


def same_request(one: Request, other: Request) -> None:
    """Assert that two requests say the same, bit for bit."""
    for field in fields(Request):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name == "bars":
            assert list(left) == list(right)
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, field.name
