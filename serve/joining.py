"""Finding the cluster that runs, before Ray is imported: it reads then who it is to be."""

import os
import subprocess
import sys
from typing import Final

from dpa.errors import ClusterUnavailable
from dpa.hosts.token import token_path

JOIN_SECONDS: Final = 20.0


def find_cluster(address: str | None) -> str:
    """The address of a cluster that can be joined, with this machine's token where it has one.

    Parameters
    ----------
    address : str, optional
        None: what ``RAY_ADDRESS`` says, else the one that runs here.

    Raises
    ------
    ClusterUnavailable
        There is none.
    """
    where = address or os.environ.get("RAY_ADDRESS") or "auto"
    problem = f"no Ray cluster answers at {where!r}"
    for mode in _modes():
        joined = _joins(where, mode)
        if joined:
            os.environ.update(mode)
            return where
        if joined is None:  # nobody is there, whoever asks
            break
        problem = f"no Ray cluster can be joined at {where!r}"
    raise ClusterUnavailable(
        problem,
        "start one with 'make serve' or 'dpa cluster up'; name another with --ray; one that asks "
        "for a token needs the same in ~/.ray/auth_token here",
    )


def _modes() -> list[dict[str, str]]:
    """How to say who we are; with a token first, which clusters ask for unless told otherwise."""
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or token_path().exists()
    if has_token and not os.environ.get("RAY_AUTH_MODE"):
        return [{"RAY_AUTH_MODE": "token"}, {}]
    return [{}]


def _joins(where: str, mode: dict[str, str]) -> bool | None:
    """Whether a cluster can be joined; none: no answer. In another process: it may hang."""
    code = f"import ray; ray.init(address={where!r}, log_to_driver=False)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=False,
            timeout=JOIN_SECONDS,
            env={**os.environ, **mode},
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode == 0
