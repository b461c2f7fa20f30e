"""What was learned of one universe, families and horizons, laid out for another."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpa.decision.types import Integers


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where each new horizon, family and symbol was before; -1: it is new.

    Parameters
    ----------
    horizons : int64 ndarray of shape (n_new_horizons,)
    families : int64 ndarray of shape (n_new_families,)
    symbols : int64 ndarray of shape (n_new_symbols,)
    """

    horizons: Integers
    families: Integers
    symbols: Integers

    def take(self, array: NDArray[Any], axes: str, fill: Any) -> NDArray[Any]:
        """`array` in the new layout.

        Parameters
        ----------
        array : ndarray
        axes : str
            One letter per axis: ``h``, ``f``, ``n`` for horizons, families and symbols, any other
            for an axis that stays.
        fill : scalar
            What is written where there was nothing.
        """
        places = {"h": self.horizons, "f": self.families, "n": self.symbols}
        for axis, letter in enumerate(axes):
            if letter in places:
                array = _taken(array, places[letter], axis, fill)
        return array


def _taken(array: NDArray[Any], places: Integers, axis: int, fill: Any) -> NDArray[Any]:
    shape = (*array.shape[:axis], len(places), *array.shape[axis + 1 :])
    out = np.full(shape, fill, dtype=array.dtype)
    known = np.flatnonzero(places >= 0)
    np.moveaxis(out, axis, 0)[known] = np.moveaxis(array, axis, 0)[places[known]]
    return out


def positions(new: Sequence[Hashable], old: Sequence[Hashable]) -> Integers:
    """Position in `old` of each of `new`; -1 where it is not there."""
    place = {key: number for number, key in enumerate(old)}
    return np.array([place.get(key, -1) for key in new], dtype=np.int64)


@lru_cache(maxsize=16)
def alphabetical(
    names: tuple[str, ...],
) -> tuple[tuple[str, ...], Integers | slice, Integers | slice]:
    """Names sorted, what indexes columns to sort them, and what undoes it.

    Sums over symbols are made in alphabetical order, so that they have the same bits however a
    snapshot orders its symbols. Names that are sorted already need no copy: both are slices.
    """
    places = sorted(range(len(names)), key=names.__getitem__)
    if places == list(range(len(names))):
        return names, slice(None), slice(None)
    order = np.array(places, dtype=np.int64)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    for array in (order, back):
        array.flags.writeable = False
    return tuple(names[place] for place in places), order, back
