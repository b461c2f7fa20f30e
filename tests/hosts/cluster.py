"""Ray on the hosts, by the project's own cluster-onprem.yaml and Ray's own commands."""

import copy
import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dpa.errors import DpaError
from tests.hosts.host import SBIN, SOURCE, USER, Host, end, wait_for_port
from tests.hosts.machines import REPOSITORY, Machines

FILE = "cluster-onprem.yaml"
KEY = "~/.ssh/key"
DASHBOARD_PORT = 8265
OBJECT_STORE = 100 * 2**20
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
BIN = str(REPOSITORY / ".venv" / "bin")
UP = {**TOKEN, "RAY_UP_enable_autoscaler_v2": "0", "PATH": f"{BIN}:{SBIN}"}
UP_SECONDS, JOIN_SECONDS, LOOK_SECONDS = 600.0, 240.0, 0.5


def substituted(
    written: Mapping[str, Any], head: str, workers: Sequence[str], num_cpus: int
) -> dict[str, Any]:
    """The on-premise file for these hosts: addresses, user, key, and how much each may take.

    Everything else stays as `written`: what is mounted, installed and run.

    Raises
    ------
    DpaError
        The file does not have what is to be replaced.
    """
    cluster: dict[str, Any] = copy.deepcopy(dict(written))
    try:
        n_workers = len(cluster["provider"]["worker_ips"])
        cluster["provider"] |= {"head_ip": head, "worker_ips": list(workers)}
        if (cluster["min_workers"], cluster["max_workers"]) != (n_workers, n_workers):
            raise KeyError("min_workers")
        cluster |= {"min_workers": len(workers), "max_workers": len(workers)}
        cluster["auth"] |= {"ssh_user": USER, "ssh_private_key": KEY}
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            [at] = [i for i, words in enumerate(cluster[key]) if "ray start" in words]
            cluster[key][at] += f" --num-cpus={num_cpus} --object-store-memory={OBJECT_STORE}"
    except (KeyError, ValueError, TypeError) as e:
        raise DpaError(f"{FILE}: cannot be filled in ({e})", "see tests/hosts/cluster.py") from e
    return cluster


