"""The last bars of a history that are known at a time."""

from pathlib import Path

import pandas as pd

from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.market.panel import Panel
from dpa.market.readers import load_wide_data
from dpa.market.selections import select_shards
from dpa.market.session_grid import GridSource


def last_bars(config: DataConfig, n_bars: int, until: pd.Timestamp | None = None) -> Panel:
    """The last bars of a history on its session grid; fewer when there are fewer.

    Parameters
    ----------
    config : DataConfig
        Its path must be given.
    n_bars : int
    until : Timestamp, optional
        UTC; later bars are left out. None: the end of the history.

    Raises
    ------
    ConfigError, DataError
        When there is no path, the data cannot be used, or no bar is known at `until`.
    """
    if config.path is None:
        raise ConfigError("--data: is missing", "give the bars to forecast from")
    if Path(config.path).is_dir():
        source = GridSource(select_shards(config.path, config))
    else:
        source = GridSource(load_wide_data(config))
    stop = source.n_bars
    if until is not None:
        stop = int(source.times().searchsorted(until, side="right"))
        if not stop:
            raise DataError(
                f"{until}: no bar is known then, the first is {source.times(0, 1)[0]}",
                "give a later time",
            )
    return source.window(max(0, stop - n_bars), stop)
