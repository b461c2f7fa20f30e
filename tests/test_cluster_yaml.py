"""`ray up` accepts both cluster files, and they keep the promises of docs/clusters.md."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).resolve().parents[1]
CLUSTERS = ("cluster.yaml", "cluster-onprem.yaml")
COMMAND_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


@pytest.fixture(params=CLUSTERS)
def written(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A cluster file as written."""
    return load(request.param)


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def commands(cluster: dict[str, Any]) -> list[str]:
    return [command for key in COMMAND_LISTS for command in cluster.get(key, [])]


def starts(cluster: dict[str, Any]) -> list[str]:
    return [command for command in commands(cluster) if "ray start" in command]


def test_ray_accepts_the_file_with_its_own_schema(
    written: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    prepared = prepare_config(written)
    validate_config(prepared)
    for node_type in prepared["available_node_types"].values():
        assert node_type["min_workers"] <= node_type["max_workers"]


def test_a_misspelt_key_would_not_pass(written: dict[str, Any]) -> None:
    from jsonschema import ValidationError

    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config({**written, "max_wrokers": 4}))


def test_every_command_is_valid_bash(written: dict[str, Any]) -> None:
    for command in commands(written):
        checked = subprocess.run(
            ["bash", "-n", "-c", command], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"{command}\n{checked.stderr}"


def test_token_authentication_is_on_wherever_ray_starts(written: dict[str, Any]) -> None:
    assert len(starts(written)) == 2
    for command in starts(written):
        assert "export RAY_AUTH_MODE=token" in command
    assert written["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in written["setup_commands"]


def test_the_dashboard_answers_on_loopback_only(written: dict[str, Any]) -> None:
    head = [command for command in starts(written) if "--head" in command]
    assert len(head) == 1
    assert "--dashboard-host=127.0.0.1" in head[0]
    assert "0.0.0.0" not in " ".join(starts(written))


def test_workers_join_the_head_they_were_started_by(written: dict[str, Any]) -> None:
    head, worker = starts(written)
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    assert "--port=6379" in head


def test_what_is_mounted_is_what_an_installation_needs(written: dict[str, Any]) -> None:
    mounted = {
        remote.removeprefix("~/dpa-source/"): local
        for remote, local in written["file_mounts"].items()
        if remote.startswith("~/dpa-source/")
    }
    assert all(remote == local for remote, local in mounted.items())
    assert all((REPOSITORY / local).exists() for local in mounted.values())
    needed = {"dpa", "tune", "serve", "Makefile", "pyproject.toml", "constraints.txt"}
    assert needed | {"README.md", "LICENSE"} == set(mounted)


def test_machines_are_installed_as_the_readme_says(written: dict[str, Any]) -> None:
    assert "make install" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    install = "make -C ~/dpa-source install"
    installs = [c for c in written["setup_commands"] if c.startswith(install)]
    assert len(installs) == 1
    for command in starts(written):
        assert "PATH=$HOME/dpa-source/.venv/bin:$PATH" in command


def test_aws_workers_are_spot_and_scale_while_the_head_stays() -> None:
    cluster = load("cluster.yaml")
    assert cluster["provider"]["type"] == "aws"
    node_types = cluster["available_node_types"]
    head = node_types[cluster["head_node_type"]]
    worker = node_types["worker"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["min_workers"] == 0 < worker["max_workers"] <= cluster["max_workers"]
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_on_premise_nodes_are_named_and_all_used() -> None:
    cluster = load("cluster-onprem.yaml")
    provider = cluster["provider"]
    assert provider["type"] == "local"
    assert len(set(provider["worker_ips"])) == len(provider["worker_ips"])
    assert provider["head_ip"] not in provider["worker_ips"]
    assert cluster["min_workers"] == cluster["max_workers"] == len(provider["worker_ips"])


def test_the_on_premise_file_and_its_guide_name_the_variable_without_which_it_hangs() -> None:
    command = "RAY_UP_enable_autoscaler_v2=0 ray up cluster-onprem.yaml"
    for name in ("cluster-onprem.yaml", "docs/clusters.md"):
        assert command in (REPOSITORY / name).read_text(encoding="utf-8")


def test_the_guide_lists_every_port_that_is_named() -> None:
    guide = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    for name in CLUSTERS:
        for command in starts(load(name)):
            for flag in command.split():
                option, _, port = flag.partition("=")
                if option.endswith("port") and port:
                    assert port in guide, f"{name}: {flag} is missing from docs/security.md"
