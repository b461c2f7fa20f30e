"""Certificates hold what Ray checks, and their keys stay with their owner."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from dpa.errors import ConfigError
from dpa.hosts.certificates import environment_of, make_certificates

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_nodes_certificate_is_the_authoritys_and_names_every_node(tmp_path: Path) -> None:
    nodes = make_certificates(tmp_path / "tls", ["10.0.0.1", "worker.example.com"])
    verified = openssl("verify", "-x509_strict", "-CAfile", nodes / "ca.crt", nodes / "node.crt")
    assert verified.rstrip().endswith("OK")
    shown = openssl("x509", "-in", nodes / "node.crt", "-noout", "-ext", "subjectAltName")
    for name in ("IP Address:10.0.0.1", "DNS:worker.example.com", "IP Address:127.0.0.1"):
        assert name in shown
    assert not (nodes / "ca.key").exists()
    for folder in (nodes.parent, nodes):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for key in (nodes.parent / "ca.key", nodes / "node.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert all(Path(path).is_file() for path in list(environment_of(nodes).values())[1:])


def test_once_more_keeps_the_authority_and_changes_the_nodes_key(tmp_path: Path) -> None:
    nodes = make_certificates(tmp_path, ["10.0.0.1"])
    authority, key = (nodes / "ca.crt").read_bytes(), (nodes / "node.key").read_bytes()
    make_certificates(tmp_path, ["10.0.0.1", "10.0.0.2"])
    assert (nodes / "ca.crt").read_bytes() == authority
    assert (nodes / "node.key").read_bytes() != key


@pytest.mark.parametrize("name", ["", "two words", "a,DNS:b", "x;y"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        make_certificates(tmp_path, [name])
