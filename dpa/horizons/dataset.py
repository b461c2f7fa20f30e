"""Features and labels on disk, a few sessions a file, so that training holds a window and no more.

A block is computed from its own bars and the features' look-back before it, so blocks can be made
in any order and anywhere, and give what one pass over the whole history would give, bit for bit.
Labels, which look ahead, are made from prices in a step of their own: features never see them.
"""

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dpa.errors import DataError, RunError
from dpa.horizons.clock import SessionClock
from dpa.horizons.recipe import Recipe, barrier_minutes
from dpa.horizons.targets import barrier_labels, scaled_targets
from dpa.horizons.types import Doubles, Integers, Rows, Singles
from dpa.horizons.views import BatchView
from dpa.market.panel import BarSource
from dpa.runs import write_atomically

MANIFEST = "dataset.json"
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class BlockSpan:
    """Bars of one file, stop exclusive."""

    start: int
    stop: int

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"bars-{self.start:08d}-{self.stop:08d}.safetensors"

    @property
    def seal(self) -> str:
        """Name of the file that holds its SHA-256."""
        return f"{self.file}.sha256"


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of some bars as dense arrays.

    Parameters
    ----------
    start : int
        First bar.
    features : float32 ndarray of shape (n_bars, n_assets, n_features)
    targets : float32 ndarray of shape (n_bars, n_assets, n_horizons)
    barriers : float32 ndarray of shape (n_bars, n_assets, 2)
    sigma : float64 ndarray of shape (n_bars, n_assets)
        bps per square root of a session minute.
    usable : bool ndarray of shape (n_bars, n_assets)
        Whether the row may be forecast: a member with a volatility, enough features and the whole
        look-back before it.
    """

    start: int
    features: Singles
    targets: Singles
    barriers: Singles
    sigma: Doubles
    usable: Bools

    def rows(self, start: int, stop: int) -> Rows:
        """The usable rows of bars ``start`` (inclusive) to ``stop`` (exclusive)."""
        part = slice(max(start - self.start, 0), max(stop - self.start, 0))
        bar, asset = np.nonzero(self.usable[part])
        return Rows(
            self.features[part][bar, asset],
            self.targets[part][bar, asset],
            self.barriers[part][bar, asset],
            bar + self.start + part.start,
            asset,
        )


def usable_rows(features: Singles, sigma: Doubles, member: Bools, min_features: float) -> Bools:
    """Which rows may be forecast: members with a volatility and enough features.

    Parameters
    ----------
    features : float32 ndarray of shape (n_bars, n_assets, n_features)
    sigma : float64 ndarray of shape (n_bars, n_assets)
    member : bool ndarray of shape (n_bars, n_assets)
    min_features : float
        Fraction of features that must be known.
    """
    known = np.isfinite(features).sum(axis=2)
    enough: Bools = known >= min_features * features.shape[2]
    return member & np.isfinite(sigma) & enough


def make_block(source: BarSource, recipe: Recipe, span: BlockSpan) -> Block:
    """Compute the rows of some bars.

    Parameters
    ----------
    source : BarSource
        The whole history on its session grid.
    recipe : Recipe
    span : BlockSpan
    """
    chosen = recipe.feature_set()
    context = max(0, span.start - chosen.reach)
    panel = source.window(context, span.stop)
    view = BatchView(panel, chosen.settings, recipe.reader())
    values, volatility = chosen.compute(view)
    skipped = span.start - context
    features, sigma, member = values[skipped:], volatility[skipped:], panel.mask[skipped:]
    usable = usable_rows(features, sigma, member, recipe.settings.horizons.min_features)
    usable &= np.arange(span.start, span.stop)[:, None] >= chosen.reach
    targets, barriers = make_labels(source, recipe, span, sigma)
    return Block(span.start, features, targets, barriers, sigma, usable)


def make_labels(
    source: BarSource, recipe: Recipe, span: BlockSpan, sigma: Doubles
) -> tuple[Singles, Singles]:
    """Scaled forward returns and barrier labels of some bars; the only step that looks ahead."""
    lengths = [*(h.bars for h in recipe.horizons), recipe.barrier_bars]
    ahead = min(source.n_bars, span.stop + recipe.lag - 1 + max(lengths))
    panel = source.window(span.start, ahead)
    prices = panel.prices
    known = np.full(prices.shape, np.nan)
    known[: len(sigma)] = sigma
    n_bars = span.stop - span.start
    settings = recipe.settings.horizons
    member = panel.mask if settings.target == "excess" else None
    targets = scaled_targets(prices, known, recipe.horizons, recipe.lag, member)
    barriers = barrier_labels(
        prices,
        known,
        barrier_minutes(recipe.settings, recipe.spec),
        recipe.barrier_bars,
        settings.barrier_width,
        recipe.lag,
    )
    return targets[:n_bars].copy(), barriers[:n_bars].copy()


def plan_blocks(session: Integers, sessions_per_block: int) -> list[BlockSpan]:
    """Blocks of whole sessions.

    Parameters
    ----------
    session : int64 ndarray of shape (n_bars,)
        Number of each bar's session, never decreasing.
    sessions_per_block : int
    """
    starts = np.flatnonzero(np.diff(session, prepend=session[0] - 1))
    edges = [*starts[::sessions_per_block].tolist(), len(session)]
    return [BlockSpan(a, b) for a, b in itertools.pairwise(edges)]


def write_block(folder: Path, block: Block, span: BlockSpan) -> None:
    """Write a block; a reader sees all of it or nothing."""
    arrays = {
        "features": block.features,
        "targets": block.targets,
        "barriers": block.barriers,
        "sigma": block.sigma,
        "usable": block.usable,
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".block.") as scratch:
        path, seal = Path(scratch, span.file), Path(scratch, span.seal)
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
        seal.write_text(_sha256(path) + "\n", encoding="utf-8")
        seal.rename(folder / span.seal)
        path.rename(folder / span.file)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Dataset:
    """Blocks on disk; opened from a folder, picklable.

    Parameters
    ----------
    folder : Path
        Holds the blocks and ``dataset.json``.

    Raises
    ------
    RunError
        When the folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            spans = [BlockSpan(*span) for span in content["blocks"]]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise RunError(f"{folder}: is no data set of features", "start the run again") from e
        self.spans: tuple[BlockSpan, ...] = tuple(spans)
        self._checked: set[str] = set()  # blocks whose bytes this process has seen to be right
        self._labels_of: Integers | None = None  # whose labels each name has; none: its own

    def placebo(self, seed: int) -> "Dataset":
        """The same rows with each name holding the labels of another, throughout history.

        What a name's features say about its own labels is gone, for learning and for scoring
        alike; how labels overlap in time, and whatever leaks by it, stays.

        Parameters
        ----------
        seed : int
            Of the random cycle through all names: none keeps its own.

        Raises
        ------
        DataError
            With a single name.
        """
        span = self.spans[0]
        n_assets = self._read(span, ("usable",))["usable"].shape[1]
        if n_assets < 2:
            raise DataError("a placebo of one name", "give data of several names")
        cycle = np.random.default_rng(seed).permutation(n_assets)
        dealt = Dataset(self.folder)
        dealt._labels_of = np.empty(n_assets, np.int64)
        dealt._labels_of[cycle] = np.roll(cycle, 1)
        return dealt

    @classmethod
    def finish(cls, folder: Path, spans: Sequence[BlockSpan]) -> "Dataset":
        """Declare a folder whole once every block has been written."""
        blocks = [(span.start, span.stop) for span in spans]
        write_atomically(folder / MANIFEST, json.dumps({"blocks": blocks}) + "\n")
        return cls(folder)

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return self.spans[-1].stop

    def blocks(
        self, start: int, stop: int, names: Sequence[str] | None = None
    ) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Arrays of each block that touches the bars, with ``start``; only those named."""
        for span in self.spans:
            if span.start < stop and span.stop > start:
                yield self._read(span, names) | {"start": np.array(span.start)}

    def _read(self, span: BlockSpan, names: Sequence[str] | None) -> dict[str, NDArray[np.generic]]:
        path = self.folder / span.file
        try:
            if span.file not in self._checked:
                if _sha256(path) != (self.folder / span.seal).read_text("utf-8").strip():
                    raise RunError(f"{path}: was altered", "delete it and resume the run")
                self._checked.add(span.file)
            with safe_open(path, framework="numpy") as file:
                chosen = file.keys() if names is None else names
                arrays = {name: file.get_tensor(name) for name in chosen}
        except (OSError, SafetensorError) as e:
            raise RunError(f"{path}: cannot be read ({e})", "delete it and resume the run") from e
        if self._labels_of is not None:
            for name in set(arrays) & {"targets", "barriers"}:
                arrays[name] = arrays[name][:, self._labels_of]
        return arrays

    def rows(self, start: int, stop: int) -> Rows:
        """The usable rows of bars ``start`` (inclusive) to ``stop`` (exclusive)."""
        parts = []
        for arrays in self.blocks(start, stop):
            first = int(arrays.pop("start"))
            parts.append(Block(first, **arrays).rows(start, stop))  # type: ignore[arg-type]
        return join_rows(parts)

    def dense(self, name: str, start: int, stop: int) -> NDArray[np.generic]:
        """One array over bars ``start`` to ``stop``, shape (n_bars, n_assets, ...)."""
        parts = []
        for arrays in self.blocks(start, stop, (name,)):
            first = int(arrays["start"])
            parts.append(arrays[name][max(start - first, 0) : max(stop - first, 0)])
        return np.concatenate(parts)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """One set of rows from consecutive ones."""
    fields = ("features", "targets", "barriers", "bar", "asset")
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in fields]
    return Rows(*joined)


def session_of(times: pd.DatetimeIndex, interval: str, calendar: str) -> Integers:
    """Number of the session of each bar of a complete session grid, shape (n_bars,)."""
    return SessionClock.of(times, interval, calendar).session
