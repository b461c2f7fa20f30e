"""HorizonBundle: everything that forecasts, in one directory that vouches for itself.

``manifest.json`` (schema version, what it forecasts, from what, SHA-256 of every file),
``families/<name>/``, ``cluster/`` where a cluster model is used, ``stacker.safetensors`` and
``probe.safetensors`` (a few rows and the forecasts they must give). Nothing in it runs on loading.
"""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import dpa
import dpa.horizons.families
from dpa.clock import Clock
from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import load_model
from dpa.config import DECISION_SECTIONS, Frozen, Settings
from dpa.errors import DpaError, RunError
from dpa.horizons.calibration import Calibrator
from dpa.horizons.clusters import ClusterReader
from dpa.horizons.families.protocol import Family, family_class
from dpa.horizons.feature_set import FeatureSet
from dpa.horizons.plugins import load_plugins
from dpa.horizons.recipe import Recipe
from dpa.horizons.stacker import CrossHorizonStacker
from dpa.horizons.types import BARRIERS, Rows, RowSchema, Singles
from dpa.horizons.views import BatchView
from dpa.market.calendars import nanoseconds, utc_index
from dpa.market.panel import EXTRAS, Panel
from dpa.runs import code_hash, library_versions, stable_hash

if TYPE_CHECKING:
    from dpa.horizons.inference import BundleForecast, LivePredictor

SCHEMA_VERSION = 1
MANIFEST, CLUSTER = "manifest.json", "cluster"
STACKER, PROBE = "stacker.safetensors", "probe.safetensors"
PROBE_TOLERANCE = 1e-9
PROBE_ROWS, PROBE_NAMES = 64, 8
PROBE_RTOL = 1e-5  # of float32 features
_CURE = "copy it again from where it was made, or train it again"


class BundleManifest(Frozen):
    """What a bundle is; ``manifest.json``."""

    schema_version: Literal[1] = 1
    kind: Literal["horizon bundle"] = "horizon bundle"
    created_at: datetime
    run_id: str = Field(description="run that made it")
    code_version: str
    code_hash: str
    libraries: dict[str, str]
    settings: Settings
    names: tuple[str, ...] = Field(description="names it was trained on")
    interval: str
    calendar: str
    horizons: tuple[str, ...]
    features: dict[str, str] = Field(description="feature to its fingerprint, in column order")
    needs: tuple[str, ...] = Field(description="arrays a bar must have beside its price")
    tail_bars: int = Field(description="bars a tail must have, the newest included")
    families: dict[str, str] = Field(description="family to its fingerprint")
    calibrators: tuple[dict[str, Any], ...] = Field(
        description="of the probability of peak and of valley; none without such heads"
    )
    stacker: dict[str, Any]
    trained_from: datetime
    trained_until: datetime = Field(description="last bar that any part of it has seen")
    data_fingerprint: str
    measures: dict[str, float] = Field(
        description="out-of-fold mean IC by 'family horizon', for people"
    )
    dates: tuple[str, str] | None = Field(description="first and last date of the data")
    plugins: tuple[str, ...] = Field(description="names of the files its own features came from")
    files: dict[str, str] = Field(description="path to SHA-256")
    fingerprint: str = Field("", description="hash of what decides a forecast")

    @property
    def short(self) -> str:
        """The first twelve digits of the fingerprint: the bundle's version for people."""
        return self.fingerprint[:12]


def bundle_fingerprint(manifest: BundleManifest) -> str:
    """Hash of what decides a forecast and of what it was learned from.

    Not of when it was made, by which run, or where data, plugins and models lay: their content
    counts.
    """
    content = manifest.model_dump(mode="json", exclude={"created_at", "run_id", "fingerprint"})
    for section in ("data", "serving", "logging", *DECISION_SECTIONS):
        content["settings"].pop(section, None)
    content["settings"]["horizons"] |= {"plugins": None, "cluster": None}
    content["plugins"] = None
    return stable_hash(content)


