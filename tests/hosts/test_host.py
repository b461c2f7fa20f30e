"""What a host is made of, without making one."""

import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.hosts.host import Layout, boot_script, sshd_config

HOME = Path("/root")


def layout(repository: str = "/opt/dpa") -> Layout:
    folder = Path("/var/tmp/dpa hosts/run.1")
    return Layout(folder / "head", folder / "shared", Path(repository), Path("/opt/dpa/.venv"))


@pytest.mark.parametrize("is_operator", [True, False])
def test_the_first_process_runs_valid_bash_also_with_spaces_in_its_folder(
    is_operator: bool,
) -> None:
    script = boot_script(layout(), "head", HOME, is_operator)
    checked = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_nothing_is_mounted_before_mounts_are_private() -> None:
    lines = boot_script(layout(), "head", HOME, False).splitlines()
    mounts = [line for line in lines if line.startswith("mount ") or " && mount" in line]
    assert mounts[0] == "mount --make-rprivate /"


def test_folders_are_opened_before_they_are_hidden() -> None:
    lines = boot_script(layout(), "head", HOME, False).splitlines()
    hiding = next(i for i, line in enumerate(lines) if line.endswith(" /tmp"))
    used = [i for i, line in enumerate(lines) if "/var/tmp/dpa hosts" in line]
    assert max(used) <= hiding


@pytest.mark.parametrize("repository", ["/opt/dpa", f"{HOME}/dpa", "/tmp/dpa"])
def test_at_the_place_of_the_checkout_is_what_was_shipped(repository: str) -> None:
    lines = boot_script(layout(repository), "worker1", HOME, False).splitlines()
    at = lines.index(f"mkdir -p {repository} && mount --rbind {HOME}/dpa-source {repository}")
    hiding = [i for i, line in enumerate(lines) if line.endswith((" /tmp", " /root"))]
    assert max(i for i in hiding if lines[i].startswith("mount")) < at


def test_the_operator_listens_on_nothing() -> None:
    assert "sshd -D" in boot_script(layout(), "worker1", HOME, False)
    assert "sshd -D" not in boot_script(layout(), "operator", HOME, True)


def test_sshd_takes_keys_only_and_listens_on_its_own_address() -> None:
    lines = sshd_config(IPv4Address("10.83.0.10")).splitlines()
    assert "ListenAddress 10.83.0.10" in lines
    assert "PasswordAuthentication no" in lines
    assert "KbdInteractiveAuthentication no" in lines
    assert "PermitRootLogin prohibit-password" in lines
