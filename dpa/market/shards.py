"""Shards through Ray: read once per run, shared by all trials through the object store.

The only module that imports Ray, and only inside functions. :class:`ShardStore` is an actor: Ray
Data streams the shards to it in time order, it cuts the stream into segments of equal length and
puts each into the object store as it arrives, where Ray spills what does not fit to disk. A
:class:`ShardStoreSource` in a trial puts windows together from segments and holds no more than
the window and a few segments, whatever the length of the history.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dpa.clock import SystemClock
from dpa.config import DataConfig
from dpa.errors import DataError, DpaError, TransientError
from dpa.market.panel import EXTRAS, Panel
from dpa.market.selections import SelectionCutter, ShardSelection, select_shards
from dpa.market.shard_files import (
    Block,
    ShardManifest,
    bar_bytes,
    copy_block,
    empty_block,
    join,
    read_shards,
    write_shards,
)
from dpa.telemetry import catalogue
from dpa.telemetry.meters import NO_METERS, Meters

__all__ = [
    "ShardManifest",
    "ShardStore",
    "ShardStoreSource",
    "open_shard_store",
    "read_shards",
    "start_shard_store",
    "write_shards",
]

_SEGMENT_BYTES = 8 * 2**20
_ATTEMPTS = 10  # to get a segment while stores die
_READERS = 2  # tasks that read files at the same time
_BLOCK_BYTES = 16 * 2**20  # target of Ray Data; larger blocks raise its shared memory


def default_segment_bars(selection: ShardSelection) -> int:
    """Bars that make a segment of about 8 MiB."""
    size = bar_bytes(len(selection.names), len(selection.manifest.extras))
    return max(_SEGMENT_BYTES // size, 1)


def stream_blocks(selection: ShardSelection, node_id: str | None = None) -> Iterator[Block]:
    """The selected bars in time order, read by Ray Data.

    The reading tasks ask for no CPU: trials that hold all of them cannot starve the reader
    that they wait for. Each file is packed to whole arrays where it is read, because slicing
    hundreds of columns is what costs time in Ray Data.

    Parameters
    ----------
    selection : ShardSelection
        What to read.
    node_id : str, optional
        Ray node to prefer for reading: one that sees the files.
    """
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = _BLOCK_BYTES
    context.enable_progress_bars = False
    where = node_id or ray.get_runtime_context().get_node_id()
    files = selection.files()

    def read(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for place in batch["item"]:
            for block in selection.raw_blocks(files[int(place)]):
                yield _to_columns(block)

    items: Any = ray.data.from_items(list(range(len(files))), override_num_blocks=len(files))
    dataset = items.map_batches(
        read,
        batch_size=None,
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=_READERS),
        scheduling_strategy=NodeAffinitySchedulingStrategy(where, soft=True),
    )
    cutter = SelectionCutter(selection)
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        selected = cutter.select(_from_columns(batch))
        if selected.n_bars:
            yield selected


def _to_columns(block: Block) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "time": block.times,
        "prices": block.prices,
        "mask": block.mask.view(np.uint8),
    }
    return columns | block.extras


def _from_columns(columns: dict[str, Any]) -> Block:
    mask = np.ascontiguousarray(columns["mask"]).view(np.bool_)
    extras = {name: columns[name] for name in EXTRAS if name in columns}
    return Block(columns["time"], columns["prices"], mask, extras)


def cut_segments(blocks: Iterator[Block], segment_bars: int) -> Iterator[Block]:
    """Blocks of exactly `segment_bars` bars, the last one shorter, from blocks of any length."""
    waiting: list[Block] = []
    bars = 0
    for block in blocks:
        start = 0
        while start < block.n_bars:
            part = block.window(start, min(start + segment_bars - bars, block.n_bars))
            waiting.append(part)
            start, bars = start + part.n_bars, bars + part.n_bars
            if bars == segment_bars:
                yield join(waiting)
                waiting, bars = [], 0
    if waiting:
        yield join(waiting)


class ShardStore:
    """Actor that reads shards once and hands out references to segments of them.

    Started by :func:`start_shard_store`. When its process dies, Ray starts it again, it reads
    the shards again, and sources ask again: nothing is lost but time.

    Parameters
    ----------
    selection : ShardSelection
        What to read.
    segment_bars : int
        Bars of a segment.
    node_id : str
        Ray node to prefer for reading.
    meters : Meters
        Told what was read, and how long it took.
    """

    def __init__(
        self,
        selection: ShardSelection,
        segment_bars: int,
        node_id: str,
        meters: Meters = NO_METERS,
    ) -> None:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self._selection, self._segment_bars, self._node_id = selection, segment_bars, node_id
        self._meters, self._clock = meters, SystemClock()
        self._references: list[Any] = []
        self._bars = 0
        self._error: Exception | None = None
        self._reading: asyncio.Future[None] | None = None
        self._arrival = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1)

    def _start(self) -> None:
        if self._reading is None:
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._thread, self._read, loop)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        import ray

        error: Exception | None = None
        try:
            blocks = stream_blocks(self._selection, self._node_id)
            begun = self._clock.elapsed()
            for segment in cut_segments(blocks, self._segment_bars):
                reference = ray.put(segment)
                begun = self._count(segment, begun)
                arrived = self._arrived(reference, segment.n_bars, None)
                asyncio.run_coroutine_threadsafe(arrived, loop).result()
            if self._bars != self._selection.n_bars:
                error = DataError(
                    f"{self._selection.manifest.directory}: {self._bars} bars arrived, "
                    f"not {self._selection.n_bars}",
                    "check the shards with 'dpa data check'",
                )
            else:
                self._meters.count(catalogue.SHARDS_READ, len(self._selection.files()))
        except Exception as e:  # the edge of the reading thread: whoever waits gets the error
            logging.getLogger(__name__).exception("reading shards failed")
            error = root_error(e)
        asyncio.run_coroutine_threadsafe(self._arrived(None, 0, error), loop).result()

    def _count(self, segment: Block, begun: float) -> float:
        now = self._clock.elapsed()
        size = bar_bytes(len(self._selection.names), len(self._selection.manifest.extras))
        self._meters.count(catalogue.DATA_READ_BYTES, segment.n_bars * size)
        self._meters.observe(catalogue.DATA_READ_SECONDS, now - begun)
        return now

    async def _arrived(self, reference: Any, n_bars: int, error: Exception | None) -> None:
        async with self._arrival:
            if reference is not None:
                self._references.append(reference)
            self._bars += n_bars
            self._error = error
            self._arrival.notify_all()

    async def segment(self, index: int) -> list[Any]:
        """Reference to segment `index`, in a list so that Ray does not resolve it.

        Waits until the segment has been read.

        Raises
        ------
        DataError
            When the shards could not be read.
        """
        self._start()
        async with self._arrival:
            await self._arrival.wait_for(
                lambda: index < len(self._references) or self._error is not None
            )
        if index < len(self._references):
            return [self._references[index]]
        raise self._error or DataError(f"there is no segment {index}")

    async def process_id(self) -> int:
        """Operating system's number of the actor's process."""
        return os.getpid()

    async def bars_read(self) -> int:
        """Bars in the object store so far; starts reading when nothing has yet."""
        self._start()
        return self._bars

    async def finish(self) -> int:
        """Wait until everything is read; returns the number of bars."""
        last = -(-self._selection.n_bars // self._segment_bars) - 1
        await self.segment(last)
        return self._bars


def root_error(error: BaseException) -> Exception:
    """The :class:`DpaError` behind an error that Ray has wrapped, or a DataError that tells it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DpaError) and type(seen).__module__ == DpaError.__module__:
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return DataError(f"reading shards failed: {last[0]}", "see the log of the ShardStore actor")


