"""Sums and extremes over trailing windows, the same bits in a batch and for the last bar alone.

A window of n bars is put together from blocks whose lengths are the powers of two in n, each the
sum of its two halves (a doubling scan). The order of the additions depends on n and on nothing
else: not on where history starts, how many bars follow, or how many are asked for. So a feature
computed live on a short tail equals the one computed over years, bit for bit. It costs log2(n)
passes, and rounds like pairwise summation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Combine = Callable[..., Any]


def trailing(values: Doubles, n_bars: int, combine: Combine = np.add) -> Doubles:
    """``combine`` over the last `n_bars` values at every bar.

    Parameters
    ----------
    values : float64 ndarray of shape (n_rows, n_columns)
        Without NaN.
    n_bars : int
        Length of the window, >= 1.
    combine : ufunc
        Associative and commutative: ``np.add``, ``np.maximum``, ``np.minimum``.

    Returns
    -------
    float64 ndarray of shape (n_rows, n_columns)
        NaN in the first ``n_bars - 1`` rows.
    """
    out = np.full(values.shape, np.nan)
    if n_bars > len(values):
        return out
    block, size, total, covered = values, 1, None, 0
    remaining = n_bars
    while remaining:
        if remaining & 1:
            total = block if total is None else _joined(block, total, size, combine)
            covered += size
        remaining >>= 1
        if remaining:
            block = _joined(block, block, size, combine)
            size *= 2
    assert total is not None
    out[n_bars - 1 :] = total[n_bars - 1 :]
    return out


def _joined(newer: Doubles, older: Doubles, distance: int, combine: Combine) -> Doubles:
    """``combine(newer[t], older[t - distance])``; rows before `distance` are not meaningful."""
    out = newer.copy()
    combine(newer[distance:], older[:-distance], out=out[distance:])
    return out


def trailing_last(window: Doubles, combine: Combine = np.add) -> Doubles:
    """``combine`` over all rows of one window: the last row of :func:`trailing`, bit for bit.

    Parameters
    ----------
    window : float64 ndarray of shape (n_bars, n_columns)
        Newest row last; without NaN.
    combine : ufunc
        As for :func:`trailing`.

    Returns
    -------
    float64 ndarray of shape (n_columns,)
    """
    length = len(window)
    size = 1 << (length.bit_length() - 1)
    newer = window[length - size :]
    while len(newer) > 1:
        newer = combine(newer[1::2], newer[0::2])
    if size == length:
        return np.asarray(newer[0])
    return np.asarray(combine(newer[0], trailing_last(window[: length - size], combine)))
