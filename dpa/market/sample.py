"""The sample: 20 names of the S&P 500, daily, 1990-2022, from skfolio's packaged data set."""

import importlib
from importlib.util import find_spec

import numpy as np
import pandas as pd

from dpa.errors import DataError
from dpa.market.panel import Floats

SAMPLE = "sample"


def read_sample() -> tuple[pd.DatetimeIndex, tuple[str, ...], Floats]:
    """Dates, names and prices of the sample; nothing is downloaded.

    Returns
    -------
    times : DatetimeIndex of shape (n_bars,)
        Session dates, naive midnight.
    names : tuple of str, length n_assets
        Ticker symbols.
    prices : float64 ndarray of shape (n_bars, n_assets)
        Adjusted close, USD; no value is missing. The names survived to the end, so any
        result on them has survivorship bias.

    Raises
    ------
    DataError
        When skfolio is not installed.
    """
    if find_spec("skfolio") is None:
        raise DataError(
            "the sample data come with skfolio, which is not installed",
            "pip install dpa[sample], or give your own prices with --data FILE",
        )
    frame = importlib.import_module("skfolio.datasets").load_sp500_dataset()
    prices = np.ascontiguousarray(frame.to_numpy(), dtype=np.float64)
    return pd.DatetimeIndex(frame.index), tuple(map(str, frame.columns)), prices