@dataclass(frozen=True, eq=False)
class HorizonBundle:
    """A bundle in memory.

    Parameters
    ----------
    folder : Path
    manifest : BundleManifest
    recipe : Recipe
    families : dict of str to Family
        In the order of the manifest.
    stacker : CrossHorizonStacker
    calibrators : tuple of Calibrator
        Of the mean raw probability of peak and of valley of the families that have such heads;
        empty when none has.
    cluster : ClusterModel, optional
        Read once: what lies in the folder later has no influence.
    """

    folder: Path
    manifest: BundleManifest
    recipe: Recipe
    families: dict[str, Family]
    stacker: CrossHorizonStacker
    calibrators: tuple[Calibrator, ...]
    cluster: ClusterModel | None

    @property
    def schema(self) -> RowSchema:
        """What the columns of its rows mean."""
        return self.recipe.schema()

    @property
    def features(self) -> FeatureSet:
        """Its features."""
        return self.recipe.feature_set()

    def reader(self) -> ClusterReader | None:
        """The cluster model, to be led through bars from their start."""
        return None if self.cluster is None else ClusterReader(copy.deepcopy(self.cluster))

    @classmethod
    def load(cls, folder: Path, plugins: Sequence[str] = ()) -> "HorizonBundle":
        """Read a bundle, every byte of it checked.

        Parameters
        ----------
        folder : Path
        plugins : sequence of str
            Files with features and families of your own that it needs; they are run. What a
            bundle itself names is never run.

        Raises
        ------
        RunError
            When it is not whole, was altered, is of another schema, or has features or families
            that this program cannot compute as they were; naming which, and the cure.
        """
        manifest = read_bundle_manifest(folder)
        check_files(folder, manifest)
        try:
            load_plugins(plugins)
            recipe = _recipe(folder, manifest)
            known = recipe.feature_set().fingerprints
            for name in manifest.families:
                family_class(name)
        except RunError:
            raise
        except DpaError as e:
            cure = e.cure
            if manifest.plugins:
                cure = f"name the files it was made with, --plugins {','.join(manifest.plugins)}"
            raise RunError(f"{folder}: {e.what}", cure) from e
        changed = [name for name, was in manifest.features.items() if known.get(name) != was]
        if changed:
            raise RunError(
                f"{folder}: feature {changed[0]} is computed in another way now",
                "train the bundle again, or use the dpa it was made with "
                f"({manifest.code_version}, sources {manifest.code_hash[:12]})",
            )
        families = {
            name: _family(folder / "families" / name, name, was, recipe)
            for name, was in manifest.families.items()
        }
        stacker = CrossHorizonStacker.from_arrays(_arrays(folder / STACKER), manifest.stacker)
        if stacker.families != tuple(families) or stacker.horizons != recipe.horizons:
            raise RunError(f"{folder}: the stacker combines other families or horizons", _CURE)
        calibrators = tuple(Calibrator.from_json(stored) for stored in manifest.calibrators)
        if len(calibrators) not in (0, len(BARRIERS)):
            raise RunError(f"{folder}: has {len(calibrators)} calibrators", _CURE)
        cluster = None if recipe.cluster is None else load_model(Path(recipe.cluster))[0]
        bundle = cls(folder, manifest, recipe, families, stacker, calibrators, cluster)
        bundle.check_probe()
        return bundle

    @classmethod
    def load_family(cls, folder: Path, name: str, plugins: Sequence[str] = ()) -> Family:
        """One family of a bundle alone, its files checked; errors as :meth:`load`."""
        manifest = read_bundle_manifest(folder)
        if name not in manifest.families:
            raise RunError(f"{folder}: has no family {name!r}", "give a bundle that has")
        check_files(folder, manifest)
        load_plugins(plugins)
        recipe = _recipe(folder, manifest)
        return _family(folder / "families" / name, name, manifest.families[name], recipe)

    def start(self, tail: Panel) -> "LivePredictor":
        """Begin from the last bars, to go on bar by bar: :func:`dpa.horizons.inference.start`."""
        from dpa.horizons.inference import start

        return start(self, tail)

    def predict(self, tail: Panel) -> "BundleForecast":
        """Forecast from the last bar of a tail; errors as :meth:`start`."""
        return self.start(tail).forecast()

    def check_probe(self) -> None:
        """Compute the stored features and forecasts anew: what changed around the bundle, such as
        a library or a helper of a feature, must not mean another forecast.

        Raises
        ------
        RunError
            Naming the feature or the family that differs.
        """
        probe = _arrays(self.folder / PROBE)
        self._check_features(probe)
        features: Any = probe["features"]
        said = _probe(features, self.families)
        for name, values in said.items():
            was: Any = probe[name]
            if not np.allclose(values, was, rtol=0, atol=PROBE_TOLERANCE, equal_nan=True):
                raise RunError(
                    f"{self.folder}: {name.split('.')[0]} forecasts otherwise than when it was "
                    "made",
                    "install the libraries of its manifest "
                    f"({_versions(self.manifest.libraries)}), or train it again",
                )

    def _check_features(self, probe: Mapping[str, NDArray[Any]]) -> None:
        """Features of the newest bar of the stored tail."""
        tail = _tail_panel(probe, self.manifest.interval, self.manifest.calendar)
        values, _ = self.features.compute(BatchView(tail, self.features.settings, self.reader()))
        for place, name in enumerate(self.manifest.features):
            now, was = values[-1, :, place], probe["tail.features"][:, place]
            if not np.allclose(now, was, rtol=PROBE_RTOL, atol=PROBE_RTOL, equal_nan=True):
                raise RunError(
                    f"{self.folder}: feature {name} is computed in another way now",
                    "train the bundle again, or use the dpa and the libraries it was made with "
                    f"({self.manifest.code_version}, {_versions(self.manifest.libraries)})",
                )


