"""Models on disk: safetensors beside a manifest; nothing that could run code."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dpa.cluster.model import ClusterModel
from dpa.config import ClusterConfig
from dpa.errors import RunError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "model.safetensors"
TRACKED = "tracker.last"


def save_model(
    model: ClusterModel, folder: Path, names: tuple[str, ...], extra: dict[str, Any] | None = None
) -> None:
    """Write a model into `folder` (made when missing).

    Parameters
    ----------
    model : ClusterModel
    folder : Path
        Receives ``model.safetensors`` and ``manifest.json``.
    names : tuple of str
        Names the tracker's labels belong to, in column order.
    extra : dict, optional
        Further JSON facts for the manifest, such as the data's fingerprint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    if model.tracker.last is not None:
        tensors[TRACKED] = model.tracker.last.cpu()
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / TENSORS)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": "cluster",
        "config": model.config.model_dump(mode="json"),
        "seed": model.seed,
        "hard": model.hard,
        "tracker_bars_seen": model.tracker.bars_seen,
        "names": list(names),
        "learned": model.learned(),
        "sha256": hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest(),
        **(extra or {}),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_model_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model, its schema version checked."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise RunError(
            f"{folder}: no model here ({e.strerror}: {MANIFEST})", "give a model folder"
        ) from e
    except ValueError as e:
        raise RunError(
            f"{path}: not valid JSON", "the model is damaged: train or copy it again"
        ) from e
    if not isinstance(manifest, dict) or manifest.get("kind") != "cluster":
        raise RunError(f"{path}: not the manifest of a cluster model", "give a model folder")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema version {manifest.get('schema_version')}, this dpa reads "
            f"{SCHEMA_VERSION}",
            "train it again or use the dpa that wrote it",
        )
    return manifest


def load_model(folder: Path) -> tuple[ClusterModel, tuple[str, ...]]:
    """The model in `folder` and the names its tracked clusters belong to.

    Raises
    ------
    RunError
        Missing, truncated, altered, or of another schema; never a wrong model.
    """
    manifest = read_model_manifest(folder)
    damaged = "the model is damaged: train or copy it again"
    try:
        digest = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
        if digest != manifest["sha256"]:
            raise RunError(f"{folder / TENSORS}: content does not match its manifest", damaged)
        tensors = load_file(folder / TENSORS)
        config = ClusterConfig.model_validate(manifest["config"])
        model = ClusterModel(config, int(manifest["seed"]))
        model.tracker.last = tensors.pop(TRACKED, None)
        model.tracker.bars_seen = int(manifest["tracker_bars_seen"])
        model.hard = bool(manifest["hard"])
        model.load_state_dict(tensors)
        return model, tuple(manifest["names"])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as e:
        raise RunError(f"{folder}: the model cannot be read ({type(e).__name__})", damaged) from e
