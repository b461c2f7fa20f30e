"""The truncation test: nothing computed for a bar may change with what came after it.

The future of a panel is cut off, permuted or poisoned, and every earlier output must stay the
same bit for bit. It catches what reading code does not: back-filled gaps, centred windows,
standardisation over the whole sample, labels that slipped into features.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpa.errors import ConfigError, DpaError
from dpa.market.panel import Panel

Change = Literal["cut", "permuted", "poisoned"]
CHANGES: tuple[Change, ...] = get_args(Change)


class LookAheadError(DpaError, AssertionError):
    """An output for a bar depends on later bars; an AssertionError, so that tests fail on it."""


@dataclass(frozen=True)
class _Difference:
    bar: int
    position: tuple[int, ...]
    before: Any
    after: Any


def _permuted(panel: Panel, cut: int, rng: np.random.Generator) -> Panel:
    order = np.concatenate([np.arange(cut), cut + rng.permutation(panel.n_bars - cut)])
    return Panel(
        panel.times,
        panel.names,
        panel.prices[order],
        panel.mask[order],
        panel.interval,
        panel.calendar,
        **{name: array[order] for name, array in panel.extras().items()},
    )


def _poisoned(panel: Panel, cut: int) -> Panel:
    past = np.arange(panel.n_bars)[:, None] < cut
    return Panel(
        panel.times,
        panel.names,
        np.where(past, panel.prices, np.nan),
        panel.mask & past,
        panel.interval,
        panel.calendar,
        **{name: np.where(past, array, np.nan) for name, array in panel.extras().items()},
    )


def changed_future(panel: Panel, cut: int, change: Change, rng: np.random.Generator) -> Panel:
    """`panel` with the same bars before `cut` and another future.

    Parameters
    ----------
    panel : Panel
    cut : int
        First bar of the future.
    change : {"cut", "permuted", "poisoned"}
        Whether the future is missing, in another order (its time stamps stay), or without any
        price, optional array or member.
    rng : numpy Generator
        Source of the permutation.
    """
    if change == "cut":
        return panel.window(0, cut)
    return _permuted(panel, cut, rng) if change == "permuted" else _poisoned(panel, cut)


def _outputs(
    function: Callable[[Panel], Mapping[str, ArrayLike]], panel: Panel
) -> dict[str, NDArray[Any]]:
    arrays = {name: np.asarray(value) for name, value in function(panel).items()}
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != panel.n_bars:
            raise ConfigError(
                f"output {name!r} has shape {array.shape} on {panel.n_bars} bars",
                "give every output a leading axis of bars",
            )
        if array.dtype.kind not in "biufM" or array.dtype.itemsize > 8:
            raise ConfigError(f"output {name!r} has dtype {array.dtype}", "give plain numbers")
    if not arrays:
        raise ConfigError("the function gave no output", "return at least one array")
    return arrays


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """`array` as integers that are equal where the bits are; every NaN is the same one."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _first_difference(before: NDArray[Any], after: NDArray[Any]) -> _Difference | None:
    if before.dtype != after.dtype or before.shape != after.shape:
        was, now = (f"{a.dtype} of shape {a.shape}" for a in (before, after))
        return _Difference(0, (), was, now)
    places = np.argwhere(_bits(before) != _bits(after))
    if len(places) == 0:
        return None
    place = tuple(int(number) for number in places[0])
    return _Difference(place[0], place[1:], before[place], after[place])


def _message(output: str, seen: _Difference, panel: Panel, cut: int, change: Change) -> str:
    where = f"bar {seen.bar} ({panel.times[seen.bar]})"
    if seen.position and seen.position[0] < panel.n_assets:
        where += f", name {panel.names[seen.position[0]]}"
    if len(seen.position) > 1:
        where += f", entry {list(seen.position[1:])}"
    return (
        f"output {output!r} looks ahead: {where} is {seen.before} and becomes {seen.after} "
        f"when the future from bar {cut} on is {change}"
    )


def assert_past_only(
    function: Callable[[Panel], Mapping[str, ArrayLike]],
    panel: Panel,
    cuts: Iterable[int],
    changes: Iterable[Change] = CHANGES,
    seed: int = 0,
) -> None:
    """Check that outputs for bars before each cut do not depend on the bars from it on.

    Parameters
    ----------
    function : callable
        Maps a Panel to named outputs, each an array with a leading axis of its bars, shape
        (n_bars, ...). The second axis is taken for names in messages. It must be a function:
        seeds fixed, no state kept between calls.
    panel : Panel
        At least one bar of past and one of future at each cut.
    cuts : iterable of int
        Bars at which the future begins, from 1 to ``n_bars - 1``.
    changes : iterable of {"cut", "permuted", "poisoned"}
        What is done to the future; see :func:`changed_future`.
    seed : int
        Seed of the permutation.

    Raises
    ------
    LookAheadError
        Naming the output, the first bar and the name that differ, and both values. Equality is
        bit for bit; one NaN equals another.
    ConfigError
        A cut is out of range, an output has no axis of bars, or no output says anything before
        the last cut: a check that could not fail.
    """
    whole = _outputs(function, panel)
    chosen, kinds = sorted(set(cuts)), tuple(changes)
    if not chosen or not kinds:
        raise ConfigError("there is nothing to check", "give at least one cut and one change")
    if not 0 < chosen[0] <= chosen[-1] < panel.n_bars:
        raise ConfigError(f"cuts {chosen} of {panel.n_bars} bars", "use 1 to n_bars - 1")
    if not any(_says_something(array[: chosen[-1]]) for array in whole.values()):
        raise ConfigError(
            f"no output says anything before bar {chosen[-1]}", "cut after the warm-up"
        )
    for cut in chosen:
        for change in kinds:
            other = changed_future(panel, cut, change, np.random.default_rng([seed, cut]))
            _compare(whole, _outputs(function, other), panel, cut, change)


def _says_something(array: NDArray[Any]) -> bool:
    """Whether anything but zero and NaN is in it."""
    if array.dtype.kind == "M":
        return bool((~np.isnat(array)).any())
    return bool((np.nan_to_num(array.astype(np.float64)) != 0).any())


def _compare(
    whole: Mapping[str, NDArray[Any]],
    other: Mapping[str, NDArray[Any]],
    panel: Panel,
    cut: int,
    change: Change,
) -> None:
    if whole.keys() != other.keys():
        raise LookAheadError(
            f"the outputs {sorted(whole)} become {sorted(other)} when the future from bar {cut} "
            f"on is {change}"
        )
    for name, array in whole.items():
        seen = _first_difference(array[:cut], other[name][:cut])
        if seen is not None:
            raise LookAheadError(_message(name, seen, panel, cut, change))