def _family(folder: Path, name: str, fingerprint: str, recipe: Recipe) -> Family:
    try:
        kind = family_class(name)
    except DpaError as e:
        raise RunError(
            f"{folder}: family {name!r} is not known", "give its file with horizons.plugins"
        ) from e
    family = kind.load(folder, recipe.schema(), recipe.settings.families)
    if family.fingerprint() != fingerprint:
        raise RunError(f"{folder}: is not the model the manifest names", _CURE)
    return family


def _tail_panel(probe: Mapping[str, NDArray[Any]], interval: str, calendar: str) -> Panel:
    """The stored bars as a panel."""
    arrays = {name.removeprefix("tail."): array for name, array in probe.items()}
    names = tuple(f"P{number}" for number in range(arrays["prices"].shape[1]))
    extras = {name: arrays[name] for name in EXTRAS if name in arrays}
    times = utc_index(arrays["times"])
    mask = arrays["mask"].astype(bool)
    return Panel(times, names, arrays["prices"], mask, interval, calendar, **extras)


def _versions(libraries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))


def _recipe(folder: Path, manifest: BundleManifest) -> Recipe:
    cluster = folder / CLUSTER
    extras = tuple(name for name in manifest.needs if name != "cluster")
    horizons = manifest.settings.horizons.model_copy(update={"plugins": ()})
    return Recipe(
        manifest.settings.model_copy(update={"horizons": horizons}),
        manifest.names,
        manifest.interval,
        manifest.calendar,
        extras,
        tuple(manifest.features),
        str(cluster) if cluster.is_dir() else None,
        manifest.dates,
    )


def read_bundle_manifest(folder: Path) -> BundleManifest:
    """The manifest of a bundle; :class:`RunError` when there is none that can be read."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise RunError(
            f"{folder}: no bundle here ({e.strerror}: {MANIFEST})", "give a bundle's folder"
        ) from e
    except ValueError as e:
        raise RunError(f"{path}: is not valid JSON", _CURE) from e
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(content, dict) or content.get("kind") != "horizon bundle":
        raise RunError(f"{path}: is not the manifest of a bundle", "give a bundle's folder")
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema version {version}, this dpa reads {SCHEMA_VERSION}",
            "use the dpa that made it, or train it again",
        )
    if content.pop("seal", None) != _seal(content):
        raise RunError(f"{path}: was altered", _CURE)
    try:
        manifest = BundleManifest.model_validate(content)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"{path}: {field}: {first['msg']}",
            f"use the dpa that made it ({content.get('code_version')}), or train it again",
        ) from e
    return manifest


def _seal(content: Mapping[str, Any]) -> str:
    """Hash of the manifest as it is written, order included."""
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_files(folder: Path, manifest: BundleManifest) -> None:
    """Compare every file with the manifest.

    Raises
    ------
    RunError
        Naming the first file that is missing, altered, or not in the manifest.
    """
    for name, was in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path}: is missing", _CURE)
        if _sha256(path) != was:
            raise RunError(f"{path}: was altered or cut short", _CURE)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and name not in manifest.files:
            raise RunError(f"{path}: does not belong to the bundle", "remove it, or copy it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        found: dict[str, NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as e:
        raise RunError(f"{path}: cannot be read ({e})", _CURE) from e
    return found


@dataclass(frozen=True, eq=False)
class BundleParts:
    """What a bundle is made from.

    Parameters
    ----------
    recipe : Recipe
    families : dict of str to Path
        Folder of each fitted family's files.
    stacker : CrossHorizonStacker
    calibrators : tuple of Calibrator
    probe : Rows
        Rows whose forecasts are kept; the first :data:`PROBE_ROWS` of them.
    tail : Panel
        The last bars, as many as features look back over; some names' features are kept.
    run_id : str
    data_fingerprint : str
    trained_from, trained_until : datetime
    measures : mapping of str to float
    """

    recipe: Recipe
    families: Mapping[str, Path]
    stacker: CrossHorizonStacker
    calibrators: tuple[Calibrator, ...]
    probe: Rows
    tail: Panel
    run_id: str
    data_fingerprint: str
    trained_from: datetime
    trained_until: datetime
    measures: Mapping[str, float]


def write_bundle(folder: Path, parts: BundleParts, clock: Clock) -> BundleManifest:
    """Write a bundle, all of it or nothing, and read it back.

    Parameters
    ----------
    folder : Path
        Replaced when it holds an earlier bundle.
    parts : BundleParts
    clock : Clock

    Raises
    ------
    RunError
        When `folder` is something else, or cannot be written.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise RunError(f"{folder}: exists and is no bundle", "choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bundle.") as scratch:
        fresh = Path(scratch, "new")
        manifest = _write_into(fresh, parts, clock)
        HorizonBundle.load(fresh)  # plugins, if any, are in this program already
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        fresh.rename(folder)
    return manifest


