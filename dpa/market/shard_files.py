"""Shards on disk: wide Parquet files partitioned by time, and the manifest beside them.

Columns of a shard: ``time`` (close of the bar, UTC), one float64 column of prices per name,
``__member__`` (membership as bits, little endian, in the order of the names) and, for every
optional array of the panel, ``__dollar_volume__`` and so on: a list of one float64 per name. See
docs/data.md.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from dpa.config import Frozen
from dpa.errors import DataError
from dpa.market.calendars import Nanoseconds, nanoseconds, utc_index
from dpa.market.fingerprints import Fingerprint
from dpa.market.panel import EXTRAS, Bools, Floats, Panel, concat

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
MEMBER = "__member__"
_SHARD_BYTES = 32 * 2**20
_ROW_GROUP_BYTES = 4 * 2**20
Extra = Literal["dollar_volume", "open", "high", "low", "volume"]


def extra_column(name: str) -> str:
    """Column of a shard that holds the optional array `name`."""
    return f"__{name}__"


_RESERVED = {MEMBER} | {extra_column(name) for name in EXTRAS}


def bar_bytes(n_assets: int, n_extras: int) -> int:
    """Bytes of one bar in memory: prices, membership and optional arrays."""
    return (9 + 8 * n_extras) * n_assets


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive bars as plain arrays: what travels between files, tasks and trials.

    Parameters
    ----------
    times : int64 ndarray of shape (n_bars,)
        Bar closes, UTC nanoseconds.
    prices : float64 ndarray of shape (n_bars, n_assets)
        NaN where there is none.
    mask : bool ndarray of shape (n_bars, n_assets)
        Membership.
    extras : dict of str to float64 ndarray of shape (n_bars, n_assets)
        Optional arrays of the panel there are, by name; see
        :data:`~dpa.market.panel.EXTRAS`.
    """

    times: Nanoseconds
    prices: Floats
    mask: Bools
    extras: dict[str, Floats] = field(default_factory=dict)

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return len(self.times)

    def window(self, start: int, stop: int) -> "Block":
        """Bars ``start`` (inclusive) to ``stop`` (exclusive), as views."""
        part = slice(start, stop)
        extras = {name: array[part] for name, array in self.extras.items()}
        return Block(self.times[part], self.prices[part], self.mask[part], extras)

    def panel(self, names: tuple[str, ...], interval: str, calendar: str) -> Panel:
        """The same bars as a :class:`~dpa.market.panel.Panel`."""
        return Panel(
            utc_index(self.times),
            names,
            self.prices,
            self.mask,
            interval,
            calendar,
            **self.extras,
        )


def empty_block(n_bars: int, n_assets: int, extras: Iterable[str]) -> Block:
    """A block to be filled with :func:`copy_block`."""
    shape = (n_bars, n_assets)
    return Block(
        np.empty(n_bars, np.int64),
        np.empty(shape),
        np.empty(shape, np.bool_),
        {name: np.empty(shape) for name in extras},
    )


def copy_block(part: Block, into: Block) -> None:
    """Copy bars into a block of the same shape and arrays."""
    into.times[:], into.prices[:], into.mask[:] = part.times, part.prices, part.mask
    for name, array in into.extras.items():
        array[:] = part.extras[name]


class ShardFile(Frozen):
    """One file of a directory of shards."""

    name: str = Field(description="file name")
    first: str = Field(description="close of the first bar, UTC, ISO 8601")
    last: str = Field(description="close of the last bar, UTC, ISO 8601")
    n_bars: int = Field(ge=1, description="rows")
    sha256: str = Field(description="of the file's bytes")


