"""Windows of history straight from the files of a directory of shards, without Ray."""

import copy
import math
from typing import Any

from dpa.errors import DataError
from dpa.market.panel import Panel
from dpa.market.selections import ShardSelection
from dpa.market.shard_files import Block, copy_block, empty_block
from dpa.market.universe import Universe

_STATES = 32  # of the universe that are kept; reading brings them up to date in between


class DiskSource:
    """Shards on disk as a :class:`~dpa.market.panel.BarSource`.

    Reads the files a window needs and no others, and holds the last one: memory is bounded by the
    window and one file. Rules of the universe that look back are the exception: the first window
    reads the files before it once, one at a time. Small to send to another process.

    Parameters
    ----------
    selection : ShardSelection
        From :func:`~dpa.market.selections.select_shards`.
    """

    def __init__(self, selection: ShardSelection) -> None:
        self.selection = selection
        self._universes = {0: self._universe()}  # as it is before a file, by the file's place
        self._held: tuple[int, Block] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_universes": {0: self._universe()}, "_held": None}

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return self.selection.n_bars

    @property
    def names(self) -> tuple[str, ...]:
        """Ticker symbols, in column order."""
        return self.selection.names

    @property
    def interval(self) -> str:
        """Bar length."""
        return self.selection.interval

    @property
    def calendar(self) -> str:
        """exchange_calendars code."""
        return self.selection.calendar

    def window(self, start: int, stop: int) -> Panel:
        """Bars ``start`` (inclusive) to ``stop`` (exclusive).

        Raises
        ------
        DataError
            When the bars are not there, or a file cannot be read.
        """
        if not 0 <= start <= stop <= self.n_bars:
            raise DataError(f"shards: bars [{start}, {stop}) are outside [0, {self.n_bars})")
        whole = empty_block(stop - start, len(self.names), self.selection.manifest.extras)
        parts = self._parts(start, stop)
        held = -1 if self._held is None else self._held[0]
        for place in sorted(parts, key=lambda place: (place != held, place)):
            first, low, high = parts[place]
            part = self._file(place).window(low - first, high - first)
            copy_block(part, whole.window(low - start, high - start))
        return whole.panel(self.names, self.interval, self.calendar)

    def _parts(self, start: int, stop: int) -> dict[int, tuple[int, int, int]]:
        """First bar of each file that is needed, and its bars within, in bars of the selection."""
        parts = {}
        first = -self.selection.start
        for place, file in enumerate(self.selection.manifest.files):
            low, high = max(start, first), min(stop, first + file.n_bars)
            if low < high:
                parts[place] = (first, low, high)
            first += file.n_bars
        return parts

    def _universe(self) -> Universe:
        return Universe(self.selection.rules, len(self.selection.names))

    def _file(self, place: int) -> Block:
        """All bars of one file, membership narrowed by the rules."""
        if self._held is None or self._held[0] != place:
            self._held = None  # before the next one is read
            self._held = (place, self._next_file(place))
        return self._held[1]

    def _next_file(self, place: int) -> Block:
        if self.selection.rules.are_trivial:
            return self._read(place, self._universe())
        known = max(k for k in self._universes if k <= place)
        universe = copy.deepcopy(self._universes[known])
        for passed in range(known, place):
            self._read(passed, universe)
            self._keep(passed + 1, universe)
        block = self._read(place, universe)
        self._keep(place + 1, universe)
        return block

    def _keep(self, place: int, universe: Universe) -> None:
        """Remember the universe before a file: at evenly spread ones, and the last one passed."""
        step = math.ceil(len(self.selection.manifest.files) / _STATES)
        kept = {k: state for k, state in self._universes.items() if k % step == 0}
        self._universes = kept | {place: copy.deepcopy(universe)}

    def _read(self, place: int, universe: Universe) -> Block:
        file, extras = self.selection.manifest.files[place], self.selection.manifest.extras
        whole, bars = empty_block(file.n_bars, len(self.names), extras), 0
        for block in self.selection.raw_blocks(file):
            part = whole.window(bars, bars + block.n_bars)
            copy_block(block, part)
            part.mask[:] &= universe.update(block.prices, block.extras.get("dollar_volume"))
            bars += block.n_bars
        return whole
