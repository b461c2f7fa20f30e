"""HorizonBundle: everything that forecasts, in one directory that vouches for itself.

``manifest.json`` (schema version, what it forecasts, from what, SHA-256 of every file),
``families/<name>/``, ``cluster/`` where a cluster model is used, ``stacker.safetensors`` and
``probe.safetensors`` (a few rows and the forecasts they must give). Nothing in it runs on loading.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
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
from dpa.config import Frozen, Settings
from dpa.errors import DpaError, RunError
from dpa.horizons.calibration import Calibrator
from dpa.horizons.families.protocol import Family, family_class
from dpa.horizons.feature_set import FeatureSet
from dpa.horizons.plugins import load_plugins
from dpa.horizons.recipe import Recipe
from dpa.horizons.stacker import CrossHorizonStacker
from dpa.horizons.types import Rows, RowSchema, Singles
from dpa.market.panel import Panel
from dpa.runs import code_hash, find_run, library_versions, stable_hash, write_atomically

if TYPE_CHECKING:
    from dpa.horizons.inference import BundleForecast, LivePredictor

SCHEMA_VERSION = 1
MANIFEST, CLUSTER = "manifest.json", "cluster"
STACKER, PROBE = "stacker.safetensors", "probe.safetensors"
POINTER = "promoted-bundle.json"
PROBE_TOLERANCE = 1e-9
PROBE_ROWS = 64
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
    calibrator: dict[str, Any] | None = Field(description="of the barrier probabilities")
    stacker: dict[str, Any]
    trained_from: datetime
    trained_until: datetime = Field(description="last bar that any part of it has seen")
    data_fingerprint: str
    measures: dict[str, float] = Field(
        description="out-of-fold mean IC by 'family horizon', for people"
    )
    files: dict[str, str] = Field(description="path to SHA-256")

    def fingerprint(self) -> str:
        """Hash of what decides a forecast and of where it comes from; not of when it was made."""
        content = self.model_dump(mode="json", exclude={"created_at", "run_id"})
        content["settings"]["data"] = None  # where the bars lay; their fingerprint counts
        return stable_hash(content)

    @property
    def short(self) -> str:
        """The first twelve digits of the fingerprint: the bundle's version for people."""
        return self.fingerprint()[:12]


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
    calibrator : Calibrator, optional
        Of the mean raw barrier probability of the families that have such heads.
    """

    folder: Path
    manifest: BundleManifest
    recipe: Recipe
    families: dict[str, Family]
    stacker: CrossHorizonStacker
    calibrator: Calibrator | None

    @property
    def schema(self) -> RowSchema:
        """What the columns of its rows mean."""
        return self.recipe.schema()

    @property
    def features(self) -> FeatureSet:
        """Its features."""
        return self.recipe.feature_set()

    @classmethod
    def load(cls, folder: Path) -> "HorizonBundle":
        """Read a bundle, every byte of it checked.

        Raises
        ------
        RunError
            When it is not whole, was altered, is of another schema, or has features or families
            that this program cannot compute as they were; naming which, and the cure.
        """
        manifest = read_bundle_manifest(folder)
        check_files(folder, manifest)
        try:
            load_plugins(manifest.settings.horizons.plugins)
            recipe = _recipe(folder, manifest)
            known = recipe.feature_set().fingerprints
        except RunError:
            raise
        except DpaError as e:
            raise RunError(f"{folder}: {e.what}", e.cure) from e
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
        stored = manifest.calibrator
        calibrator = None if stored is None else Calibrator.from_json(stored)
        bundle = cls(folder, manifest, recipe, families, stacker, calibrator)
        bundle.check_probe()
        return bundle

    def start(self, tail: Panel) -> "LivePredictor":
        """Begin from the last bars, to go on bar by bar: :func:`dpa.horizons.inference.start`."""
        from dpa.horizons.inference import start

        return start(self, tail)

    def predict(self, tail: Panel) -> "BundleForecast":
        """Forecast from the last bar of a tail; errors as :meth:`start`."""
        return self.start(tail).forecast()

    def check_probe(self) -> None:
        """Forecast the stored rows anew: another library must not mean another forecast.

        Raises
        ------
        RunError
            Naming the family whose forecast differs.
        """
        probe = _arrays(self.folder / PROBE)
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


def _versions(libraries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))


def _recipe(folder: Path, manifest: BundleManifest) -> Recipe:
    cluster = folder / CLUSTER
    extras = tuple(name for name in manifest.needs if name != "cluster")
    return Recipe(
        manifest.settings,
        manifest.names,
        manifest.interval,
        manifest.calendar,
        extras,
        tuple(manifest.features),
        str(cluster) if cluster.is_dir() else None,
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
    seal = content.pop("seal", None)
    try:
        manifest = BundleManifest.model_validate(content)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{path}: {field}: {first['msg']}", _CURE) from e
    if seal != stable_hash(manifest.model_dump(mode="json")):
        raise RunError(f"{path}: was altered", _CURE)
    return manifest


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
    calibrator : Calibrator, optional
    probe : Rows
        Rows whose forecasts are kept; the first :data:`PROBE_ROWS` of them.
    run_id : str
    data_fingerprint : str
    trained_from, trained_until : datetime
    measures : mapping of str to float
    """

    recipe: Recipe
    families: Mapping[str, Path]
    stacker: CrossHorizonStacker
    calibrator: Calibrator | None
    probe: Rows
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
        HorizonBundle.load(fresh)
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
    save_file(_probe(parts.probe.features[:PROBE_ROWS], families), folder / PROBE)
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
        calibrator=None if parts.calibrator is None else parts.calibrator.to_json(),
        stacker=facts,
        trained_from=parts.trained_from,
        trained_until=parts.trained_until,
        data_fingerprint=parts.data_fingerprint,
        measures=dict(parts.measures),
        files=files,
    )
    content = manifest.model_dump(mode="json")
    text = json.dumps(content | {"seal": stable_hash(content)}, indent=1)
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