class ShardManifest(Frozen):
    """What a directory of shards holds."""

    schema_version: int = Field(SCHEMA_VERSION, description="version of this layout")
    names: tuple[str, ...] = Field(description="column order")
    interval: str = Field(description="bar length")
    calendar: str = Field(description="exchange_calendars code")
    n_bars: int = Field(ge=1, description="rows of all files")
    extras: tuple[Extra, ...] = Field((), description="optional arrays that are stored")
    fingerprint: str = Field(description="hash of the content, not of paths")
    files: tuple[ShardFile, ...] = Field(description="in time order")
    directory: str = Field("", exclude=True, description="where it was loaded from")

    @classmethod
    def load(cls, directory: str | Path) -> "ShardManifest":
        """The manifest of a directory written by :func:`write_shards`.

        Raises
        ------
        DataError
            When there is none, or it is unreadable or of another version.
        """
        path = Path(directory) / MANIFEST
        cure = "import the data again with 'dpa data import'"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["schema_version"]
        except OSError as e:
            raise DataError(f"{path}: cannot be read ({e.strerror})", cure) from e
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f"{path}: is no manifest of shards", cure) from e
        if version == 1:
            content = _from_version_1(content)
        elif version != SCHEMA_VERSION:
            raise DataError(f"{path}: has version {version}, not 1 to {SCHEMA_VERSION}", cure)
        try:
            return cls(**content, directory=str(Path(directory).absolute()))
        except (ValidationError, TypeError) as e:
            raise DataError(f"{path}: is no manifest of shards", cure) from e

    def path(self, file: ShardFile) -> Path:
        """Where `file` lies."""
        return Path(self.directory) / file.name

    def altered_files(self, files: Iterable[ShardFile] | None = None) -> list[str]:
        """Names of files that are missing or whose bytes are not those written; of all by default.

        Reads every byte of them.
        """
        return [
            file.name
            for file in (self.files if files is None else files)
            if not self.path(file).exists() or _sha256(self.path(file)) != file.sha256
        ]


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Content of a manifest of version 1, which knew of traded value only."""
    kept = {key: value for key, value in content.items() if key != "has_dollar_volume"}
    extras = ("dollar_volume",) if content.get("has_dollar_volume") else ()
    return kept | {"schema_version": SCHEMA_VERSION, "extras": extras}


def default_bars_per_shard(n_assets: int, n_extras: int) -> int:
    """Bars that make a shard of about 32 MiB."""
    return max(_SHARD_BYTES // bar_bytes(n_assets, n_extras), 1)


def write_shards(
    panels: Panel | Iterable[Panel],
    out: str | Path,
    bars_per_shard: int | None = None,
    force: bool = False,
) -> ShardManifest:
    """Write history as shards; all of it or nothing.

    Parameters
    ----------
    panels : Panel or iterable of Panel
        One panel, or consecutive ones with the same names: more than fits into memory.
    out : str or Path
        Directory to make. It appears complete, or not at all.
    bars_per_shard : int, optional
        Rows of a file; by default as many as make about 32 MiB.
    force : bool
        Replace an earlier directory of shards. Anything else is never replaced.

    Raises
    ------
    DataError
        When `out` exists or cannot be written.
    """
    target = Path(out)
    check_target(target, force)
    pieces = iter([panels] if isinstance(panels, Panel) else panels)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}.", suffix=".partial"
        ) as scratch:
            fresh, old = Path(scratch, "new"), Path(scratch, "old")
            fresh.mkdir()
            _write_into(fresh, pieces, bars_per_shard)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
    except OSError as e:
        raise DataError(
            f"{target}: cannot be written ({e.strerror})", "choose another --out directory"
        ) from e
    return ShardManifest.load(target)


def check_target(target: Path, force: bool) -> None:
    """:class:`DataError` when shards may not be written to `target`."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MANIFEST).exists():
        raise DataError(f"{target}: exists and is no directory of shards", "choose another --out")
    if not force:
        raise DataError(f"{target}: holds shards already", "choose another --out, or use --force")


