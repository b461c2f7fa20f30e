"""A bundle vouches for itself, and refuses what it cannot serve."""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpa.errors import DpaError, RunError
from dpa.horizons import recipe as recipes
from dpa.horizons.bundle import (
    MANIFEST,
    HorizonBundle,
    read_bundle_manifest,
)
from dpa.horizons.families import EncoderFamily, RidgeFamily
from dpa.horizons.promotion import POINTER, find_bundle, promote_bundle, read_pointer
from dpa.horizons.registry import FEATURES
from dpa.horizons.types import Forecast


@pytest.fixture
def copied(bundle_folder, tmp_path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "copied"))


def edited(folder: Path, sealed: bool = True, **changes) -> Path:
    """The bundle with another manifest, as a careful forger (or another version) writes it."""
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    content.update(changes)
    if sealed:
        content.pop("seal")
        whole = json.dumps(content, separators=(",", ":"))
        content["seal"] = hashlib.sha256(whole.encode()).hexdigest()
    path.write_text(json.dumps(content, indent=1) + "\n")
    return folder


def refused(folder: Path) -> RunError:
    with pytest.raises(RunError) as caught:
        HorizonBundle.load(folder)
    assert caught.value.cure
    assert "\n" not in str(caught.value)
    return caught.value


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_it_says_what_it_is(bundle, small_run):
    manifest = bundle.manifest
    assert manifest.names == small_run.panel.names
    assert manifest.horizons == ("5m", "30m", "60m")
    assert tuple(manifest.features) == small_run.recipe.features
    assert set(manifest.needs) == {"cluster", "open", "high", "low", "volume"}
    assert manifest.tail_bars == small_run.recipe.feature_set().reach + 1
    assert len(bundle.calibrators) == 2
    stored = {p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*.*")}
    assert stored == {MANIFEST, *manifest.files}
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".npy")) for name in stored)


