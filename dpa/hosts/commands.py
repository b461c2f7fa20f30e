"""``dpa cluster``: up, status, submit, logs, down, certificates."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpa.clock import SystemClock
from dpa.errors import ConfigError
from dpa.hosts import jobs, steps
from dpa.hosts.certificates import DAYS, make_certificates
from dpa.hosts.checks import MOST_SKEW_SECONDS
from dpa.hosts.cluster_file import check_with_ray, read_cluster_file
from dpa.hosts.problem import HostError, ProblemFound, summary
from dpa.hosts.ray_commands import rendered, write_rendered
from dpa.hosts.source import source_of
from dpa.hosts.ssh import ssh_of
from dpa.hosts.token import ensure_token, read_token, token_path
from dpa.hosts.tunnel import tunnel
from dpa.options import OneLineParser
from dpa.text import columns

Add = Callable[..., OneLineParser]
_TOKEN_WORDS = {
    "made": "made a token",
    "mended": "others could read the token until now; only you can from here on",
}


def add_cluster_commands(commands: Any, add_command: Add) -> None:
    """Add ``cluster`` to `commands`.

    Parameters
    ----------
    commands : subparsers of the ``dpa`` parser
    add_command : callable
        :func:`dpa.cli.add_command`.
    """
    cluster = commands.add_parser(
        "cluster", help="start, ask, use and stop the machines of a cluster file"
    )
    inner = cluster.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, words: str, *examples: str) -> OneLineParser:
        typed = (f"cluster {name} {example}".rstrip() for example in examples)
        parser = add_command(inner, name, f"dpa.hosts.commands:{name}_command", words, *typed)
        parser.add_argument("file", metavar="FILE", type=Path, help="as 'ray up' takes it")
        return parser

    up = add(
        "up",
        "check every machine, then start what does not run; again after every change",
        "cluster-onprem.yaml",
        "cluster-onprem.yaml --dry-run",
        "cluster.yaml --verbose",
    )
    up.add_argument("--dry-run", action="store_true", help="check, and say what would be done")
    up.add_argument(
        "--restart", action="store_true", help="even though jobs run, which a restart of Ray ends"
    )
    up.add_argument(
        "--tls",
        type=Path,
        metavar="DIR",
        help="encrypt between the nodes with what 'dpa cluster certificates' made there",
    )
    up.add_argument(
        "--join-seconds",
        type=float,
        default=steps.JOIN_SECONDS,
        metavar="S",
        help=f"patience until all workers have joined [{steps.JOIN_SECONDS:g}]",
    )
    status = add(
        "status",
        "nodes, versions, clocks and jobs; code 1 when something is wrong",
        "cluster-onprem.yaml",
        "cluster-onprem.yaml --json",
    )
    status.add_argument("--json", action="store_true", help="for programs")
    for parser in (up, status):
        parser.add_argument(
            "--most-skew",
            type=float,
            default=MOST_SKEW_SECONDS,
            metavar="S",
            help=f"seconds that clocks may differ [{MOST_SKEW_SECONDS:g}]",
        )
    submit = add(
        "submit",
        "run a command on the head as a job and follow it; Ctrl-C leaves it running",
        "cluster-onprem.yaml -- python dpa-source/tune/grid.py --address auto "
        "--data /srv/dpa/shards --storage /srv/dpa/runs",
        "cluster-onprem.yaml --no-wait -- dpa runs list",
    )
    submit.add_argument("--no-wait", action="store_true", help="do not follow it")
    submit.add_argument("--job", metavar="NAME", help="its name [dpa- and eight digits]")
    submit.add_argument(
        "--working-dir", metavar="DIR", help="folder that travels with the job, and that it runs in"
    )
    submit.add_argument(
        "entrypoint", nargs="+", metavar="COMMAND", help="after --, with its own options"
    )
    submit.usage = "%(prog)s [options] FILE -- COMMAND ..."
    logs = add(
        "logs",
        "what a job wrote; without a job, which there are",
        "cluster-onprem.yaml",
        "cluster-onprem.yaml dpa-1a2b3c4d --follow",
        "cluster-onprem.yaml dpa-1a2b3c4d --stop",
    )
    logs.add_argument("job", metavar="JOB", nargs="?")
    logs.add_argument("--follow", action="store_true", help="go on until the job ends")
    logs.add_argument("--stop", action="store_true", help="end the job instead")
    down = add("down", "stop Ray on every machine; a cloud's machines go", "cluster-onprem.yaml")
    down.add_argument("--yes", action="store_true", help="do not ask")
    for parser in (up, down):
        parser.add_argument("--verbose", action="store_true", help="all that Ray says")
    certificates = add(
        "certificates",
        "make an authority and a certificate for the nodes, for encryption between them",
        "cluster-onprem.yaml --out ~/dpa-tls",
    )
    certificates.add_argument("--out", type=Path, required=True, metavar="DIR")
    certificates.add_argument(
        "--name", action="append", default=[], metavar="NAME", help="another address or name"
    )
    certificates.add_argument(
        "--days", type=int, default=DAYS, metavar="N", help=f"for how long [{DAYS}]"
    )


def up_command(arguments: argparse.Namespace) -> int:
    """Check, start, and wait for the workers."""
    site = _site(arguments.file)
    check_with_ray(site.cluster)
    if not arguments.dry_run:
        _ensure_token()
    print(f"cluster    {site.cluster.name}\nsource     {site.source.words}", flush=True)
    state = steps.check_machines(site, arguments.most_skew, _tell)
    _raise_problems(site, state)
    if site.ssh is not None or site.rendered.exists():
        steps.ask_head(site, state)
    _raise_problems(site, state)
    text = rendered(site.cluster, site.source, site.folder, arguments.tls)
    different = steps.differences(site, state, text) if state.is_up else []
    if state.is_up and not different and not arguments.restart:
        print("it runs already, as the file says; nothing to do")
        return 0
    if state.is_up:
        for problem in different:
            print(f"  {problem}")
        if state.jobs and not arguments.restart:
            raise HostError(
                f"{len(state.jobs)} jobs run ({', '.join(state.jobs)}), and starting Ray anew "
                "ends them",
                "wait for them, or give --restart",
            )
    if arguments.dry_run:
        print(f"would run  ray up {site.rendered}")
        return 0
    write_rendered(text, site.source, site.folder)
    print(f"ray up     its output goes to {site.folder / 'up.log'}", flush=True)
    try:
        steps.start(site, _tell, arguments.verbose)
        steps.await_workers(site, arguments.join_seconds, _tell)
        steps.remember(site, text)
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: {site.again}", flush=True)
        raise
    except ProblemFound as e:
        raise e.problem.error() from e
    print(f"up         {len(site.cluster.hosts) or 'the'} machines\n{_next(arguments.file)}")
    return 0


def status_command(arguments: argparse.Namespace) -> int:
    """Ask every machine; code 1 when something is wrong."""
    site = _site(arguments.file)
    state = steps.status(site, arguments.most_skew)
    if arguments.json:
        print(json.dumps(steps.as_json(site, state), indent=2))
        return 1 if state.problems else 0
    print(f"cluster    {site.cluster.name}\nsource     {site.source.words}")
    if state.nodes:
        print("\n".join(["", *_table(site, state)]))
    if state.alive is not None:
        print(f"\nalive      {', '.join(sorted(state.alive))}")
        print(f"jobs       {', '.join(state.jobs) or 'none'}")
    for problem in state.problems:
        print(f"problem    {problem}")
    return 1 if state.problems else 0


def submit_command(arguments: argparse.Namespace) -> int:
    """Send a job and follow it."""
    entrypoint = jobs.check_entrypoint(arguments.entrypoint)
    site = _site(arguments.file)
    job = arguments.job or jobs.new_job_name()
    options = ["--working-dir", arguments.working_dir] if arguments.working_dir else []
    environ = site.environ
    sent = False
    try:
        with tunnel(site.cluster, site.rendered, site.ssh, environ, site.clock) as url:
            _check_free(jobs.list_jobs(url, read_token()), job)
            print(f"job        {job}", flush=True)
            sent = True
            code = jobs.submit(url, job, entrypoint, options, environ, not arguments.no_wait)
    except KeyboardInterrupt:
        if sent:
            print("\n" + jobs.going_on(str(arguments.file), job), flush=True)
        raise
    except ProblemFound as e:
        raise e.problem.error() from e
    if arguments.no_wait and code == 0:
        print(jobs.going_on(str(arguments.file), job))
    return code


def logs_command(arguments: argparse.Namespace) -> int:
    """Show, follow or stop a job; or list all."""
    if arguments.job is None and (arguments.follow or arguments.stop):
        raise ConfigError(
            "JOB: is missing", f"see which there are: dpa cluster logs {arguments.file}"
        )
    site = _site(arguments.file)
    environ = site.environ
    try:
        with tunnel(site.cluster, site.rendered, site.ssh, environ, site.clock) as url:
            known = jobs.list_jobs(url, read_token())
            if arguments.job is None:
                print(_job_table(known))
                return 0
            if arguments.job not in map(jobs.job_name, known):
                raise ConfigError(
                    f"there is no job {arguments.job}",
                    f"see which there are: dpa cluster logs {arguments.file}",
                )
            if arguments.stop:
                return jobs.stop(url, arguments.job, environ)
            return jobs.show_logs(url, arguments.job, environ, arguments.follow)
    except ProblemFound as e:
        raise e.problem.error() from e


def down_command(arguments: argparse.Namespace) -> int:
    """Stop everything, after asking."""
    site = _site(arguments.file)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise ConfigError("down asks first, and there is no terminal", "give --yes")
        print(f"stop cluster {site.cluster.name}? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ConfigError(f"cluster {site.cluster.name} is left as it is")
    site.folder.mkdir(parents=True, exist_ok=True)
    problems = steps.down(site, _tell, arguments.verbose)
    if problems:
        if len(problems) > 1:
            print("\n".join(map(str, problems)), file=sys.stderr)
        raise summary(problems, f"dpa cluster down {arguments.file}")
    print("down")
    return 0


def certificates_command(arguments: argparse.Namespace) -> int:
    """Make certificates."""
    cluster = read_cluster_file(arguments.file)
    out = arguments.out.expanduser()
    nodes = make_certificates(out, [*cluster.hosts, *arguments.name], arguments.days)
    print(f"authority  {out} (its key stays here; whoever has it can join)\nnodes      {nodes}")
    print(f"use them   dpa cluster up {arguments.file} --tls {arguments.out}")
    return 0


def state_folder(name: str) -> Path:
    """Where this machine keeps what belongs to a cluster."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "dpa" / "clusters" / name


