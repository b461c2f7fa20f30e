"""``dpa features`` and ``dpa transfer``: what predictors learn from, and what they keep."""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpa.clock import SystemClock
from dpa.cluster.model import ClusterModel
from dpa.config import DataConfig, Settings, load_settings
from dpa.errors import ConfigError, DataError, RunError
from dpa.horizons.clusters import ClusterReader
from dpa.horizons.feature_set import Trace, available_features, trace, view_settings
from dpa.horizons.plugins import load_plugins
from dpa.horizons.registry import Feature, find_feature
from dpa.horizons.transfer import VERDICTS, Transfer, at_interval, run_transfer
from dpa.market.interval_specs import IntervalSpec, check_divides, get_interval_spec
from dpa.market.intervals import parse_interval
from dpa.market.panel import EXTRAS
from dpa.market.readers import load_wide_data
from dpa.market.selections import select_shards
from dpa.market.session_grid import GridSource
from dpa.options import given_options, settings_from, settings_options
from dpa.runs import check_storage, write_atomically
from dpa.text import columns
from dpa.validation.information import ICEstimate

LEAST_NAMES = 5  # that both histories must hold
PROGRESS_SECONDS = 5.0
UNUSED = {  # settings that a transfer has no use for
    "families": "a transfer fits one family; use --family",
    "cluster": "a cluster model belongs to the bars it was trained on; leave it out",
}


@dataclass(frozen=True)
class Entry:
    """A feature as listed for bars of one length.

    Parameters
    ----------
    feature : Feature
    reason : str
        Why it cannot be computed on such bars; empty when it can.
    traced : Trace, optional
        What it depends on there.
    """

    feature: Feature
    reason: str
    traced: Trace | None

    @property
    def horizons(self) -> str:
        """Horizons it serves, session minutes."""
        low, high = self.feature.serves
        parts = [f">= {low:g}m" if low > 0 else "", f"<= {high:g}m" if high < math.inf else ""]
        return " and ".join(part for part in parts if part) or "all"

    def record(self) -> dict[str, Any]:
        """For JSON; null where there is no bound, or it does not fit."""
        feature, traced = self.feature, self.traced
        low, high = feature.serves
        return {
            "name": feature.name,
            "minutes": feature.minutes,
            "bars": None if traced is None else traced.reach,
            "role": feature.role,
            "horizons": [low, None if high == math.inf else high],
            "needs": None if traced is None else sorted(traced.needs),
            "version": feature.version,
            "words": feature.words,
            "fingerprint": None if traced is None else traced.fingerprint,
            "reason": self.reason or None,
        }


def _settings(arguments: argparse.Namespace) -> Settings:
    """Settings with the plugins and the interval typed."""
    overrides: dict[str, dict[str, Any]] = {}
    for section, name in (("horizons", "plugins"), ("data", "interval")):
        text = getattr(arguments, name)
        if text is not None:
            value = settings_options()[name].parse(text, f"--{name}")
            overrides[section] = {name: value}
    settings = load_settings(arguments.config, overrides)
    load_plugins(settings.horizons.plugins)
    return settings


def _spec(settings: Settings) -> IntervalSpec:
    return get_interval_spec(None, settings.data.interval, calendar=settings.data.calendar)


def _entries(settings: Settings, spec: IntervalSpec) -> Iterator[Entry]:
    """Every feature of the registry, traced on bars that lack nothing."""
    config, calendar = settings.horizons, settings.data.calendar
    reader = ClusterReader(ClusterModel(settings.model, settings.training.seed))
    views = view_settings(spec, config)
    every = frozenset(EXTRAS) | {"cluster"}
    for feature, reason in available_features(spec, every, config, calendar):
        yield Entry(feature, reason, None if reason else trace(feature, views, calendar, reader))


def list_features(arguments: argparse.Namespace) -> None:
    """The registry as a table."""
    settings = _settings(arguments)
    spec = _spec(settings)
    found = list(_entries(settings, spec))
    if arguments.interval is not None and not arguments.all:
        found = [entry for entry in found if not entry.reason]
    if arguments.json:
        print(json.dumps([entry.record() for entry in found], indent=1))
        return
    head = ["feature", "minutes", f"bars of {spec.interval}", "role", "horizons", "needs"]
    print(columns([*head, "version", "what it is"], [_line(entry) for entry in found]))
    print(
        f"\n{len(found)} features; minutes: declared look-back in session time, 0 where there is "
        "none;\nbars: how far back its value depends on anything"
    )


def _line(entry: Entry) -> list[str]:
    feature, traced = entry.feature, entry.traced
    words = f"{feature.words} ({entry.reason})" if entry.reason else feature.words
    return [
        feature.name,
        str(feature.minutes),
        "-" if traced is None else str(traced.reach),
        feature.role,
        entry.horizons,
        "-" if traced is None else ", ".join(sorted(traced.needs)) or "price",
        str(feature.version),
        words,
    ]


