"""``dpa bundle``: list, show, verify, compare, promote, and forecast with what runs left."""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpa.clock import SystemClock
from dpa.errors import ConfigError, DpaError
from dpa.horizons.bundle import (
    MANIFEST,
    PROBE_ROWS,
    BundleManifest,
    HorizonBundle,
    read_bundle_manifest,
)
from dpa.horizons.inference import BundleForecast
from dpa.horizons.kept_bundles import BUNDLES, fetch_bundle, pinned
from dpa.horizons.plugins import load_plugins
from dpa.horizons.promotion import find_bundle, promote_bundle, read_pointer
from dpa.horizons.types import BARRIERS, Doubles
from dpa.market.calendars import TradingCalendar
from dpa.market.last_bars import last_bars
from dpa.options import given_options, settings_from, settings_options, typed
from dpa.runs import list_runs
from dpa.stores.places import Storage
from dpa.stores.store import StoreError
from dpa.text import columns

Table = list[tuple[str, ...]]


def list_command(arguments: argparse.Namespace) -> None:
    """One line a run that has a bundle, oldest first; the promoted one is marked."""
    storage: Storage = arguments.storage
    pointer = read_pointer(storage)
    if storage.store is not None:
        _list_store(storage, "" if pointer is None else pointer["bundle"])
        return
    promoted = None if pointer is None else (storage.path / pointer["bundle"]).resolve()
    folders = [run.bundle for run in list_runs(storage) if (run.bundle / MANIFEST).is_file()]
    rows = [_line(folder.parent.name, folder, promoted) for folder in folders]
    if promoted is not None and promoted not in [folder.resolve() for folder in folders]:
        rows.append(_line(str(promoted), promoted, promoted))
    if not rows:
        print(f"no bundles under {storage}")
        return
    print(columns(("", "run", "bundle", "families", "horizons", "bars", "trained until"), rows))
    if promoted is not None:
        print("\n* promoted: the one that is served")


def _list_store(storage: Storage, promoted: str) -> None:
    """Bundles that were promoted in a store once, and those of runs there."""
    store = storage.store
    if store is None:
        return
    places = [f"{BUNDLES}/{name}" for name in store.folders(BUNDLES)]
    places += [f"{run.path.name}/{run.bundle.name}" for run in list_runs(storage)]
    rows = []
    for place in places:
        with suppress(StoreError):
            folder = fetch_bundle(store.below(place))
            mark = "*" if place == promoted else ""
            rows.append((mark, *_line(place, folder, None)[1:]))
    if not rows:
        print(f"no bundles under {storage}")
        return
    print(columns(("", "place", "bundle", "families", "horizons", "bars", "trained until"), rows))
    if promoted:
        print("\n* promoted: the one that is served")


def _line(name: str, folder: Path, promoted: Path | None) -> tuple[str, ...]:
    mark = "*" if folder.resolve() == promoted else ""
    try:
        manifest = read_bundle_manifest(folder)
    except DpaError as e:
        return mark, name, "damaged", e.what, "", "", ""
    return (
        mark,
        name,
        manifest.short,
        ", ".join(manifest.families),
        ", ".join(manifest.horizons),
        manifest.interval,
        f"{manifest.trained_until:%Y-%m-%d}",
    )


def show_command(arguments: argparse.Namespace) -> None:
    """What a bundle forecasts, from what, and how well; its files are not read."""
    folder = find_bundle(arguments.reference, arguments.storage)
    manifest = read_bundle_manifest(folder)
    if arguments.json:
        shown = manifest.model_dump(mode="json")
        print(json.dumps(shown, indent=1))
        return
    print("\n".join(f"{name:<13}{words}" for name, words in _facts(folder, manifest)))
    if manifest.measures:
        print(f"\n{_ic_table(manifest)}")


def _facts(folder: Path, manifest: BundleManifest) -> Table:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    arrays = ", ".join(name for name in manifest.needs if name != "cluster")
    names = manifest.names
    return [
        ("bundle", pinned(folder)),
        ("fingerprint", manifest.fingerprint),
        ("size", f"{size / 2**20:.2f} MiB in {len(manifest.files) + 1} files"),
        ("made", f"{manifest.created_at:%Y-%m-%d %H:%M} UTC by run {manifest.run_id}"),
        ("code", f"dpa {manifest.code_version} ({manifest.code_hash[:12]})"),
        ("forecasts", f"{', '.join(manifest.horizons)} by {', '.join(manifest.families)}"),
        ("barriers", _barriers(manifest)),
        ("from", f"{manifest.interval} bars of {manifest.calendar} with {arrays or 'a price'}"),
        ("a tail of", f"{manifest.tail_bars} bars, the newest included"),
        ("features", f"{len(manifest.features)}: {', '.join(manifest.features)}"),
        ("plugins", ", ".join(manifest.plugins) or "none"),
        ("clusters", "its own cluster model" if "cluster" in manifest.needs else "none"),
        ("names", f"{len(names)}: {', '.join(names[:10])}{', ...' if names[10:] else ''}"),
        ("trained on", f"{manifest.trained_from:%Y-%m-%d} to {manifest.trained_until:%Y-%m-%d}"),
        ("data", manifest.data_fingerprint),
    ]