def _site(file: Path) -> steps.Site:
    cluster = read_cluster_file(file)
    folder = state_folder(cluster.name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ssh = ssh_of(cluster, folder) if cluster.is_local else None
    return steps.Site(cluster, folder, ssh, source_of(cluster), SystemClock())


def _ensure_token() -> None:
    done = ensure_token()
    if done in _TOKEN_WORDS:
        print(f"token      {_TOKEN_WORDS[done]} ({token_path()})", flush=True)


def _raise_problems(site: steps.Site, state: steps.State) -> None:
    if not state.problems:
        return
    if len(state.problems) > 1:
        print("\n".join(map(str, state.problems)), file=sys.stderr)
    raise summary(state.problems, site.again)


def _check_free(known: list[Any], job: str) -> None:
    if any(jobs.job_name(each) == job for each in known):
        raise ConfigError(f"--job {job}: there is such a job", "give another name")


def _table(site: steps.Site, state: steps.State) -> list[str]:
    header = ("node", "role", "Python", "Ray", "dpa", "commit", "source", "clock", "runs")
    rows = []
    for host, node in state.nodes.items():
        stamp = node.stamp or {}
        commit = str(stamp.get("commit") or "-")[:8] + ("+" if stamp.get("changed") else "")
        rows.append(
            (
                host,
                "head" if host == site.cluster.head else "worker",
                node.venv_python or "-",
                node.ray or "-",
                str(stamp.get("version") or "-"),
                commit,
                (node.source or "-")[:8],
                f"{node.ahead_seconds:+.2f} s",
                ", ".join(sorted(node.running)) or "-",
            )
        )
    return columns(header, rows).splitlines()


def _job_table(known: list[Any]) -> str:
    rows = [(jobs.job_name(j), str(j.get("status")), str(j.get("entrypoint", ""))) for j in known]
    return columns(("job", "status", "command"), rows)


def _next(file: Path) -> str:
    return (
        f"  status   dpa cluster status {file}\n"
        f"  submit   dpa cluster submit {file} -- python dpa-source/tune/grid.py --address auto\n"
        f"  stop     dpa cluster down {file}"
    )


def _tell(words: str) -> None:
    print(words, flush=True)