def start_shard_store(
    selection: ShardSelection, segment_bars: int | None = None, meters: Meters = NO_METERS
) -> Any:
    """Start the actor; Ray must be initialised.

    Parameters
    ----------
    selection : ShardSelection
        What to read; see :func:`~dpa.market.selections.select_shards`.
    segment_bars : int, optional
        Bars of a segment; by default as many as make about 8 MiB.
    meters : Meters
        See :class:`ShardStore`; pickled.

    Returns
    -------
    ray.actor.ActorHandle
        For :class:`ShardStoreSource`. The actor lives as long as a handle to it.
    """
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    bars = segment_bars or default_segment_bars(selection)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(ShardStore)
    return actor.remote(selection, bars, node_id, meters)


def open_shard_store(config: DataConfig, segment_bars: int | None = None) -> "ShardStoreSource":
    """A source for trials over the directory of shards `config.path`; Ray must be initialised.

    Raises
    ------
    DataError, ConfigError
        When the directory does not hold what `config` asks for.
    """
    selection = select_shards(config.path or "", config)
    bars = segment_bars or default_segment_bars(selection)
    return ShardStoreSource(start_shard_store(selection, bars), selection, bars)


class ShardStoreSource:
    """History behind a :class:`ShardStore`, as a :class:`~dpa.market.panel.BarSource`.

    Small to send to a trial. What :meth:`window` returns belongs to the trial: the segments
    it was put together from are let go, but for the last few.

    Parameters
    ----------
    store : ray.actor.ActorHandle
        From :func:`start_shard_store`.
    selection : ShardSelection
        What the store reads.
    segment_bars : int, optional
        As given to :func:`start_shard_store`.
    held_segments : int
        Segments kept between calls of :meth:`window`.
    """

    def __init__(
        self,
        store: Any,
        selection: ShardSelection,
        segment_bars: int | None = None,
        held_segments: int = 2,
    ) -> None:
        self.store, self.selection = store, selection
        self.segment_bars = segment_bars or default_segment_bars(selection)
        self.held_segments = held_segments
        self._held: OrderedDict[int, Block] = OrderedDict()
        self._asked: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict(), "_asked": {}}

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
        """Bars ``start`` (inclusive) to ``stop`` (exclusive), copied out of the object store.

        Raises
        ------
        DataError
            When the bars are not there, or the shards could not be read.
        """
        if not 0 <= start <= stop <= self.n_bars:
            raise DataError(f"shards: bars [{start}, {stop}) are outside [0, {self.n_bars})")
        whole = empty_block(stop - start, len(self.names), self.selection.manifest.extras)
        position = start
        while position < stop:
            index = position // self.segment_bars
            first = index * self.segment_bars
            segment = self._segment(index)
            part = segment.window(position - first, min(stop - first, segment.n_bars))
            copy_block(part, whole.window(position - start, position - start + part.n_bars))
            position += part.n_bars
        self._ask(position // self.segment_bars)
        return whole.panel(self.names, self.interval, self.calendar)

    def _ask(self, index: int) -> Any:
        """The pending answer of the store about one segment: asked ahead, it is there in time."""
        wanted = index * self.segment_bars < self.n_bars and index not in self._held
        if wanted and index not in self._asked:
            self._asked[index] = self.store.segment.remote(index)
        return self._asked.get(index)

    def _segment(self, index: int) -> Block:
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        block = self._fetch(index)
        self._held[index] = block
        while len(self._held) > self.held_segments:
            self._held.popitem(last=False)
        return block

    def _fetch(self, index: int) -> Block:
        import ray
        from ray.exceptions import ObjectLostError, RayTaskError

        for _ in range(_ATTEMPTS):
            asked = self._ask(index)
            self._asked.pop(index, None)
            try:
                [reference] = ray.get(asked)
                block: Block = ray.get(reference)
            except ObjectLostError:
                continue  # the store died with its objects; it answers when it has read again
            except RayTaskError as e:
                raise root_error(e) from e
            return block
        raise TransientError(
            f"shards: segment {index} was lost {_ATTEMPTS} times", "check the disk Ray spills to"
        )