def barrier_mean(raw: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """Mean raw probability of the families that have barrier heads, known ones only.

    Parameters
    ----------
    raw : list of float64 ndarray of shape (..., 2)
        Peak and valley; NaN where a family says nothing.
    """
    if not raw:
        return None
    known = [np.isfinite(values) for values in raw]
    count = np.sum(known, axis=0)
    total = np.sum([np.where(k, v, 0.0) for k, v in zip(known, raw, strict=True)], axis=0)
    mean: NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def promote_bundle(folder: Path, storage: Path, clock: Clock, by: Literal["hand", "run"]) -> Path:
    """Make a verified bundle the one that is served: a pointer, replaced atomically.

    Parameters
    ----------
    folder : Path
        The bundle; it stays where it is.
    storage : Path
        Receives ``promoted-bundle.json``.
    clock : Clock
    by : {"hand", "run"}
        A person's choice, which a finished run never overrides; or the newest run's.

    Returns
    -------
    Path
        The pointer.

    Raises
    ------
    RunError
        When the bundle does not verify; the old pointer stays.
    """
    bundle = HorizonBundle.load(folder)
    inside = folder.resolve().is_relative_to(storage.resolve())
    where = os.path.relpath(folder.resolve(), storage.resolve()) if inside else folder.resolve()
    content = {
        "bundle": str(where),
        "fingerprint": bundle.manifest.fingerprint(),
        "promoted_at": clock.now().isoformat(),
        "promoted_by": by,
    }
    storage.mkdir(parents=True, exist_ok=True)
    write_atomically(storage / POINTER, json.dumps(content, indent=2) + "\n")
    return storage / POINTER


def read_pointer(storage: Path) -> dict[str, str] | None:
    """What the pointer of `storage` says; none when no bundle is promoted.

    Raises
    ------
    RunError
        When it is damaged.
    """
    path = storage / POINTER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fields = ("bundle", "fingerprint", "promoted_at", "promoted_by")
        return {name: str(content[name]) for name in fields}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunError(f"{path}: cannot be read", "promote a bundle again") from e


def find_bundle(reference: str, storage: Path) -> Path:
    """The folder a reference names: a bundle's folder, a run with one, or ``promoted``.

    Raises
    ------
    RunError
        When there is no such bundle.
    """
    if (Path(reference) / MANIFEST).is_file() and _is_bundle(Path(reference)):
        return Path(reference).resolve()
    if reference == "promoted":
        pointer = read_pointer(storage)
        if pointer is None:
            raise RunError(f"no bundle is promoted under {storage}", "see 'dpa bundle promote'")
        folder = (storage / pointer["bundle"]).resolve()
        if read_bundle_manifest(folder).fingerprint() != pointer["fingerprint"]:
            raise RunError(f"{folder}: is not the bundle that was promoted", "promote it again")
        return folder
    folder = find_run(reference, storage).path / "bundle"
    if not (folder / MANIFEST).is_file():
        raise RunError(
            f"{folder.parent.name}: has no bundle", "give a finished run of tune/horizons.py"
        )
    return folder


def _is_bundle(folder: Path) -> bool:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # let loading say what is wrong
    return not isinstance(content, dict) or content.get("kind") == "horizon bundle"
