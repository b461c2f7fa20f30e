"""A model comes back from disk to the bit, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import MANIFEST, TENSORS, load_model, read_model_manifest, save_model
from dpa.config import ClusterConfig
from dpa.errors import RunError

SETTINGS = ClusterConfig(window=15, n_clusters=3, similarity_threshold=0.3)


@pytest.fixture(params=["comovement", "shape"])
def model(request, messy):
    model = ClusterModel(SETTINGS.model_copy(update={"centroids": request.param}), 7)
    inputs = model.prepare(messy.window(0, 120))
    if request.param == "shape":
        model.seed_shapes(inputs.features, 100)
    with torch.no_grad():
        model.raw_entry += 0.1
        model.raw_lags += torch.linspace(0, 1, 15)
    model.hard = True
    return model


@pytest.fixture
def folder(model, messy, tmp_path):
    save_model(model, tmp_path / "model", messy.names, {"interval": "1d"})
    return tmp_path / "model"


def test_round_trip_to_the_bit(model, folder, messy):
    loaded, names = load_model(folder)
    assert names == messy.names
    assert (loaded.config, loaded.seed, loaded.hard) == (model.config, 7, True)
    assert loaded.tracker.bars_seen == model.tracker.bars_seen
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    flags = [[p.requires_grad for p in m.parameters()] for m in (model, loaded)]
    assert flags[0] == flags[1]
    with torch.no_grad():
        for known in (None, model.prepare(messy.window(0, 120)).labels):
            if known is None or model.config.centroids == "shape":
                continue
            model.tracker.last, loaded_last = None, loaded.tracker.last
            assert loaded_last is not None
        ours, theirs = (m(m.prepare(messy)) for m in (load_model(folder)[0], loaded))
    assert torch.equal(ours.weights, theirs.weights)


def test_the_tracker_goes_on_after_loading(messy, tmp_path):
    model = ClusterModel(SETTINGS, 0)
    known = model.prepare(messy.window(0, 120)).labels.numpy().astype("int16")
    save_model(model, tmp_path, messy.names)
    loaded, _ = load_model(tmp_path)
    whole = ClusterModel(SETTINGS, 0).prepare(messy).labels
    assert torch.equal(loaded.prepare(messy, known).labels, whole)


def test_files_are_tensors_and_text_and_nothing_that_runs(folder):
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, TENSORS]
    assert load_file(folder / TENSORS)  # safetensors, not a pickle
    assert b"torch" not in (folder / TENSORS).read_bytes()[:2000]
    manifest = read_model_manifest(folder)
    assert manifest["interval"] == "1d"
    assert manifest["learned"]["similarity_threshold"] == pytest.approx(0.3)


def truncate(folder):
    path = folder / TENSORS
    path.write_bytes(path.read_bytes()[:-10])


def alter(folder):
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(bytes(content))


def edit(**changes):
    def change(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest.update(changes)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return change


def forget(key):
    def change(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        del manifest[key]
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return change


DAMAGES = {
    "tensors truncated": truncate,
    "tensors altered": alter,
    "tensors missing": lambda folder: (folder / TENSORS).unlink(),
    "manifest missing": lambda folder: (folder / MANIFEST).unlink(),
    "manifest truncated": lambda folder: (folder / MANIFEST).write_text('{"schema_'),
    "manifest binary": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "manifest is a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "newer schema": edit(schema_version=2),
    "another kind": edit(kind="horizons"),
    "other window": edit(config={"window": 20}),
    "settings of another version": edit(config={"windows": 20}),
    "names are no list": edit(names=5),
    "tracker is text": edit(tracker_bars_seen="many"),
    "no seed": forget("seed"),
    "no settings": forget("config"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_and_never_a_wrong_model(damage, folder):
    DAMAGES[damage](folder)
    with pytest.raises(RunError) as seen:
        load_model(folder)
    message = str(seen.value)
    assert "\n" not in message
    assert str(folder) in message
    assert seen.value.cure
    assert seen.value.exit_code == 2


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(RunError, match="no model here"):
        load_model(tmp_path / "nothing")