def _write_into(folder: Path, parts: BundleParts, clock: Clock) -> BundleManifest:
    recipe, features = parts.recipe, parts.recipe.feature_set()
    for name, source in parts.families.items():
        shutil.copytree(source, folder / "families" / name)
    if recipe.cluster is not None and "cluster" in features.needs:
        shutil.copytree(recipe.cluster, folder / CLUSTER)
    arrays, facts = parts.stacker.to_arrays()
    save_file(arrays, folder / STACKER)
    schema = recipe.schema()
    families = {
        name: family_class(name).load(folder / "families" / name, schema, recipe.settings.families)
        for name in parts.families
    }
    probe = _probe(parts.probe.features[:PROBE_ROWS], families) | _tail_probe(parts, features)
    save_file(probe, folder / PROBE)
    files = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = BundleManifest(
        created_at=clock.now(),
        run_id=parts.run_id,
        code_version=dpa.__version__,
        code_hash=code_hash(),
        libraries=library_versions(),
        settings=recipe.settings,
        names=recipe.names,
        interval=recipe.interval,
        calendar=recipe.calendar,
        horizons=schema.labels,
        features={name: features.fingerprints[name] for name in features.names},
        needs=tuple(sorted(features.needs)),
        tail_bars=features.reach + 1,
        families={name: family.fingerprint() for name, family in families.items()},
        calibrators=tuple(calibrator.to_json() for calibrator in parts.calibrators),
        stacker=facts,
        trained_from=parts.trained_from,
        trained_until=parts.trained_until,
        data_fingerprint=parts.data_fingerprint,
        measures=dict(parts.measures),
        dates=recipe.dates,
        plugins=tuple(Path(name).name for name in recipe.settings.horizons.plugins),
        files=files,
    )
    manifest = manifest.model_copy(update={"fingerprint": bundle_fingerprint(manifest)})
    content = manifest.model_dump(mode="json")
    text = json.dumps(content | {"seal": _seal(content)}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def _probe(features: Singles, families: Mapping[str, Family]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"features": np.ascontiguousarray(features)}
    for name, family in families.items():
        said = family.predict(features)
        arrays[f"{name}.returns"] = np.ascontiguousarray(said.returns)
        if said.barriers is not None:
            arrays[f"{name}.barriers"] = np.ascontiguousarray(said.barriers)
    return arrays


def _tail_probe(parts: BundleParts, features: FeatureSet) -> dict[str, NDArray[Any]]:
    """The last bars of a few names, and the features of the newest bar."""
    names = min(PROBE_NAMES, parts.tail.n_assets)
    bars = parts.tail
    arrays: dict[str, NDArray[Any]] = {
        "times": nanoseconds(bars.times),
        "prices": bars.prices[:, :names],
        "mask": bars.mask[:, :names].astype(np.uint8),
    }
    arrays |= {name: bars.extras()[name][:, :names] for name in parts.recipe.extras_needed()}
    kept = {f"tail.{name}": np.ascontiguousarray(array) for name, array in arrays.items()}
    tail = _tail_panel(kept, parts.recipe.interval, parts.recipe.calendar)
    values, _ = features.compute(BatchView(tail, features.settings, parts.recipe.reader()))
    return kept | {"tail.features": np.ascontiguousarray(values[-1])}