def test_every_file_is_guarded_byte_by_byte(copied):
    rng = np.random.default_rng(0)
    for name in read_bundle_manifest(copied).files:
        path = copied / name
        content = path.read_bytes()
        place = int(rng.integers(len(content)))
        harms = [content[:-1], content[: len(content) // 2], b"", content + b"\n"]
        harms += [flip(content, 0), flip(content, place), flip(content, len(content) - 1)]
        for harm in harms:
            path.write_bytes(harm)
            assert name in str(refused(copied))
        path.unlink()
        assert f"{name}: is missing" in str(refused(copied))
        path.write_bytes(content)
    HorizonBundle.load(copied)


def test_the_manifest_guards_itself(copied, bundle):
    path = copied / MANIFEST
    content = path.read_bytes()
    for cut in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:cut])
        refused(copied)
    for place in range(0, len(content), 97):
        path.write_bytes(flip(content, place))
        with suppress(RunError):
            assert read_bundle_manifest(copied) == bundle.manifest  # a blank became another


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ["A", "B"]}, "was altered"),
        ({"trained_until": "2030-01-01T00:00:00Z"}, "was altered"),
        ({"seal": "0" * 64}, "was altered"),
        ({"families": {}}, "was altered"),
        ({"schema_version": 2}, "schema version 2, this dpa reads 1"),
        ({"kind": "cluster"}, "is not the manifest of a bundle"),
        ({"surprise": 1}, "was altered"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(copied, changes, words):
    assert words in str(refused(edited(copied, sealed=False, **changes)))


@pytest.mark.parametrize("changes", [{"interval": None}, {"surprise": 1}, {"files": []}])
def test_a_manifest_of_another_program_is_refused(copied, changes):
    error = refused(edited(copied, **changes))
    assert f"{MANIFEST}: {next(iter(changes))}: " in str(error)
    assert "use the dpa that made it (0.1" in error.cure


def test_a_file_that_does_not_belong_is_refused(copied):
    (copied / "families" / "ridge" / "notes.txt").write_text("x")
    assert "notes.txt: does not belong to the bundle" in str(refused(copied))


@pytest.mark.parametrize("where", ["nowhere", "", "families"])
def test_a_folder_without_a_bundle_says_so(copied, where):
    assert "no bundle here" in str(refused(copied / (where or "..")))


def test_an_unknown_feature_is_refused(copied, bundle):
    features = bundle.manifest.features | {"made_up": "0" * 64}
    error = refused(edited(copied, features=features))
    assert "feature 'made_up' is not known" in str(error)


def test_an_unknown_family_is_refused(copied, bundle):
    shutil.copytree(copied / "families" / "ridge", copied / "families" / "made_up")
    families = bundle.manifest.families | {"made_up": "0" * 64}
    files = dict(bundle.manifest.files)
    files |= {n.replace("/ridge/", "/made_up/"): h for n, h in files.items() if "/ridge/" in n}
    assert "'made_up' is not known" in str(refused(edited(copied, families=families, files=files)))


def test_a_feature_computed_in_another_way_is_refused(copied, monkeypatch):
    name = "reversal_30m"
    recipes._feature_set.cache_clear()
    monkeypatch.setitem(FEATURES, name, replace(FEATURES[name], source="another"))
    try:
        assert f"feature {name} is computed in another way now" in str(refused(copied))
    finally:
        recipes._feature_set.cache_clear()


def test_another_model_in_the_same_place_is_refused(copied, bundle):
    families = bundle.manifest.families | {"ridge": "0" * 64}
    assert "is not the model the manifest names" in str(refused(edited(copied, families=families)))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        (RidgeFamily, lambda said: replace(said, returns=said.returns + 1e-7)),
        (EncoderFamily, lambda said: replace(said, returns=np.full_like(said.returns, np.nan))),
        (EncoderFamily, lambda said: replace(said, barriers=said.barriers * 0.999)),
    ],
    ids=["returns", "nan", "barriers"],
)
def test_libraries_that_forecast_otherwise_are_refused(copied, monkeypatch, family, change):
    usual = family.predict

    def otherwise(self, features) -> Forecast:
        return change(usual(self, features))

    monkeypatch.setattr(family, "predict", otherwise)
    error = refused(copied)
    assert f"{family.name} forecasts otherwise than when it was made" in str(error)
    assert "numpy" in error.cure


def test_it_can_be_moved(bundle_folder, bundle, small_panel, tmp_path):
    target = tmp_path / "far" / "away"
    moved = HorizonBundle.load(Path(shutil.copytree(bundle_folder, target)))
    assert moved.manifest.fingerprint == bundle.manifest.fingerprint
    tail = small_panel.window(200, 400)
    np.testing.assert_array_equal(moved.predict(tail).stacked, bundle.predict(tail).stacked)


def test_the_fingerprint_is_that_of_the_content(bundle, write_another, tmp_path):
    again = write_another(tmp_path / "again", run_id="another-run")
    assert again.fingerprint == bundle.manifest.fingerprint
    assert write_another(tmp_path / "third", data_fingerprint="x").fingerprint != (
        again.fingerprint
    )


def test_same_seed_same_bundle_other_seed_another(small_panel, bundle, repeat_run, tmp_path):
    same = repeat_run(tmp_path / "same")
    other = repeat_run(tmp_path / "other", horizon_seed=1)
    assert same.fingerprint == bundle.manifest.fingerprint
    assert same.files == bundle.manifest.files
    assert other.fingerprint != same.fingerprint
    differ = {name for name in same.families if other.families[name] != same.families[name]}
    assert differ == {"gbdt", "encoder"}


def test_writing_replaces_a_bundle_and_nothing_else(write_another, tmp_path):
    first = write_another(tmp_path / "b", data_fingerprint="one")
    second = write_another(tmp_path / "b", data_fingerprint="two")
    assert HorizonBundle.load(tmp_path / "b").manifest == second != first
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    with pytest.raises(RunError, match="exists and is no bundle"):
        write_another(mine)
    assert [p.name for p in mine.iterdir()] == ["precious"]
    assert not list(tmp_path.glob(".bundle.*"))