def _barriers(manifest: BundleManifest) -> str:
    if not manifest.calibrators:
        return "none"
    return f"peak and valley, calibrated ({manifest.calibrators[0]['method']})"


def _ic_table(manifest: BundleManifest) -> str:
    """Out-of-fold IC by family and horizon."""
    horizons = manifest.horizons
    families = dict.fromkeys(key.rpartition(" ")[0] for key in manifest.measures)
    rows = [(name, *(_ic(manifest, f"{name} {h}") for h in horizons)) for name in families]
    return columns(("out-of-fold IC", *horizons), rows)


def _ic(manifest: BundleManifest, key: str) -> str:
    value = manifest.measures.get(key, math.nan)
    return "-" if math.isnan(value) else f"{value:+.4f}"


def verify_command(arguments: argparse.Namespace) -> None:
    """Check everything about a bundle; an error says what is wrong."""
    folder = find_bundle(arguments.reference, arguments.storage)
    manifest = HorizonBundle.load(folder, _plugins(arguments)).manifest
    print(
        f"{folder}: good\n"
        f"  manifest     of schema {manifest.schema_version}, as sealed\n"
        f"  files        {len(manifest.files)}, each with its SHA-256, none missing or added\n"
        f"  features     {len(manifest.features)}, computed as when it was made\n"
        f"  families     {', '.join(manifest.families)}: the models the manifest names\n"
        f"  forecasts    of up to {PROBE_ROWS} stored rows, as when it was made\n"
        f"  fingerprint  {manifest.fingerprint}"
    )