def show_feature(arguments: argparse.Namespace) -> None:
    """One feature with its source text."""
    settings = _settings(arguments)
    find_feature(arguments.name)
    spec = _spec(settings)
    entry = next(e for e in _entries(settings, spec) if e.feature.name == arguments.name)
    feature, traced = entry.feature, entry.traced
    facts = [
        ("feature", feature.name),
        ("what", feature.words),
        ("look-back", f"{feature.minutes} session minutes"),
        ("role", feature.role),
        ("horizons", entry.horizons),
        ("version", str(feature.version)),
    ]
    if traced is None:
        facts.append((f"on {spec.interval}", entry.reason))
    else:
        facts.append((f"on {spec.interval}", f"reaches back {traced.reach} bars"))
        facts.append(("needs", ", ".join(sorted(traced.needs)) or "price"))
        facts.append(("fingerprint", traced.fingerprint))
    print("\n".join(f"{name:<13}{words}" for name, words in facts))
    print(f"\n{feature.source.rstrip()}")


def open_grid(config: DataConfig) -> GridSource:
    """The history on its session grid; shards stay on disk."""
    if config.path is not None and Path(config.path).is_dir():
        return GridSource(select_shards(config.path, config))
    return GridSource(load_wide_data(config))


def transfer(arguments: argparse.Namespace) -> None:
    """Train on one interval, validate on another."""
    for name, words in UNUSED.items():
        if name in given_options(arguments):
            raise ConfigError(f"--{name}: is of no use here", words)
    settings = settings_from(arguments)
    lengths = [str(parse_interval(text)) for text in (arguments.train, arguments.validate)]
    if arguments.out is not None:
        _check_out(arguments.out)
    histories = _histories(settings.data, arguments.validate_data)
    for history, length in zip(histories, lengths, strict=True):
        check_divides(parse_interval(history.interval), parse_interval(length))
    train, validate = (at_interval(h, length) for h, length in zip(histories, lengths, strict=True))
    result = run_transfer(settings, arguments.family, train, validate, tell=_Teller())
    print(transfer_words(result))
    if arguments.out is not None:
        write_atomically(arguments.out, result.table().to_csv(index=False))
        print(f"\ntable {arguments.out}")


def _check_out(path: Path) -> None:
    if path.is_dir():
        raise RunError(f"--out {path}: is a folder", "give a file, such as transfer.csv")
    check_storage(path.parent, "--out")


def _histories(config: DataConfig, other: str | None) -> tuple[GridSource, GridSource]:
    """The histories to train and to validate on, of the same names."""
    first = open_grid(config)
    if other is None:
        return first, first
    elsewhere = config.model_copy(update={"path": other, "interval": None})
    second = open_grid(elsewhere)
    common = tuple(name for name in first.names if name in set(second.names))
    if len(common) < LEAST_NAMES:
        raise DataError(
            f"the two histories share {len(common)} names", f"give at least {LEAST_NAMES}"
        )
    chosen = {"names": common}
    if len(common) < len(first.names):
        first = open_grid(config.model_copy(update=chosen))
    if len(common) < len(second.names):
        second = open_grid(elsewhere.model_copy(update=chosen))
    return first, second


class _Teller:
    """A line of progress on standard error, every few seconds at most."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._last = self._clock.elapsed()

    def __call__(self, words: str) -> None:
        if self._clock.elapsed() - self._last >= PROGRESS_SECONDS:
            self._last = self._clock.elapsed()
            print(words, file=sys.stderr, flush=True)


def transfer_words(result: Transfer) -> str:
    """The table and what it rests on, for the terminal."""
    train, validate = result.train_interval, result.validate_interval
    head = ("horizon", f"IC on {train}", f"IC on {validate}", "degradation", "sessions", "verdict")
    rows = [
        (
            row.horizon,
            _estimate(row.train),
            _estimate(row.validate),
            _estimate(row.degradation),
            str(row.degradation.n_bars),
            row.verdict,
        )
        for row in result.horizons
    ]
    folds = result.folds
    lines = [
        f"{result.family} trained on {train} bars, tested on {train} and on {validate}: "
        f"{len(folds)} folds from {folds[0].first_test[0]:%Y-%m-%d} on, "
        f"{len(result.features)} features",
        "",
        columns(head, rows),
        "",
        "IC: mean cross-sectional rank correlation of forecast and outcome ± standard error",
        f"degradation: IC on {validate} less IC on {train}, paired by session",
        *VERDICTS,
    ]
    if result.left_out:
        lines += ["", "left out, since they cannot be computed on both:"]
        lines += [f"  {name} ({why})" for name, why in result.left_out.items()]
    return "\n".join(lines)


def _estimate(estimate: ICEstimate) -> str:
    return f"{estimate.ic:+.4f} ± {estimate.se:.4f}"
