"""A name for the content of a history: equal for equal data, wherever and however it is stored."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpa.market.calendars import Nanoseconds, nanoseconds
from dpa.market.panel import EXTRAS, Bools, Floats, Panel


class Fingerprint:
    """SHA-256 over names, interval, calendar, times, prices, membership and optional arrays.

    Feed it history in time order, in pieces of any length: the pieces do not matter, nor does
    a path or file name.

    Parameters
    ----------
    names : sequence of str
        In column order.
    interval, calendar : str
        As in :class:`~dpa.market.panel.Panel`.
    """

    def __init__(self, names: Sequence[str], interval: str, calendar: str) -> None:
        self._head = hashlib.sha256(repr((tuple(names), interval, calendar)).encode())
        self._columns = {
            part: hashlib.sha256() for part in ("times", "prices", "mask", "dollar_volume")
        }
        self._further = {part: hashlib.sha256() for part in EXTRAS if part not in self._columns}
        self._seen: set[str] = set()

    def update(
        self, times: Nanoseconds, prices: Floats, mask: Bools, extras: Mapping[str, Floats]
    ) -> None:
        """Add the next bars; shapes as in Panel, `times` in UTC nanoseconds.

        `extras` holds the optional arrays by name; see :meth:`Panel.extras`.
        """
        hashes = self._columns | self._further
        self._seen.update(extras)
        for part, values in {"times": times, "prices": prices, "mask": mask, **extras}.items():
            hashes[part].update(_canonical(values))

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        total = self._head.copy()
        for column in self._columns.values():
            total.update(column.digest())
        for part, column in self._further.items():
            if part in self._seen:  # data without it keep the fingerprint they always had
                total.update(part.encode() + column.digest())
        return total.hexdigest()


def _canonical(values: NDArray[Any]) -> bytes:
    """Bytes of `values` in C order; every NaN and both zeros have one spelling."""
    if values.dtype == np.float64:
        values = np.where(np.isnan(values), np.nan, values + 0.0)
    return values.tobytes()


def panel_fingerprint(panel: Panel) -> str:
    """Fingerprint of a panel, as 64 hexadecimal digits."""
    fingerprint = Fingerprint(panel.names, panel.interval, panel.calendar)
    fingerprint.update(nanoseconds(panel.times), panel.prices, panel.mask, panel.extras())
    return fingerprint.hexdigest()
