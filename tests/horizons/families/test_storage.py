"""Fingerprints and files: a change is noticed, an accident of order is not."""

import hashlib
import json

import numpy as np
import pytest

from dpa.errors import RunError
from dpa.horizons.families import fingerprint, pack, read_model, write_model


def test_fingerprint_ignores_order_and_notices_everything_else(schema):
    a, b = np.arange(3.0), np.arange(4.0).reshape(2, 2)
    base = fingerprint("x", schema, {"a": a, "b": b, "t": b"text"})
    assert fingerprint("x", schema, {"t": b"text", "b": np.asfortranarray(b), "a": a}) == base
    others = [
        fingerprint("y", schema, {"a": a, "b": b, "t": b"text"}),
        fingerprint("x", schema, {"a": a, "b": b.ravel(), "t": b"text"}),
        fingerprint("x", schema, {"a": a.astype("f4"), "b": b, "t": b"text"}),
        fingerprint("x", schema, {"a": np.nextafter(a, 9), "b": b, "t": b"text"}),
        fingerprint("x", schema, {"a": a, "b": b, "t": b"texT"}),
        fingerprint("x", schema, {"a": a, "b": b}),
    ]
    assert len({base, *others}) == len(others) + 1


def test_round_trip(schema, tmp_path):
    arrays = {"a": np.arange(3.0), "b": np.array([True, False]), "c": np.arange(4)[::2]}
    write_model(tmp_path / "new", "m", "x", schema, {"m.st": pack(arrays)}, {"k": 1, "l": [0.1]})
    stored = read_model(tmp_path / "new", "m", "x", schema, ("m.st",))
    assert stored.facts == {"k": 1, "l": [0.1]}
    for name, value in stored.arrays("m.st").items():
        np.testing.assert_array_equal(value, arrays[name])
        assert value.dtype == arrays[name].dtype
    with pytest.raises(RunError, match="holds other arrays"):
        stored.arrays("m.st", {"a": (3,)})


def test_every_single_flipped_byte_of_the_json_is_refused(schema, tmp_path):
    write_model(tmp_path, "m", "x", schema, {"m.txt": b"abc"}, {"k": 1.5})
    path = tmp_path / "m.json"
    content = path.read_bytes()
    for spot in range(len(content)):
        for bit in (1, 32):
            flipped = bytes([content[spot] ^ bit])
            path.write_bytes(content[:spot] + flipped + content[spot + 1 :])
            with pytest.raises(RunError, match=r"m\.json"):
                read_model(tmp_path, "m", "x", schema)


def test_another_family_and_an_unnamed_file_are_refused(schema, tmp_path):
    write_model(tmp_path, "m", "x", schema, {}, {})
    with pytest.raises(RunError, match="is a x model, not y"):
        read_model(tmp_path, "m", "y", schema)
    with pytest.raises(RunError, match=r"does not name other\.txt"):
        read_model(tmp_path, "m", "x", schema, ("other.txt",))


def test_a_vouched_for_file_of_nonsense_is_refused(schema, tmp_path):
    write_model(tmp_path, "m", "x", schema, {"m.st": b"nonsense"}, {})
    with pytest.raises(RunError, match=r"m\.st: cannot be read"):
        read_model(tmp_path, "m", "x", schema).arrays("m.st", {})


def test_the_hashes_are_sha256_of_the_files(schema, tmp_path):
    write_model(tmp_path, "m", "x", schema, {"m.txt": b"abc"}, {})
    manifest = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert manifest["files"] == {"m.txt": hashlib.sha256(b"abc").hexdigest()}
