"""Families on disk: data files beside a JSON that holds their hashes; nothing runs on loading.

A byte that changed anywhere is a :class:`dpa.errors.RunError`: the JSON is in a canonical form,
carries its own SHA-256 and that of every file beside it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpa.errors import RunError
from dpa.horizons.types import RowSchema

SCHEMA_VERSION = 1
DAMAGED = "it was damaged or altered: copy it again, or train it again"
OTHER_MODEL = "train it again on these features and horizons, or use those it was trained on"


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as the content of a safetensors file."""
    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def fingerprint(family: str, schema: RowSchema, parts: Mapping[str, NDArray[Any] | bytes]) -> str:
    """SHA-256 of a family's columns and named parameters; their order does not count."""
    digest = hashlib.sha256(_canonical({"family": family, **_identity(schema)}).encode())
    for name in sorted(parts):
        value = parts[name]
        if isinstance(value, np.ndarray):
            head, content = [value.dtype.str, list(value.shape)], value.tobytes()
        else:
            head, content = ["bytes", [len(value)]], value
        digest.update(json.dumps([name, *head]).encode())
        digest.update(content)
    return digest.hexdigest()


def write_model(
    folder: Path,
    stem: str,
    family: str,
    schema: RowSchema,
    files: Mapping[str, bytes],
    facts: Mapping[str, Any],
) -> None:
    """Write files, then ``<stem>.json`` that vouches for them.

    Parameters
    ----------
    folder : Path
        Made when missing.
    stem : str
        Name of the JSON without its suffix.
    family : str
    schema : RowSchema
        Its features, horizons and which serves which are recorded.
    files : mapping of file name to content
    facts : mapping
        Whatever else JSON can hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _replace(folder / name, content)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "family": family,
        **_identity(schema),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "facts": dict(facts),
    }
    _replace(folder / f"{stem}.json", _sealed(manifest).encode())


@dataclass(frozen=True, eq=False)
class StoredModel:
    """What :func:`write_model` wrote, checked.

    Parameters
    ----------
    origin : Path
        The JSON, for messages.
    files : mapping of file name to content
    facts : mapping
    """

    origin: Path
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Content of a text file."""
        return self.files[name].decode()

    def arrays(
        self, name: str, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Arrays of a safetensors file; their names and shapes must be those given."""
        try:
            found = load(self.files[name])
        except SafetensorError as e:
            raise RunError(f"{self.origin.parent / name}: cannot be read", DAMAGED) from e
        if shapes is not None and {k: value.shape for k, value in found.items()} != dict(shapes):
            raise RunError(f"{self.origin.parent / name}: holds other arrays", DAMAGED)
        return found


def read_model(
    folder: Path, stem: str, family: str, schema: RowSchema, names: tuple[str, ...] = ()
) -> StoredModel:
    """Read what :func:`write_model` wrote.

    Parameters
    ----------
    folder : Path
    stem : str
    family : str
    schema : RowSchema
        Must name the same features and horizons, in the same order.
    names : tuple of str
        Files there must be.

    Raises
    ------
    RunError
        When a file is missing, truncated or altered, or belongs to another family, to other
        features or horizons, or to another version of dpa.
    """
    path = folder / f"{stem}.json"
    manifest = _opened(path, _read(path))
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema version {manifest.get('schema_version')}, this dpa reads "
            f"{SCHEMA_VERSION}",
            "train it again, or use the dpa that wrote it",
        )
    if manifest["family"] != family:
        raise RunError(f"{path}: is a {manifest['family']} model, not {family}", "give its folder")
    _check_identity(path, manifest, _identity(schema))
    if not set(names) <= set(manifest["files"]):
        raise RunError(f"{path}: does not name {', '.join(names)}", DAMAGED)
    files = {name: _read(folder / name) for name in names or manifest["files"]}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
            raise RunError(f"{folder / name}: content does not match {path.name}", DAMAGED)
    return StoredModel(path, files, manifest["facts"])


def _identity(schema: RowSchema) -> dict[str, Any]:
    return {
        "features": list(schema.features),
        "horizons": [[horizon.label, horizon.minutes] for horizon in schema.horizons],
        "serves": ["".join("01"[int(flag)] for flag in row) for row in schema.serves],
    }


def _check_identity(path: Path, stored: dict[str, Any], ours: dict[str, Any]) -> None:
    for key, what in (("features", "features"), ("horizons", "horizons")):
        theirs, wanted = stored[key], ours[key]
        if theirs != wanted:
            missing = [str(item) for item in theirs if item not in wanted]
            added = [str(item) for item in wanted if item not in theirs]
            change = f"without {missing[0]}" if missing else f"with {added[0]}" if added else ""
            raise RunError(
                f"{path}: was trained on other {what} than these ({change or 'another order'})",
                OTHER_MODEL,
            )
    if stored["serves"] != ours["serves"]:
        raise RunError(f"{path}: features served other horizons when it was trained", OTHER_MODEL)


def _canonical(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _sealed(manifest: dict[str, Any]) -> str:
    seal = hashlib.sha256(_canonical(manifest).encode()).hexdigest()
    return _canonical({**manifest, "sha256": seal})


def _opened(path: Path, content: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = dict(json.loads(content.decode()))
        del manifest["sha256"]
        intact = _sealed(manifest).encode() == content
    except (ValueError, TypeError, KeyError) as e:
        raise RunError(f"{path}: is not a model's JSON", DAMAGED) from e
    if not intact:
        raise RunError(f"{path}: content does not match its own hash", DAMAGED)
    return manifest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise RunError(
            f"{path}: cannot be read ({e.strerror})", "give a complete model, or train it again"
        ) from e


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
