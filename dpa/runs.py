"""Run identity and the directory of a run: fingerprints, manifest, lock, promotion.

Everything about a run is on disk, so a run can be resumed, reported on and compared by any
process that sees the directory. A run may be kept in a store instead (dpa.stores): then its
directory here is a working copy. What a trial, a baseline or the closing of the run has made is
pushed to the store as soon as it is whole, and whoever goes on, on any node, pulls it from there;
the layout is the same on both sides.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

import dpa
from dpa.clock import Clock
from dpa.config import Frozen, Settings
from dpa.errors import RunError
from dpa.options import typed
from dpa.stores.lease import driven_elsewhere, leased
from dpa.stores.mirror import Mirror, write_whole
from dpa.stores.places import Storage
from dpa.stores.store import Store, at_once, is_uri

LIBRARIES = (
    "lightgbm",
    "numpy",
    "pandas",
    "pyarrow",
    "ray",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
)
LONGEST_TRIAL_ID = 150  # characters; a file name holds 255 bytes on common file systems
PROMOTED = "promoted.json"
MANIFEST, RESULTS, BASELINES = "manifest.json", "grid_search_results.csv", "baselines.csv"
REPORT = "report.html"
BULKY = ("weights.parquet", "clusters.parquet")  # what only pictures of a trial are drawn from
Status = Literal["running", "interrupted", "complete"]


def stable_hash(value: Any) -> str:
    """Hexadecimal SHA-256 of `value` as canonical JSON: the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_hash() -> str:
    """Hexadecimal SHA-256 of the package's own source files, paths included."""
    root = Path(dpa.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that can change a number."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def trial_seed(settings: Settings) -> int:
    """Seed of a trial: a function of its parameters and of the root seed, nothing else.

    Data and costs are left out, so the same point under other costs starts from the same
    random numbers.
    """
    named = settings.model_dump(mode="json", include={"model", "training", "walk_forward"})
    return int(stable_hash(named)[:8], 16) % (2**31)


def seeded(settings: Settings) -> Settings:
    """`settings` of a grid point with the root seed replaced by the trial's own seed."""
    training = settings.training.model_copy(update={"seed": trial_seed(settings)})
    return settings.model_copy(update={"training": training})


def trial_id(parameters: Mapping[str, Any]) -> str:
    """File-name-safe name of a grid point: ``window-30_n_clusters-5_similarity_threshold-0.3``.

    A point without parameters is called ``default``; a name too long for a file system is cut
    and ends in a hash of the whole.
    """
    parts = [f"{name}-{typed(value)}" for name, value in parameters.items()]
    name = re.sub(r"[^A-Za-z0-9._-]", "~", "_".join(parts)) or "default"
    if len(name) <= LONGEST_TRIAL_ID:
        return name
    return f"{name[: LONGEST_TRIAL_ID - 9]}_{stable_hash(dict(parameters))[:8]}"


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees the old file or the new one, never half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


class DataDescription(Frozen):
    """What the run read."""

    source: str = Field(description="file or directory as given; 'sample' for the sample")
    fingerprint: str = Field(description="hash of the bars themselves")
    shards: str = Field(description="directory of the shards that were streamed")
    n_bars: int
    names: tuple[str, ...]
    interval: str
    calendar: str
    first_bar: datetime
    last_bar: datetime


class FoldRecord(Frozen):
    """One fold; bar numbers with exclusive stops, and times of its first and last test bar."""

    index: int
    train_start: int
    train_stop: int
    test_start: int
    test_stop: int
    partial: bool
    first_test: datetime
    last_test: datetime


class Manifest(Frozen):
    """Everything that names a run."""

    schema_version: Literal[1] = 1
    kind: Literal["grid", "horizons"] = "grid"
    run_id: str
    created_at: datetime
    status: Status
    settings: Settings
    axes: dict[str, tuple[Any, ...]]
    data: DataDescription
    code_version: str
    code_hash: str
    libraries: dict[str, str]
    folds: tuple[FoldRecord, ...]
    n_trials: int
    baselines: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash of settings, axes, data, code and libraries: equal inputs, equal fingerprint."""
        return run_fingerprint(self.settings, self.axes, self.data.fingerprint)


def run_fingerprint(
    settings: Settings, axes: Mapping[str, tuple[Any, ...]], data_fingerprint: str
) -> str:
    """Hash of what determines a run's numbers: settings, axes, data, code, library versions.

    The bars themselves count, not where they lie; nor what is logged.
    """
    places: Any = {"data": {"path", "dollar_volume_path"}, "logging": True}
    return stable_hash(
        {
            "settings": settings.model_dump(mode="json", exclude=places),
            "axes": {name: list(values) for name, values in axes.items()},
            "data": data_fingerprint,
            "code": code_hash(),
            "libraries": library_versions(),
        }
    )


def new_manifest(
    settings: Settings,
    axes: Mapping[str, tuple[Any, ...]],
    data: DataDescription,
    folds: tuple[FoldRecord, ...],
    n_trials: int,
    baselines: tuple[str, ...],
    clock: Clock,
    kind: Literal["grid", "horizons"] = "grid",
) -> Manifest:
    """Manifest of a run that starts now; its id is ``<UTC time>-<fingerprint>``, time-ordered."""
    created = clock.now()
    fingerprint = run_fingerprint(settings, axes, data.fingerprint)
    return Manifest(
        kind=kind,
        run_id=f"{created:%Y%m%d-%H%M%S}-{fingerprint[:8]}",
        created_at=created,
        status="running",
        settings=settings,
        axes=dict(axes),
        data=data,
        code_version=dpa.__version__,
        code_hash=code_hash(),
        libraries=library_versions(),
        folds=folds,
        n_trials=n_trials,
        baselines=baselines,
    )


def check_unchanged(manifest: Manifest) -> None:
    """Prove that the program is the one a run began with.

    Raises
    ------
    RunError
        Naming what changed: dpa's own sources, or a library.
    """
    if manifest.code_hash != code_hash():
        raise RunError(
            f"{manifest.run_id}: dpa was changed since the run began "
            f"({manifest.code_version}, sources {manifest.code_hash[:12]})",
            "start a new run, or give --accept-changed-code to mix the two",
        )
    installed = library_versions()
    for name, was in manifest.libraries.items():
        if installed.get(name) != was:
            raise RunError(
                f"{manifest.run_id}: began with {name} {was}, "
                f"now it is {installed.get(name, 'missing')}",
                "install the versions of its manifest, or give --accept-changed-code to mix the "
                "two",
            )


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run; see docs/architecture.md for the layout.

    Parameters
    ----------
    path : Path
        Its directory; with a store the working copy on this machine.
    store : Store, optional
        Where the run is kept, if not in `path`.
    """

    path: Path
    store: Store | None = None

    @property
    def storage(self) -> Storage:
        """Where the run is kept among others."""
        return Storage(self.path.parent, None if self.store is None else self.store.parent)

    def shown(self, name: str = "") -> str:
        """Where the run, or a file of it, is kept; for people."""
        if self.store is None:
            return str(self.path / name)
        return str(self.store.below(name) if name else self.store)

    def mirror(self, name: str, scratch: Path | None = None) -> Mirror:
        """The folder `name` of the run and its copy in the store, if there is one.

        Parameters
        ----------
        name : str
            Such as ``trials/default``.
        scratch : Path, optional
            Folder to work in on a node that sees the run only through its store.
        """
        if self.store is None:
            return Mirror(self.path / name)
        return Mirror(scratch or self.path / name, self.store.below(name))

    def publish(self, *names: str) -> None:
        """Keep files of the run's directory itself in the store, if there is one."""
        store = self.store
        if store is not None:
            at_once(lambda name: store.put_file(name, self.path / name), names)

    def fetch(self, *names: str) -> None:
        """Get files of the run's directory itself from the store, if there is one."""
        store = self.store
        if store is None:
            return
        for name, data in zip(names, at_once(store.get, names), strict=True):
            if data is None:
                (self.path / name).unlink(missing_ok=True)
            else:
                write_whole(self.path / name, data)

    def refresh(self) -> None:
        """Get what trials and baselines have left in the store, less what is bulky."""
        if self.store is None:
            return
        self.fetch(MANIFEST, RESULTS, BASELINES)
        names = ["best"]
        for group in ("trials", "baselines"):
            there = self.store.folders(group)
            names += [f"{group}/{name}" for name in there]
            folder = self.path / group
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name not in there:
                    shutil.rmtree(path)
        at_once(lambda name: self.mirror(name).pull(_is_light), names)

    @property
    def manifest_path(self) -> Path:
        """manifest.json."""
        return self.path / MANIFEST

    @property
    def results_csv(self) -> Path:
        """One row a trial."""
        return self.path / RESULTS

    @property
    def baselines_csv(self) -> Path:
        """One row a baseline, the columns of the grid's table."""
        return self.path / BASELINES

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / REPORT

    @property
    def best(self) -> Path:
        """The promoted model."""
        return self.path / "best"

    @property
    def tune(self) -> Path:
        """Ray Tune's own storage, TensorBoard files included."""
        return self.path / "tune"

    @property
    def tasks(self) -> Path:
        """Fits of a run of horizons, one folder each."""
        return self.path / "tasks"

    @property
    def tables(self) -> Path:
        """Tables of a run of horizons, CSV."""
        return self.path / "tables"

    @property
    def bundle(self) -> Path:
        """The bundle a run of horizons ends in."""
        return self.path / "bundle"

    @property
    def cluster(self) -> Path:
        """The cluster model that a run of horizons uses."""
        return self.path / "cluster"

    def trial(self, name: str) -> Path:
        """Directory of the trial called `name`."""
        return self.path / "trials" / name

    def baseline(self, name: str) -> Path:
        """Directory of the baseline called `name`."""
        return self.path / "baselines" / name

    @classmethod
    def create(cls, storage: Path | Storage, manifest: Manifest) -> "RunDirectory":
        """A new directory under `storage` with its manifest.

        Raises
        ------
        RunError
            When `storage` cannot be written, or holds that run already.
        """
        storage = Storage.of(storage)
        run = _run(storage, manifest.run_id)
        try:
            if run.store is not None and run.store.exists(MANIFEST):
                raise FileExistsError
            storage.path.mkdir(parents=True, exist_ok=True)
            run.path.mkdir()
            run.write_manifest(manifest)
        except FileExistsError as e:
            raise RunError(f"{run.shown()} exists already", "wait a second and start again") from e
        except OSError as e:
            raise storage_error(storage.path, e) from e
        return run

    def read_manifest(self) -> Manifest:
        """The manifest; :class:`RunError` when it is missing, damaged or of another schema."""
        try:
            text = self.manifest_path.read_text(encoding="utf-8")
        except OSError as e:
            raise RunError(
                f"{self.manifest_path}: cannot be read ({e.strerror})",
                "give the directory of a run, see 'dpa runs list'",
            ) from e
        try:
            return Manifest.model_validate_json(text)
        except ValidationError as e:
            first = e.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the file"
            raise RunError(
                f"{self.manifest_path}: {field}: {first['msg']}",
                "the run was written by another version of dpa, or the file was changed",
            ) from e

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest atomically."""
        write_atomically(self.manifest_path, manifest.model_dump_json(indent=2) + "\n")
        self.publish(MANIFEST)

    def set_status(self, status: Status) -> Manifest:
        """Change the manifest's status; the new manifest."""
        manifest = self.read_manifest().model_copy(update={"status": status})
        self.write_manifest(manifest)
        return manifest

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for one driver; released by the system even when that is killed.

        In a store it is a lease beside it: see dpa.stores.lease for what that can promise.

        Raises
        ------
        RunError
            When another process holds the run.
        """
        try:
            stream = open(self.path / ".lock", "a")  # noqa: SIM115  closed below
        except OSError as e:
            raise RunError(
                f"{self.path}: cannot be written ({e.strerror or e})", "ask its owner"
            ) from e
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise RunError(
                    f"{self.path} is being written by another process", "wait for it, or stop it"
                ) from e
            with nullcontext() if self.store is None else leased(self.store):
                yield

    def status(self) -> Status:
        """The manifest's status; a run left "running" by a killed driver counts as interrupted."""
        status = self.read_manifest().status
        if status != "running":
            return status
        if self.store is not None and driven_elsewhere(self.store):
            return "running"
        try:
            with RunDirectory(self.path).lock():
                return "interrupted"
        except RunError:
            return "running"

    def trial_names(self) -> list[str]:
        """Names of the trials that have a directory, sorted."""
        folder = self.path / "trials"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def fits_done(self) -> int:
        """Number of finished fits of a run of horizons."""
        return sum(1 for _ in self.tasks.glob("[!.]*/*/*/summary.json"))


def storage_error(storage: Path, error: OSError, option: str = "--storage") -> RunError:
    """The error for a path that cannot be written."""
    return RunError(
        f"{option} {storage}: cannot be written ({error.strerror or error})",
        "give a directory you may write to",
    )


def _is_light(name: str) -> bool:
    """Whether a table or a report needs a file of a trial; of a saved state only how far it is."""
    if name.endswith(BULKY):
        return False
    return not name.startswith("state/") or name.endswith("/progress.json")


def _run(storage: Storage, name: str) -> RunDirectory:
    store = storage.store
    return RunDirectory(storage.path / name, None if store is None else store.below(name))


def check_storage(storage: Path | Storage, option: str = "--storage") -> None:
    """Prove that files could be written under `storage`, leaving nothing behind.

    Raises
    ------
    RunError
        When no file can be created there.
    """
    place = Storage.of(storage)
    if place.store is not None:
        place.store.check()
    storage = nearest = place.path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as e:
        raise storage_error(storage, e, option) from e


def list_runs(storage: Path | Storage) -> list[RunDirectory]:
    """Runs under `storage`, newest last; directories without a manifest are left out.

    Of a run in a store the manifest is got, and nothing else.
    """
    storage = Storage.of(storage)
    if storage.store is not None:
        found = [_run(storage, name) for name in storage.store.folders() if name[0] != "."]
        at_once(lambda run: run.fetch(MANIFEST), found)
    elif storage.path.is_dir():
        found = [RunDirectory(path) for path in sorted(storage.path.iterdir())]
    else:
        found = []
    return [run for run in found if run.manifest_path.is_file()]


def find_run(reference: str, storage: Path | Storage) -> RunDirectory:
    """The run that `reference` names: a path, a URI, an id, the start of one id, or ``latest``.

    Raises
    ------
    RunError
        When there is no such run, or several.
    """
    if is_uri(reference):
        whole = Storage.of(reference).store
        if whole is None or "/" not in whole.root:
            raise RunError(f"{reference}: is no run", "see 'dpa runs list --storage URI'")
        reference, storage = whole.name, Storage.of(str(whole.parent))
    storage = Storage.of(storage)
    if storage.store is None and (Path(reference) / MANIFEST).is_file():
        return RunDirectory(Path(reference).resolve())
    runs = list_runs(storage)
    if reference == "latest" and runs:
        return runs[-1]
    matching = [run for run in runs if run.path.name.startswith(reference)]
    if len(matching) == 1:
        return matching[0]
    what = "several runs match" if matching else "no run is called"
    raise RunError(f"{what} {reference!r} under {storage}", "see 'dpa runs list'")


def promoted_by_hand(run: RunDirectory) -> bool:
    """Whether somebody chose the promoted model, so that closing the run again must keep it."""
    try:
        origin = json.loads((run.best / PROMOTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(origin, dict) and origin.get("promoted_by") == "hand"


def promote(
    run: RunDirectory, name: str, clock: Clock, by: Literal["hand", "rank"] = "hand"
) -> Path:
    """Make the last model of the trial called `name` the run's promoted one.

    Parameters
    ----------
    run : RunDirectory
    name : str
        Trial.
    clock : Clock
    by : "hand" or "rank"
        Somebody's choice, which closing the run again keeps; or the best net Sharpe.

    Returns
    -------
    Path
        ``best/``: the model, and promoted.json with where it came from.

    Raises
    ------
    RunError
        When the trial has no model.
    """
    source = run.trial(name) / "checkpoint"
    if not source.is_dir():
        known = ", ".join(run.trial_names()[:5])
        raise RunError(
            f"{run.path.name}: trial {name!r} has no model", f"give a finished trial ({known} ...)"
        )
    staging = Path(tempfile.mkdtemp(dir=run.path, prefix=".best."))
    shutil.copytree(source, staging, dirs_exist_ok=True)
    origin = {"run_id": run.path.name, "trial_id": name, "promoted_at": clock.now().isoformat()}
    origin["promoted_by"] = by
    write_atomically(staging / PROMOTED, json.dumps(origin, indent=2) + "\n")
    staging.chmod(0o755)
    if run.best.exists():
        shutil.rmtree(run.best)
    staging.rename(run.best)
    run.mirror("best").push()
    return run.best
