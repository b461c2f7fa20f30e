"""The Ray session of a grid: start one here, or join a running cluster, and check it first."""

import logging
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import dpa
from dpa.errors import ClusterUnavailable, DpaError, RunError
from dpa.hosts.token import ensure_token
from dpa.stores.places import Storage
from dpa.stores.store import Store

CONNECT_SECONDS = 5.0  # to open a connection to the cluster's port
JOIN_SECONDS = 30.0  # for a trial connection; ray.init itself would hang for minutes
CURE = "start it with 'ray up cluster.yaml', check the address, or leave --address out"
CURE_JOIN = "check the address, and set RAY_AUTH_MODE=token where the cluster asks for a token"


@contextmanager
def session(address: str | None, num_cpus: int | None, dashboard: bool) -> Iterator[str]:
    """A Ray session for the length of the block; yields the address of the dashboard.

    Parameters
    ----------
    address : str, optional
        Running cluster: ``auto`` or ``host:port``; none: start one here.
    num_cpus : int, optional
        Cores of the session started here; none: all.
    dashboard : bool
        Whether a session started here serves the dashboard; on the loopback interface only.

    Raises
    ------
    ClusterUnavailable
        When the cluster does not answer within seconds.
    """
    if address is not None:
        check_address(address)
    if ray.is_initialized():  # the caller's session: joined, not ended
        yield ray.init(ignore_reinit_error=True).dashboard_url or ""
        return
    logging.getLogger("ray").setLevel(logging.ERROR)  # the terminal belongs to the progress
    if address is not None:
        package = str(Path(dpa.__file__).parent)
        context = ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": [package]},
        )
    else:
        ensure_token()  # Ray would leave it readable by everybody
        context = ray.init(
            num_cpus=num_cpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Prove that a Ray cluster answers at `address`; :class:`ClusterUnavailable` otherwise."""
    if address not in ("auto", "local"):
        _check_port(address)
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=JOIN_SECONDS
        )
    except subprocess.TimeoutExpired as e:
        raise ClusterUnavailable(f"--address {address}: no Ray cluster answers there", CURE) from e
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ClusterUnavailable(f"--address {address}: cannot be joined ({lines[-1]})", CURE_JOIN)


def _check_port(address: str) -> None:
    if address.startswith("ray://"):
        raise ClusterUnavailable(
            f"--address {address}: a grid does not run over Ray Client",
            "run it on the cluster, with 'ray job submit' or --address auto",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterUnavailable(
            f"--address {address}: is not an address", "give auto or host:port"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise ClusterUnavailable(f"--address {address}: cannot be reached ({reason})", CURE) from e


def gpus_per_trial() -> float:
    """Share of a GPU for each trial, one trial a core: 0 where the cluster has none."""
    resources = ray.cluster_resources()
    gpus, cores = resources.get("GPU", 0.0), max(resources.get("CPU", 1.0), 1.0)
    return min(1.0, gpus / cores)


def check_shared(storage: Storage) -> None:
    """Prove that every node of the cluster sees `storage`.

    Raises
    ------
    RunError
        Naming a node that does not.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if storage.store is not None:
        _check_store(storage.store, nodes)
        return
    if len(nodes) < 2:
        return
    storage.path.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=storage.path, prefix=".probe.") as probe:
        for node, here in zip(nodes, _on_each(nodes, _sees, probe.name), strict=True):
            if not here:
                raise RunError(
                    f"--storage {storage}: node {node['NodeManagerAddress']} does not see it",
                    "give a path that all nodes share, such as a network file system",
                )


def _check_store(store: Store, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Prove that every node may write to a store: none has the credentials of another."""
    for node, error in zip(nodes, _on_each(nodes, _may_write, store), strict=True):
        if error:
            raise RunError(
                f"node {node['NodeManagerAddress']}: {error}",
                "credentials do not travel: give them to the environment that 'ray start' runs "
                "in, or to the machine as a role",
            )


def _on_each(nodes: Sequence[Mapping[str, Any]], task: Any, argument: Any) -> list[Any]:
    """The answer of every node to a task."""
    asked = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(argument)
        for node in nodes
    ]
    answers: list[Any] = ray.get(asked)
    return answers


@ray.remote(num_cpus=0)
def _sees(path: str) -> bool:
    return Path(path).exists()


@ray.remote(num_cpus=0)
def _may_write(store: Store) -> str:
    try:
        store.check()
    except DpaError as e:
        return e.what
    return ""