@dataclass
class Cluster:
    """Ray on `machines`.

    Parameters
    ----------
    machines : Machines
    num_cpus : int
        Of each host, as Ray counts.
    with_ray : bool
        Use Ray's own commands; otherwise ``dpa cluster``, which runs them.
    """

    machines: Machines
    num_cpus: int = 1
    with_ray: bool = False

    @property
    def operator(self) -> Host:
        """Who gives the commands."""
        return self.machines.operator

    @property
    def head(self) -> Host:
        """The head."""
        return self.machines.head

    def write_file(self) -> None:
        """Fill in the project's file."""
        written = yaml.safe_load((REPOSITORY / FILE).read_text(encoding="utf-8"))
        plan = self.machines.plan
        head, *workers = (str(plan.of(name)) for name in self.machines.names)
        text = yaml.safe_dump(substituted(written, head, workers, self.num_cpus), sort_keys=False)
        self._written().write_text(text, encoding="utf-8")

    def _written(self) -> Path:
        return self.operator.layout.home / SOURCE / FILE

    def up(self) -> float:
        """Start everything; seconds until all workers were there."""
        began = time.monotonic()
        self.write_file()
        if self.with_ray:
            self._ray("get-auth-token", "--generate")
            self.operator.run("chmod", "600", str(Path.home() / ".ray" / "auth_token"))
            self._ray("up", "--yes", "--no-config-cache", FILE)
        else:
            self._dpa("up", FILE, "--restart")
        self.wait_for_nodes(len(self.machines.names))
        return time.monotonic() - began

    def start_missing(self) -> list[str]:
        """Start the workers that have not joined by the file's own commands, one after the other.

        Ray gives up for good on a worker whose start fails, as it does where the machine is too
        busy: its raylet waits 15 seconds for its agents.
        """
        file = yaml.safe_load(self._written().read_text(encoding="utf-8"))
        there = {self.name_of(node["NodeManagerAddress"]) for node in self.nodes()}
        missing = [name for name in self.machines.names[1:] if name not in there]
        for name in missing:
            before = f"export RAY_HEAD_IP={self.head.address}"
            words = "; ".join([before, *file["worker_start_ray_commands"]])
            self.ssh(name, f"bash --login -c {shlex.quote(words)}", seconds=UP_SECONDS)
        return missing

    def rejoin(self) -> str:
        """Wait until workers that were switched on again have joined; how they did, in words."""
        try:
            return f"by itself, after {self.wait_for_nodes(len(self.machines.names)):.0f} s"
        except DpaError:
            self.start_missing()
            self.wait_for_nodes(len(self.machines.names))
            return f"not by itself within {JOIN_SECONDS:g} s; started by the file's commands"

    def status(self) -> "subprocess.CompletedProcess[str]":
        """``dpa cluster status``, whatever it ends with."""
        return self.operator.attempt(f"{BIN}/dpa", "cluster", "status", FILE, env=UP,
                                     seconds=UP_SECONDS)  # fmt: skip

    def down(self) -> None:
        """Stop everything; ``ray down`` leaves the workers, which are then stopped by ssh."""
        if not self.with_ray:
            self._dpa("down", FILE, "--yes")
            return
        self._ray("down", "--yes", FILE)
        for name in self.machines.names[1:]:
            self.ssh(name, f"{SOURCE}/.venv/bin/ray stop")

    def _ray(self, *words: str) -> None:
        self.operator.run(f"{BIN}/ray", *words, seconds=UP_SECONDS, env=UP)

    def _dpa(self, *words: str) -> None:
        self.operator.run(f"{BIN}/dpa", "cluster", *words, seconds=UP_SECONDS, env=UP)

    def ssh(self, name: str, words: str, seconds: float = 60.0) -> str:
        """Run `words` on a host through ssh, as the operator; what it printed."""
        address = str(self.machines.plan.of(name))
        return self.operator.run(
            "ssh", "-i", str(Path.home() / ".ssh" / "key"), "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=accept-new", f"{USER}@{address}", words, seconds=seconds,
        ).stdout  # fmt: skip

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes that Ray counts as alive."""
        code = (
            "import json, logging, ray; ray.init(address='auto', log_to_driver=False, "
            "logging_level=logging.ERROR); "
            "print('\\n' + json.dumps([n for n in ray.nodes() if n['Alive']]))"
        )
        done = self.head.attempt(f"{BIN}/python", "-c", code, seconds=120.0, env=TOKEN)
        try:
            found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            return []
        return found

    def wait_for_nodes(self, count: int, seconds: float = JOIN_SECONDS) -> float:
        """Until Ray has `count` nodes; how long it took.

        Raises
        ------
        DpaError
            They do not come; with what the autoscaler wrote.
        """
        began = time.monotonic()
        while len(self.nodes()) != count:
            if time.monotonic() - began > seconds:
                log = "tail -n 40 /tmp/ray/session_latest/logs/monitor.*"
                raise DpaError(
                    f"{len(self.nodes())} nodes after {seconds:g} s, {count} wanted:\n"
                    + self.head.attempt("bash", "-c", log).stdout
                )
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    @contextmanager
    def dashboard(self) -> Iterator[str]:
        """``ray dashboard``: a tunnel from the operator to the head's loopback; its address."""
        log = self.machines.folder / "dashboard.log"
        tunnel = self.operator.start(f"{BIN}/ray", "dashboard", FILE, log=log, env=UP)
        try:
            wait_for_port(self.operator, self.operator, DASHBOARD_PORT, "127.0.0.1")
            yield f"http://127.0.0.1:{DASHBOARD_PORT}"
        finally:
            end(tunnel)

    @contextmanager
    def submitting(self, *words: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """Submit a job and follow it in the background, its output in `log`."""
        with ExitStack() as stack:
            if self.with_ray:
                address = stack.enter_context(self.dashboard())
                submit = [f"{BIN}/ray", "job", "submit", "--address", address]
            else:
                submit = [f"{BIN}/dpa", "cluster", "submit", FILE]
            job = self.operator.start(*submit, "--", *words, log=log, env=UP)
            stack.callback(end, job)
            yield job

    def name_of(self, address: str) -> str:
        """The host that has `address`."""
        plan = self.machines.plan
        return next(name for name in self.machines.names if str(plan.of(name)) == address)

    def outside(self, *parts: str) -> Path:
        """A path below the shared folder, as this process sees it."""
        return self.machines.shared.joinpath(*parts)
