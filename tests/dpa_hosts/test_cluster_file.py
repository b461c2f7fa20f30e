"""What a cluster file must say, and how a mistake in it is told."""

from pathlib import Path

import pytest
import yaml

from dpa.errors import ConfigError
from dpa.hosts.cluster_file import check_with_ray, read_cluster_file, start_flags

REPOSITORY = Path(__file__).resolve().parents[2]
ON_PREMISE = REPOSITORY / "cluster-onprem.yaml"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_files_of_the_repository_are_read() -> None:
    own = read_cluster_file(ON_PREMISE)
    assert own.hosts == (own.head, *own.workers)
    assert own.ports(head=True)["port"] == 6379
    assert own.ports(head=False)["node-manager-port"] == 8077
    assert "port" not in own.ports(head=False)
    assert {"dpa", "tune", "serve"} <= set(own.source_mounts)
    assert own.source_mounts["dpa"] == REPOSITORY / "dpa"
    cloud = read_cluster_file(REPOSITORY / "cluster.yaml")
    assert cloud.hosts == ()
    assert not cloud.is_local


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "line 1: "),
        ("a: 1\nb: {c: 2\nd: 3", "line 3: "),
        ("just words", "holds no keys"),
        ("cluster_name: x", "provider is missing"),
        ("provider: {type: local}", "provider.head_ip is missing"),
        ("provider: {type: local, head_ip: 10.0.0.1, worker_ips: 10.0.0.2}", "worker_ips is no"),
        ("provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.1]}", "twice"),
        ("provider: {type: local, head_ip: 10.0.0.1}", "auth is missing"),
        ("provider: {type: local, head_ip: a}\nauth: {x: 1}\ncluster_name: n", "auth.ssh_user"),
    ],
)
def test_a_mistake_is_named_by_line_or_key(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_cluster_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.cure


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_cluster_file(tmp_path / "none.yaml")


def test_a_key_that_ray_does_not_know_is_named(tmp_path: Path) -> None:
    raw = yaml.safe_load(ON_PREMISE.read_text(encoding="utf-8")) | {"max_wrokers": 3}
    path = written(tmp_path, yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="max_wrokers"):
        check_with_ray(read_cluster_file(path))


def test_the_start_command_is_found_among_the_others() -> None:
    head = read_cluster_file(ON_PREMISE).raw["head_start_ray_commands"]
    assert start_flags(head)[:3] == ["ray", "start", "--head"]
    with pytest.raises(ConfigError):
        start_flags(["ray stop"])
