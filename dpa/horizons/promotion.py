"""Which bundle is served: a pointer in the storage of runs, and how people name bundles."""

import json
import os
from pathlib import Path
from typing import Literal

from dpa.clock import Clock
from dpa.errors import RunError
from dpa.horizons.bundle import MANIFEST, HorizonBundle, read_bundle_manifest
from dpa.runs import find_run, write_atomically

POINTER = "promoted-bundle.json"


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
        "fingerprint": bundle.manifest.fingerprint,
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
        if read_bundle_manifest(folder).fingerprint != pointer["fingerprint"]:
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