def _plugins(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.plugins is None:
        return ()
    given: tuple[str, ...] = settings_options()["plugins"].parse(arguments.plugins, "--plugins")
    return given


def promote_command(arguments: argparse.Namespace) -> None:
    """Make a bundle the one that is served; a finished run does not override it."""
    folder = find_bundle(arguments.reference, arguments.storage)
    load_plugins(_plugins(arguments))
    pointer = promote_bundle(folder, arguments.storage, SystemClock(), "hand")
    print(f"{pinned(folder)} -> {pointer}")


def compare_command(arguments: argparse.Namespace) -> None:
    """ICs side by side, and everything in which bundles differ."""
    if len(arguments.references) < 2:
        raise ConfigError("one bundle has nothing to be compared with", "give two or more")
    folders = [find_bundle(reference, arguments.storage) for reference in arguments.references]
    manifests = [read_bundle_manifest(folder) for folder in folders]
    head = [manifest.short for manifest in manifests]
    print(columns(("bundle", *head), [("", *arguments.references)]))
    measured = dict.fromkeys(key for manifest in manifests for key in manifest.measures)
    if measured:
        rows = [(key, *(_ic(manifest, key) for manifest in manifests)) for key in measured]
        print(f"\n{columns(('out-of-fold IC', *head), rows)}")
    differing = differences(manifests)
    if differing:
        print(f"\n{columns(('differs in', *head), differing)}")
    else:
        print("\nthey differ in nothing that decides a forecast")


def differences(manifests: Sequence[BundleManifest]) -> Table:
    """Settings, features, models, data and code in which bundles differ: a name, then one text
    a bundle."""
    found: Table = []

    def compare(name: str, values: Iterable[Any]) -> None:
        cells = [typed(value) for value in values]
        if len(set(cells)) > 1:
            found.append((name, *cells))

    for name, option in settings_options().items():
        if option.section != "data":
            compare(name, (getattr(getattr(m.settings, option.section), name) for m in manifests))
    for field in ("interval", "calendar", "horizons", "tail_bars", "needs"):
        compare(field.replace("_", " "), (getattr(m, field) for m in manifests))
    compare("names", (_names(m, manifests) for m in manifests))
    for feature in dict.fromkeys(name for m in manifests for name in m.features):
        compare(f"feature {feature}", ((m.features.get(feature) or "-")[:12] for m in manifests))
    for family in dict.fromkeys(name for m in manifests for name in m.families):
        compare(f"model {family}", ((m.families.get(family) or "-")[:12] for m in manifests))
    compare("trained from", (f"{m.trained_from:%Y-%m-%d %H:%M}" for m in manifests))
    compare("trained until", (f"{m.trained_until:%Y-%m-%d %H:%M}" for m in manifests))
    compare("data fingerprint", (m.data_fingerprint[:12] for m in manifests))
    compare("code", (f"{m.code_version} ({m.code_hash[:12]})" for m in manifests))
    for library in dict.fromkeys(name for m in manifests for name in m.libraries):
        compare(library, (m.libraries.get(library, "-") for m in manifests))
    return found


def _names(manifest: BundleManifest, others: Sequence[BundleManifest]) -> str:
    """How many names, and those that not every bundle has."""
    common = set.intersection(*(set(other.names) for other in others))
    own = [name for name in manifest.names if name not in common]
    shown = ",".join(own[:5]) + (",..." if own[5:] else "")
    return f"{len(manifest.names)}" + (f" (alone {shown})" if own else "")


def predict_command(arguments: argparse.Namespace) -> None:
    """Forecast from the last bars of a history."""
    config = settings_from(arguments).data
    if config.path is None:
        raise ConfigError("--data: is missing", "give the bars to forecast from")
    folder = find_bundle(arguments.reference, arguments.storage)
    bundle = HorizonBundle.load(folder, _plugins(arguments))
    manifest = bundle.manifest
    if arguments.config is None and "calendar" not in given_options(arguments):
        config = config.model_copy(update={"calendar": manifest.calendar})
    until = None if arguments.at is None else _moment(arguments.at, config.calendar)
    forecast = bundle.predict(last_bars(config, manifest.tail_bars, until))
    minutes = np.array([horizon.minutes for horizon in bundle.recipe.horizons])
    if arguments.json:
        print(json.dumps(_record(forecast, minutes, manifest), indent=1, allow_nan=False))
    else:
        print(_forecast_words(forecast, minutes, manifest))


def _moment(text: str, calendar: str) -> pd.Timestamp:
    """A time, UTC; without a zone it is the venue's."""
    try:
        moment = pd.Timestamp(text)
        if moment.tzinfo is None:
            moment = moment.tz_localize(TradingCalendar(calendar).time_zone)
        known = moment.tz_convert("UTC")
    except (ValueError, TypeError) as e:
        raise ConfigError(f"--at: {text!r} is not a time", "write 2026-03-02 11:30") from e
    if not isinstance(known, pd.Timestamp):
        raise ConfigError(f"--at: {text!r} is not a time", "write 2026-03-02 11:30")
    return known


def in_bps(forecast: BundleForecast, scaled: Doubles, minutes: Doubles) -> Doubles:
    """Scaled forecasts as bps of return over each horizon: ``scaled * sigma * sqrt(minutes)``.

    Parameters
    ----------
    forecast : BundleForecast
    scaled : float64 ndarray of shape (n_horizons, ..., n_symbols)
    minutes : ndarray of shape (n_horizons,)
        Session minutes.
    """
    root = np.sqrt(minutes).reshape(-1, *[1] * (scaled.ndim - 1))
    return np.asarray(scaled * forecast.sigma * root)


def _forecast_words(forecast: BundleForecast, minutes: Doubles, manifest: BundleManifest) -> str:
    stacked = in_bps(forecast, forecast.stacked, minutes)
    head = ["symbol", "sigma"]
    for horizon in forecast.horizons:
        head += [f"{horizon} bps", "conf"]
    rows = []
    for place, name in enumerate(forecast.names):
        row = [name, _shown(forecast.sigma[place], ".2f")]
        for values, confidence in zip(stacked, forecast.confidence, strict=True):
            row += [_shown(values[place], "+.2f"), _shown(confidence[place], ".2f")]
        row += [_shown(values[place], ".2f") for values in forecast.barriers]
        rows.append([*row, forecast.reasons[place]])
    table = columns([*head, *BARRIERS, "no forecast because"], rows)
    return (
        f"bundle {manifest.short} after the bar of {forecast.time:%Y-%m-%d %H:%M} UTC\n\n"
        f"{table}\n\n"
        "sigma: bps per square root of a session minute; bps: forecast over the horizon"
    )


def _shown(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _record(forecast: BundleForecast, minutes: Doubles, manifest: BundleManifest) -> dict[str, Any]:
    """For JSON; null where nothing is forecast."""
    stacked = in_bps(forecast, forecast.stacked, minutes)
    families = in_bps(forecast, forecast.returns, minutes)

    def symbol(place: int) -> dict[str, Any]:
        horizons = {
            horizon: {
                "bps": _number(stacked[h, place]),
                "confidence": _number(forecast.confidence[h, place]),
                "families": {
                    family: _number(families[h, f, place])
                    for f, family in enumerate(forecast.families)
                },
            }
            for h, horizon in enumerate(forecast.horizons)
        }
        barriers = {name: _number(forecast.barriers[b, place]) for b, name in enumerate(BARRIERS)}
        sigma = _number(forecast.sigma[place])
        reason = forecast.reasons[place] or None
        facts = {"symbol": forecast.names[place], "sigma": sigma, "horizons": horizons}
        return facts | barriers | {"reason": reason}

    return {
        "bundle": manifest.fingerprint,
        "time": forecast.time.isoformat(),
        "symbols": [symbol(place) for place in range(len(forecast.names))],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