class TestPromotion:
    def test_a_bad_bundle_is_refused_and_the_old_pointer_stays(
        self, bundle_folder, copied, tmp_path, clock
    ):
        storage = tmp_path / "runs"
        promote_bundle(bundle_folder, storage, clock, "hand")
        before = (storage / POINTER).read_bytes()
        (copied / "stacker.safetensors").write_bytes(b"")
        with pytest.raises(RunError, match="stacker"):
            promote_bundle(copied, storage, clock, "hand")
        assert (storage / POINTER).read_bytes() == before
        assert find_bundle("promoted", storage) == bundle_folder.resolve()

    def test_the_pointer_says_who_and_when(self, bundle_folder, bundle, tmp_path, clock):
        assert read_pointer(tmp_path) is None
        promote_bundle(bundle_folder, tmp_path, clock, "run")
        pointer = read_pointer(tmp_path)
        assert pointer == {
            "bundle": str(bundle_folder.resolve()),
            "fingerprint": bundle.manifest.fingerprint,
            "promoted_at": clock.now().isoformat(),
            "promoted_by": "run",
        }

    def test_a_storage_can_be_moved(self, bundle_folder, tmp_path, clock):
        storage = tmp_path / "runs"
        shutil.copytree(bundle_folder, storage / "r1" / "bundle")
        promote_bundle(storage / "r1" / "bundle", storage, clock, "hand")
        moved = storage.rename(tmp_path / "elsewhere")
        assert find_bundle("promoted", moved) == (moved / "r1" / "bundle").resolve()

    def test_a_damaged_pointer_is_an_error(self, tmp_path):
        for text in ("", "{}", "[]", '{"bundle": 3'):
            (tmp_path / POINTER).write_text(text)
            with pytest.raises(RunError, match=r"promoted-bundle\.json: cannot be read"):
                find_bundle("promoted", tmp_path)

    def test_what_was_promoted_is_what_is_found(self, write_another, tmp_path, clock):
        write_another(tmp_path / "b")
        promote_bundle(tmp_path / "b", tmp_path, clock, "hand")
        write_another(tmp_path / "b", data_fingerprint="another")
        with pytest.raises(RunError, match="is not the bundle that was promoted"):
            find_bundle("promoted", tmp_path)
        shutil.rmtree(tmp_path / "b")
        with pytest.raises(RunError, match="no bundle here"):
            find_bundle("promoted", tmp_path)


class TestReferences:
    @pytest.fixture
    def storage(self, bundle_folder, tmp_path) -> Path:
        for name in ("20260101-100000-aaaa", "20260102-100000-bbbb", "20260103-100000-cccc"):
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text('{"kind": "horizons"}')
        for name in ("20260102-100000-bbbb", "20260103-100000-cccc"):
            shutil.copytree(bundle_folder, tmp_path / "runs" / name / "bundle")
        return tmp_path / "runs"

    @pytest.mark.parametrize("reference", ["latest", "20260103", "20260103-100000-cccc"])
    def test_a_run(self, storage, reference):
        assert find_bundle(reference, storage) == storage / "20260103-100000-cccc" / "bundle"

    def test_a_folder(self, storage, bundle_folder):
        run = storage / "20260102-100000-bbbb"
        assert find_bundle(str(bundle_folder), storage) == bundle_folder.resolve()
        assert find_bundle(str(run / "bundle"), storage) == (run / "bundle").resolve()
        assert find_bundle(str(run), storage) == (run / "bundle").resolve()

    @pytest.mark.parametrize(
        ("reference", "words"),
        [
            ("2026", "several runs match"),
            ("1999", "no run is called"),
            ("20260101", "has no bundle"),
            ("promoted", "no bundle is promoted"),
        ],
    )
    def test_nothing(self, storage, reference, words):
        with pytest.raises(DpaError, match=words) as caught:
            find_bundle(reference, storage)
        assert caught.value.cure
