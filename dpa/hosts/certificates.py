"""Certificates for Ray's own connections, made with the openssl program."""

import ipaddress
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dpa.errors import ConfigError

ROOT: Final = "ca.crt"
ROOT_KEY: Final = "ca.key"
NODES: Final = "nodes"  # what travels to the nodes: not the key of the authority
CERTIFICATE: Final = "node.crt"
KEY: Final = "node.key"
DAYS: Final = 365
_LOCAL: Final = ("127.0.0.1", "localhost")


def make_certificates(folder: Path, names: Sequence[str], days: int = DAYS) -> Path:
    """Make an authority, where there is none yet, and a certificate for the nodes.

    Parameters
    ----------
    folder : Path
        Made with mode 0700; the keys in it with 0600.
    names : sequence of str
        Addresses and host names of all nodes; Ray checks that the one it calls is among them.
        The loopback's are added.
    days : int
        For how long both are valid.

    Returns
    -------
    Path
        The folder that travels: authority's certificate, the nodes' certificate and key.

    Raises
    ------
    ConfigError
        When there is no openssl, a name is none, or it refuses.
    """
    if shutil.which("openssl") is None:
        raise ConfigError("there is no openssl on this machine", "Debian: apt-get install openssl")
    alternatives = ",".join(_alternative(name) for name in dict.fromkeys([*names, *_LOCAL]))
    nodes = folder / NODES
    nodes.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    nodes.chmod(0o700)
    if not (folder / ROOT_KEY).exists():
        _make_authority(folder, days)
    shutil.copyfile(folder / ROOT, nodes / ROOT)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        request, extensions = Path(scratch) / "request", Path(scratch) / "extensions"
        draft_key, draft = Path(scratch) / KEY, Path(scratch) / CERTIFICATE
        extensions.write_text(
            f"subjectAltName={alternatives}\n"
            "basicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\n",  # a node is both
            encoding="ascii",
        )
        _key(draft_key)
        _openssl("req", "-new", "-key", draft_key, "-subj", "/CN=dpa node", "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-CA", folder / ROOT, "-CAkey", folder / ROOT_KEY,
            "-CAcreateserial", "-CAserial", Path(scratch) / "serial", "-days", str(days),
            "-extfile", extensions, "-out", draft,
        )  # fmt: skip
        os.replace(draft_key, nodes / KEY)
        os.replace(draft, nodes / CERTIFICATE)
    return nodes


def environment_of(nodes: Path) -> dict[str, str]:
    """The variables with which Ray encrypts, for a process of this machine."""
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": str(nodes / ROOT),
        "RAY_TLS_SERVER_CERT": str(nodes / CERTIFICATE),
        "RAY_TLS_SERVER_KEY": str(nodes / KEY),
    }


def _make_authority(folder: Path, days: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        key, certificate = Path(scratch) / ROOT_KEY, Path(scratch) / ROOT
        _key(key)
        _openssl(
            "req", "-x509", "-new", "-key", key, "-subj", "/CN=dpa authority", "-days", str(days),
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", certificate,
        )  # fmt: skip
        os.replace(certificate, folder / ROOT)
        os.replace(key, folder / ROOT_KEY)  # last: with it the authority is whole


def _key(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    path.chmod(0o600)


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"openssl {words[0]}: {last}", "see the message")


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        pass
    if not name or any(not (c.isalnum() or c in "-.*") for c in name):
        raise ConfigError(f"{name!r}: is no address and no host name", "give those of the nodes")
    return f"DNS:{name}"
