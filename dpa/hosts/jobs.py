"""Jobs on a running cluster, by ``ray job`` through a tunnel."""

import json
import secrets
import shlex
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dpa.errors import ConfigError
from dpa.hosts.problem import HostError
from dpa.hosts.ray_commands import end_group

RUNNING: Final = frozenset({"PENDING", "RUNNING"})
DONE: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_LASTING: Final = {"trader": "the trader", "SERVE_CONTROLLER_ACTOR": "Serve"}  # by their actors
_SECONDS: Final = 20.0
# Never through a proxy, which would be given the token: the address is this end of a tunnel.
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def new_job_name() -> str:
    """A name for a job, so that it is known before it is sent."""
    return f"dpa-{secrets.token_hex(4)}"


def submit(
    url: str,
    job: str,
    entrypoint: Sequence[str],
    options: Sequence[str],
    environ: Mapping[str, str],
    follow: bool,
) -> int:
    """``ray job submit``; its exit code: 0 when the job succeeded, or was taken."""
    words = ["ray", "job", "submit", "--address", url, "--submission-id", job, *options]
    return _passed_on([*words, *([] if follow else ["--no-wait"]), "--", *entrypoint], environ)


def show_logs(url: str, job: str, environ: Mapping[str, str], follow: bool) -> int:
    """``ray job logs``; its exit code."""
    words = ["ray", "job", "logs", "--address", url, *(["--follow"] if follow else []), job]
    return _passed_on(words, environ)


def stop(url: str, job: str, environ: Mapping[str, str]) -> int:
    """``ray job stop``; its exit code."""
    return _passed_on(["ray", "job", "stop", "--address", url, job], environ)


def _passed_on(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run with our own terminal; Ctrl-C ends what follows the job, never the job."""
    plain = [] if sys.stdout.isatty() else ["--log-color", "false"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen(
            [*words[:3], *plain, *words[3:]],
            stdin=subprocess.DEVNULL,
            stderr=complaints,
            env=dict(environ),
            text=True,
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            end_group(process, seconds=3.0)
            raise
        complaints.seek(0)
        said = complaints.read()
    if code != 0 and "Traceback" in said:
        last = said.strip().splitlines()[-1]
        raise HostError(f"{' '.join(words[:3])} failed: {last}", "see dpa cluster status")
    sys.stderr.write(said)
    return code


def list_jobs(url: str, token: str, opener: Callable[..., Any] | None = None) -> list[Any]:
    """Jobs the cluster knows, oldest first.

    Raises
    ------
    HostError
        When the head refuses the token or does not answer.
    """
    request = urllib.request.Request(f"{url}/api/jobs/")
    request.add_header("Authorization", f"Bearer {token}")
    return sorted(_answer(request, opener), key=lambda job: job.get("start_time") or 0)


def live_nodes(url: str, token: str) -> list[str]:
    """Addresses of the nodes that the head counts as alive."""
    request = urllib.request.Request(f"{url}/api/v0/nodes?limit=1000&detail=false")
    request.add_header("Authorization", f"Bearer {token}")
    said = _answer(request, None)
    nodes = said["data"]["result"]["result"]
    return [node["node_ip"] for node in nodes if node["state"] == "ALIVE"]


def lasting_actors(url: str, token: str) -> list[str]:
    """What lives on although the job that began it has ended: the trader, and what Serve serves."""
    alive = "filter_keys=state&filter_predicates=%21%3D&filter_values=DEAD"
    request = urllib.request.Request(f"{url}/api/v0/actors?limit=1000&detail=false&{alive}")
    request.add_header("Authorization", f"Bearer {token}")
    actors = _answer(request, None)["data"]["result"]["result"]
    names = {actor["name"] for actor in actors}
    return [words for name, words in _LASTING.items() if name in names]


def _answer(request: urllib.request.Request, opener: Callable[..., Any] | None) -> Any:
    try:
        with (opener or _DIRECT.open)(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            if e.code in (401, 403):
                raise HostError(
                    "the head refuses this machine's token",
                    "copy the token of the machine that started the cluster, or start it anew",
                ) from e
            raise HostError(
                f"the head answers {e.code} {e.reason} to {request.selector}",
                "is it the Ray version of this machine?",
            ) from e
    except (OSError, ValueError) as e:
        raise HostError(
            f"Ray's dashboard does not answer on the head ({e})",
            "see whether Ray runs there: dpa cluster status",
        ) from e


def running_jobs(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of those that have not ended."""
    return [job_name(job) for job in jobs if job.get("status") in RUNNING]


def job_name(job: Mapping[str, Any]) -> str:
    """As ``ray job`` takes it."""
    return str(job.get("submission_id") or job.get("job_id") or "?")


def check_entrypoint(words: Sequence[str]) -> list[str]:
    """What is to be run, without the ``--`` before it."""
    entrypoint = list(words[1:] if words[:1] == ["--"] else words)
    if not entrypoint:
        raise ConfigError(
            "there is nothing to run", "put it after --: -- python dpa-source/tune/grid.py"
        )
    return entrypoint


def going_on(file: str, job: str) -> str:
    """How to go on with a job that one no longer follows."""
    quoted = shlex.quote(file)
    return (
        f"job {job} goes on\n"
        f"  follow it  dpa cluster logs {quoted} {job} --follow\n"
        f"  stop it    dpa cluster logs {quoted} {job} --stop"
    )