def _write_into(folder: Path, pieces: Iterator[Panel], bars_per_shard: int | None) -> None:
    files: list[ShardFile] = []
    fingerprint: Fingerprint | None = None
    before: pd.Timestamp | None = None
    panel: Panel | None = None
    for panel in _cut(pieces, bars_per_shard):
        if before is not None and panel.times[0] <= before:
            raise DataError(f"panels to be written overlap at {panel.times[0]}", "sort them")
        before = panel.times[-1]
        if fingerprint is None:
            fingerprint = Fingerprint(panel.names, panel.interval, panel.calendar)
        fingerprint.update(nanoseconds(panel.times), panel.prices, panel.mask, panel.extras())
        files.append(_write_shard(folder / f"{len(files):06d}.parquet", panel))
    if fingerprint is None or panel is None:
        raise DataError("there are no bars to write", "give a longer history")
    manifest = ShardManifest(
        names=panel.names,
        interval=panel.interval,
        calendar=panel.calendar,
        n_bars=sum(file.n_bars for file in files),
        extras=tuple(panel.extras()),
        fingerprint=fingerprint.hexdigest(),
        files=tuple(files),
    )
    text = manifest.model_dump_json(indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _cut(pieces: Iterator[Panel], bars_per_shard: int | None) -> Iterator[Panel]:
    """Panels of `bars_per_shard` bars each, the last one shorter, from panels of any length."""
    waiting: list[Panel] = []
    for piece in pieces:
        size = bars_per_shard or default_bars_per_shard(piece.n_assets, len(piece.extras()))
        start = 0
        while start < piece.n_bars:
            room = size - sum(panel.n_bars for panel in waiting)
            waiting.append(piece.window(start, min(start + room, piece.n_bars)))
            start += waiting[-1].n_bars
            if waiting[-1].n_bars == room:
                yield concat(waiting) if len(waiting) > 1 else waiting[0]
                waiting = []
    if waiting:
        yield concat(waiting) if len(waiting) > 1 else waiting[0]


def _write_shard(path: Path, panel: Panel) -> ShardFile:
    times = nanoseconds(panel.times)
    columns: dict[str, pa.Array] = {"time": pa.array(times, pa.timestamp("ns", "UTC"))}
    for place, name in enumerate(panel.names):
        if name in columns or name in _RESERVED:
            raise DataError(f"name {name!r} collides with a column of shards", "rename it")
        columns[name] = pa.array(np.ascontiguousarray(panel.prices[:, place]))
    bits = np.packbits(panel.mask, axis=1, bitorder="little")
    columns[MEMBER] = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(bits.shape[1]), len(bits), [None, pa.py_buffer(bits.tobytes())]
    )
    for name, array in panel.extras().items():
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        columns[extra_column(name)] = pa.FixedSizeListArray.from_arrays(flat, panel.n_assets)
    rows = max(_ROW_GROUP_BYTES // bar_bytes(panel.n_assets, len(panel.extras())), 1)
    pq.write_table(
        pa.table(columns), path, compression="zstd", use_dictionary=False, row_group_size=rows
    )
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return ShardFile(
        name=path.name,
        first=panel.times[0].isoformat(),
        last=panel.times[-1].isoformat(),
        n_bars=panel.n_bars,
        sha256=_sha256(path),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_blocks(manifest: ShardManifest, file: ShardFile) -> Iterator[Block]:
    """The bars of one file, a few MiB at a time.

    Raises
    ------
    DataError
        When the file is missing, unreadable, or not what the manifest says.
    """
    path = manifest.path(file)
    cure = "import the data again with 'dpa data import'"
    n_bars, first, last = 0, "", ""
    try:
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                block = _unpack(parquet.read_row_group(group), manifest)
                ends = utc_index(block.times[[0, -1]])
                n_bars, first = n_bars + block.n_bars, first or ends[0].isoformat()
                last = ends[1].isoformat()
                yield block
    except (OSError, pa.ArrowException, KeyError) as e:
        raise DataError(f"{path}: cannot be read ({' '.join(str(e).split())[:150]})", cure) from e
    if (n_bars, first, last) != (file.n_bars, file.first, file.last):
        raise DataError(f"{path}: is not the file its manifest describes", cure)


def _unpack(table: pa.Table, manifest: ShardManifest) -> Block:
    n_bars, n_assets = table.num_rows, len(manifest.names)
    prices = np.empty((n_bars, n_assets))
    for place, name in enumerate(manifest.names):
        prices[:, place] = table.column(name).to_numpy()
    packed = table.column(MEMBER).combine_chunks()
    packed = packed.chunk(0) if isinstance(packed, pa.ChunkedArray) else packed
    width = packed.type.byte_width
    bits = np.frombuffer(packed.buffers()[1], np.uint8, n_bars * width, packed.offset * width)
    mask = np.unpackbits(bits.reshape(n_bars, width), axis=1, count=n_assets, bitorder="little")
    extras: dict[str, Floats] = {}
    for name in manifest.extras:
        lists = table.column(extra_column(name)).combine_chunks()
        lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
        extras[name] = lists.flatten().to_numpy().reshape(n_bars, n_assets)
    times = table.column("time").cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy()
    return Block(times, prices, mask.view(np.bool_), extras)


def read_shards(directory: str | Path) -> Panel:
    """All of a directory of shards in memory, exactly as written."""
    manifest = ShardManifest.load(directory)
    blocks = [block for file in manifest.files for block in read_blocks(manifest, file)]
    return join(blocks).panel(manifest.names, manifest.interval, manifest.calendar)


def join(blocks: list[Block]) -> Block:
    """One block from consecutive ones with the same arrays."""
    extras = blocks[0].extras if blocks else {}
    return Block(
        np.concatenate([block.times for block in blocks]),
        np.concatenate([block.prices for block in blocks]),
        np.concatenate([block.mask for block in blocks]),
        {name: np.concatenate([block.extras[name] for block in blocks]) for name in extras},
    )
