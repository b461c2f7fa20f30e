"""The files that are deployed are the project's own, filled in."""

from typing import Any

import pytest
import yaml

from dpa.errors import DpaError
from tests.hosts.cluster import FILE, KEY, substituted
from tests.hosts.host import SHARED, USER
from tests.hosts.machines import REPOSITORY
from tests.hosts.serving import CONFIG, filled

HEAD, WORKERS = "10.83.0.10", ["10.83.0.11", "10.83.0.12", "10.83.0.13"]


def project(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
    return loaded


def differing(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Leaves that differ, by their path."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other}
        parts = [differing(one.get(k), other.get(k), f"{path}/{k}") for k in keys]
        return {k: v for part in parts for k, v in part.items()}
    return {} if one == other else {path.lstrip("/"): (one, other)}


def test_only_addresses_user_key_and_sizes_of_the_cluster_file_differ() -> None:
    written = project(FILE)
    changes = differing(written, substituted(written, HEAD, WORKERS, 1))
    assert set(changes) == {
        "provider/head_ip",
        "provider/worker_ips",
        "min_workers",
        "max_workers",
        "auth/ssh_user",
        "auth/ssh_private_key",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    }
    assert changes["provider/worker_ips"][1] == WORKERS
    assert (changes["auth/ssh_user"][1], changes["auth/ssh_private_key"][1]) == (USER, KEY)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for before, after in zip(*changes[key], strict=True):
            added = after.removeprefix(before)
            assert after.startswith(before)
            if "ray start" in before:
                assert added.startswith(" --num-cpus=1 --object-store-memory=")
            else:
                assert added == ""


def test_the_project_file_is_not_touched() -> None:
    written = project(FILE)
    substituted(written, HEAD, WORKERS, 1)
    assert written == project(FILE)


@pytest.mark.parametrize("key", ["provider", "auth", "head_start_ray_commands", "min_workers"])
def test_a_file_without_what_is_filled_in_is_refused(key: str) -> None:
    written = project(FILE)
    del written[key]
    with pytest.raises(DpaError, match="cannot be filled in"):
        substituted(written, HEAD, WORKERS, 1)


def test_only_arguments_of_the_serve_file_differ() -> None:
    written = project(CONFIG)
    settings = {"serving": {"warm_sessions": 2}}
    config = filled(written, SHARED / "live", SHARED / "begun", settings)
    assert set(differing(written, config)) == {"applications"}
    [before], [after] = written["applications"], config["applications"]
    changes = differing(before, after)
    assert {path.split("/")[1] for path in changes} == {"storage", "data", "settings"}
    assert after["args"]["storage"] == "/srv/dpa/live"
    assert after["args"]["settings"] == settings
