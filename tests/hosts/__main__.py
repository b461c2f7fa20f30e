"""A cluster on one machine, and what it survives: ``python -m tests.hosts --help``."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol

from dpa.errors import DpaError, UserError
from tests.hosts.cluster import Cluster
from tests.hosts.facts import Facts, table
from tests.hosts.grid import GridScenario
from tests.hosts.machines import ROOT, Machines, clean
from tests.hosts.serving import ServingScenario
from tests.hosts.trading import TradingScenario

HOSTS = ("head", "worker1", "worker2")
SCENARIOS = ("grid", "serving", "trading")
ATTEMPTS = 4  # to bring it up
EXAMPLES = """examples:
  sudo make cluster-test
  sudo make cluster-test ARGS="--only grid"
  sudo make cluster-test ARGS="--only trading --keep"
  sudo make cluster-test ARGS=--clean
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="make cluster-test",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Builds a head and two workers as namespaces of this machine, starts Ray on\n"
        "them with cluster-onprem.yaml, and takes workers away in the middle of a grid,\n"
        "of serving, and of trading. Needs Linux and root; leaves nothing behind.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--only", choices=SCENARIOS, help="one of the three [all]")
    parser.add_argument(
        "--ray", action="store_true", help="with Ray's own commands instead of 'dpa cluster'"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help=f"leave logs and results in {ROOT} until the next run; the hosts go",
    )
    parser.add_argument(
        "--clean", action="store_true", help="remove what runs left that were killed, and end"
    )
    return parser


class Scenario(Protocol):
    """What is done to a cluster, and what was found."""

    facts: Facts

    def run(self) -> Facts: ...


class Progress:
    """Lines with the seconds since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, words: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {words}", flush=True)


def prove(only: str | None, keep: bool, with_ray: bool, say: Callable[[str], None]) -> list[Facts]:
    """Everything between the first namespace and the last table.

    Raises
    ------
    DpaError
        A step failed; what was found until then is said before.
    """
    for folder in clean():
        say(f"cleaned what {folder.name} had left")
    found: list[Facts] = []
    with Machines(HOSTS, keep=keep) as machines:
        say(f"{len(HOSTS)} hosts in {machines.plan.network}; {machines.folder}")
        cluster = Cluster(machines, with_ray=with_ray)
        try:
            found.append(start(cluster, say))
            for name in SCENARIOS if only is None else (only,):
                found.append(run(name, cluster, say))
            found.append(stop(cluster, say))
        except BaseException:
            print("\n" + table(found) + "\n", flush=True)
            if keep:
                say(f"logs are in {machines.folder}")
            raise
    if keep:
        say(f"logs and results are in {machines.folder}")
    else:
        gone = not machines.folder.exists()
        found[-1].promised("left behind", "nothing" if gone else machines.folder, gone)
    return found


def start(cluster: Cluster, say: Callable[[str], None]) -> Facts:
    """Ray on every host."""
    command = "ray up" if cluster.with_ray else "dpa cluster up"
    facts = Facts(f"{command} cluster-onprem.yaml")
    say(command)
    seconds, by_hand = bring_up(cluster, say)
    facts.measured("cores of this machine, load", f"{os.cpu_count()}, {os.getloadavg()[0]:.1f}")
    facts.promised(f"head and {len(HOSTS) - 1} workers are up", f"after {seconds:.0f} s", True)
    if by_hand:
        facts.measured("given up by Ray, started by the file's commands", ", ".join(by_hand))
    if not cluster.with_ray and not by_hand:
        done = cluster.status()
        words = (done.stdout + done.stderr).strip().splitlines()[-1]
        facts.promised("dpa cluster status ends with 0", f"{done.returncode}: {words}",
                       done.returncode == 0)  # fmt: skip
    used = ", ".join(f"{name} {host.memory_mib():.0f}"
                     for name, host in cluster.machines.hosts.items())  # fmt: skip
    facts.measured("memory of an idle host, MiB", used)
    return facts


def bring_up(cluster: Cluster, say: Callable[[str], None]) -> tuple[float, list[str]]:
    """Seconds until all were there, and workers that had to be started by hand."""
    began = time.monotonic()
    by_hand: list[str] = []
    for attempt in range(ATTEMPTS):
        try:
            if not cluster.nodes():
                cluster.up()
            else:
                by_hand += cluster.start_missing()
                cluster.wait_for_nodes(len(HOSTS))
            break
        except DpaError as e:
            if attempt + 1 == ATTEMPTS:
                raise
            say(f"again, since {str(e).strip().splitlines()[-1][:200]}")
    return time.monotonic() - began, by_hand


def run(name: str, cluster: Cluster, say: Callable[[str], None]) -> Facts:
    """One scenario; its facts are said even where it fails."""
    kinds: dict[str, Callable[[Cluster, Callable[[str], None]], Scenario]]
    kinds = {"grid": GridScenario, "serving": ServingScenario, "trading": TradingScenario}
    scenario = kinds[name](cluster, say)
    try:
        return scenario.run()
    except BaseException:
        print("\n" + table([scenario.facts]) + "\n", flush=True)
        raise


def stop(cluster: Cluster, say: Callable[[str], None]) -> Facts:
    """Ray gone from every host."""
    command = "ray down" if cluster.with_ray else "dpa cluster down"
    facts = Facts(command)
    say(command)
    cluster.down()
    left = {}
    for name, host in cluster.machines.hosts.items():
        if titles := [t for t in host.titles() if "/ray/" in t or t.startswith("ray::")]:
            left[name] = titles
    facts.promised("processes of Ray left on the hosts", left or "none", not left)
    return facts


def interrupted(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run the way Ctrl-C does."""
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 1 where a promise is broken, 2 where it cannot run."""
    arguments = build_parser().parse_args(argv)
    say = Progress()
    signal.signal(signal.SIGTERM, interrupted)
    try:
        if arguments.clean:
            for folder in clean():
                say(f"removed {folder}")
            return 0
        found = prove(arguments.only, arguments.keep, arguments.ray, say)
    except KeyboardInterrupt:
        say("interrupted; everything is taken away")
        return 130
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except DpaError as e:
        say(f"failed: {e}")
        return 1
    print("\n" + table(found), flush=True)
    broken = [fact for facts in found for fact in facts.broken]
    print(f"\n{len(broken)} promises broken" if broken else "\nevery promise holds", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
