"""Wrong, missing and old tokens at every surface; what listens against docs/security.md; TLS.

``python tests/security/surfaces.py`` runs as root on Linux, in network and process namespaces of
its own, so that the ports are the cluster file's own and nothing is left behind. It prints tables
for docs/measurements.md and fails when a surface lets in whom it should not.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from dpa.hosts.certificates import environment_of, make_certificates  # noqa: E402
from dpa.hosts.cluster_file import read_cluster_file, start_flags  # noqa: E402
from dpa.hosts.ports import port_of  # noqa: E402
from dpa.hosts.token import ensure_token  # noqa: E402
from tests.security.strangers import (  # noqa: E402
    PATIENT,
    Row,
    ask_local_services,
    ask_one_machine,
    ask_ray,
    ask_ray_tls,
)

ADDRESS = "10.99.0.1"
INSIDE = "--inside"
RAY = str(Path(sys.executable).parent / "ray")
START_SECONDS, LIMIT_SECONDS = 360.0, 2400.0
BINDINGS = {"0.0.0.0": "all", "::": "all", "*": "all", ADDRESS: "node", "127.0.0.1": "loopback"}


def main() -> int:
    """Outside: make the namespaces. Inside: everything else."""
    if INSIDE in sys.argv:
        return inside()
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        print("skipped: needs Linux, root and unshare (network namespaces)", file=sys.stderr)
        return 77
    words = ["unshare", "--net", "--pid", "--mount", "--ipc", "--fork", "--mount-proc"]
    words += ["--kill-child=SIGKILL", "bash", "-c"]  # bash buries what Ray leaves behind
    words += [f'"{sys.executable}" -u "{__file__}" {INSIDE} & wait $!']
    with tempfile.TemporaryDirectory(prefix="dpa-security.") as home:
        kept = {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8"}
        try:
            return subprocess.run(words, env=kept, timeout=LIMIT_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            print(f"not done within {LIMIT_SECONDS:g} s", file=sys.stderr)
            return 1


def inside() -> int:
    """All checks; the number of surfaces that failed decides the code."""
    prepare()
    home = Path.home()
    token = home / ".ray" / "auth_token"
    ensure_token(token)
    old = token.read_text(encoding="ascii")
    token.unlink()
    ensure_token(token)
    rows: list[Row] = ask_one_machine(home / "alone")
    wrong: list[str] = []
    with head({}) as flags:
        wrong += ports(flags)
        rows += ask_ray(ADDRESS, token.read_text(encoding="ascii"), old)
    rows += ask_local_services(home)
    nodes = make_certificates(home / "tls", [ADDRESS])
    with head(environment_of(nodes)):
        rows += ask_ray_tls(ADDRESS, nodes, make_certificates(home / "stranger", [ADDRESS]))
    print("\n| surface | no token | wrong token | old token | right token |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(row)
    wrong += [f"{row.surface}: not as documented" for row in rows if not row.good]
    for line in wrong:
        print(f"wrong: {line}")
    print(f"\n{len(rows)} surfaces, {len(wrong)} wrong")
    return 1 if wrong else 0


def prepare() -> None:
    """A network of one node, and a place for Ray's files."""
    for words in (
        "mount -t tmpfs tmpfs /dev/shm",
        "mount -t tmpfs tmpfs /tmp",
        "ip link set lo up",
        "ip link add dpa0 type veth peer name dpa1",
        "ip link set dpa1 up",
        f"ip address add {ADDRESS}/24 dev dpa0",
        "ip link set dpa0 up",
        "ip route add default dev dpa0",
    ):
        subprocess.run(words.split(), check=True)
    Path.home().mkdir(exist_ok=True)


@contextmanager
def head(encryption: Mapping[str, str]) -> Iterator[list[str]]:
    """The head by the start command of the file, in this namespace; yields the command's words."""
    start = start_flags(read_cluster_file(REPOSITORY / "cluster-onprem.yaml").raw[
        "head_start_ray_commands"
    ])  # fmt: skip
    words = [word for word in start if not word.startswith("--autoscaling-config")]
    words[0] = RAY
    words.append(f"--node-ip-address={ADDRESS}")
    words += ["--num-cpus=1", f"--object-store-memory={100 * 2**20}"]
    environ = {
        **os.environ,
        **encryption,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        **PATIENT,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        words, env=environ, capture_output=True, text=True, timeout=START_SECONDS, check=False
    )
    if done.returncode != 0:
        logs = "grep -hE 'Check failed| C | F |rror' /tmp/ray/session_latest/logs/*.{out,err,log}"
        subprocess.run(["bash", "-c", logs], check=False)
        raise SystemExit(f"ray start failed:\n{done.stderr[-2000:]}")
    try:
        yield words
    finally:
        subprocess.run(
            [RAY, "stop", "--force"], env=environ, capture_output=True, timeout=120, check=False
        )


def ports(flags: list[str]) -> list[str]:
    """Print what listens; what the documented table does not say, or says otherwise."""
    named = {word.partition("=")[0]: word.partition("=")[2] for word in flags if "port=" in word}
    wanted = {int(port) for flag, port in named.items() if "worker-port" not in flag}
    begun = time.monotonic()
    while True:  # agents come up after `ray start` has returned
        found = listening()
        if wanted <= {port for port, _, _ in found} or time.monotonic() - begun > 120.0:
            break
        time.sleep(0.5)
    print("| port | bound to | process | documented as |\n|---|---|---|---|")
    wrong = [f"port {port} does not listen" for port in wanted - {p for p, _, _ in found}]
    for port, bound, process in sorted(found):
        row = port_of(port)
        print(f"| {port} | {bound} | {process} | {row.what if row else '**nothing**'} |")
        if row is None:
            wrong.append(f"port {port} ({process}) listens and is not documented")
        elif bound not in (row.bound, "loopback"):
            wrong.append(f"port {port} is bound to {bound}, documented as {row.bound}")
    return wrong


def listening() -> set[tuple[int, str, str]]:
    """Port, what it is bound to, and the process, of all that listens here."""
    shown = subprocess.run(["ss", "-Htlnp"], capture_output=True, text=True, check=True).stdout
    found = set()
    for line in shown.splitlines():
        place = line.split()[3]
        address, _, port = place.rpartition(":")
        plain = address.strip("[]").removeprefix("::ffff:").partition("%")[0]
        bound = BINDINGS.get(plain, "loopback" if plain == "::1" else plain)
        name = line.partition('users:(("')[2].partition('"')[0] or "?"
        found.add((int(port), bound, name))
    return found


if __name__ == "__main__":
    sys.exit(main())
