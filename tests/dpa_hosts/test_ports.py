"""The table of ports is one, and the cluster file and the firewall follow it."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from dpa.hosts.cluster_file import read_cluster_file
from dpa.hosts.ports import PORTS, firewall, port_of, port_table

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_guide_has_the_table_and_the_rules_as_they_are() -> None:
    assert port_table() in GUIDE
    nodes = ["192.0.2.10", "192.0.2.11", "192.0.2.12"]
    assert firewall(nodes, "192.0.2.1", "192.0.2.5") in GUIDE


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-onprem.yaml"])
def test_every_port_that_a_file_names_has_its_row(name: str) -> None:
    cluster = read_cluster_file(REPOSITORY / name)
    for is_head in (True, False):
        for flag, port in cluster.ports(is_head).items():
            row = port_of(port)
            assert row is not None, flag
            assert row.reach in ("cluster", "prometheus"), flag
            assert is_head or not row.head_only, flag


def test_rows_do_not_overlap_and_what_is_open_is_closed_to_strangers() -> None:
    bounds = [(port.first, port.last) for port in PORTS]
    assert all(one[1] < two[0] for one, two in pairwise(bounds))
    for port in PORTS:
        if port.guard == "nothing":
            assert port.reach in ("cluster", "prometheus")


def test_the_kernel_takes_the_rules_and_they_can_be_given_again(tmp_path: Path) -> None:
    rules = tmp_path / "dpa.nft"
    rules.write_text(firewall(["10.0.0.1", "10.0.0.2"], "10.1.0.0/16", "10.2.0.1"), "utf-8")
    words = ["unshare", "--net", "nft", "-f", str(rules)]
    if shutil.which("nft") is None or shutil.which("unshare") is None:
        pytest.skip("needs nft and unshare")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("needs root")
    assert done.returncode == 0, done.stderr
    twice = ["unshare", "--net", "bash", "-c", f"nft -f {rules} && nft -f {rules}"]
    subprocess.run(twice, check=True, capture_output=True)
