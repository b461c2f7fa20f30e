"""Known weaknesses of the installed packages, and secrets in files or history: ``make audit``.

A package that could not be looked up counts as a failure: silence about it is no finding.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|gh[pousr]_[A-Za-z0-9]{30}"
    r"|xox[abp]-[0-9A-Za-z-]{20}|sk-[A-Za-z0-9]{40}|glpat-[0-9A-Za-z_-]{20}"
    r"|(?i:aws_secret_access_key)\s*[=:]\s*['\"]?[A-Za-z0-9/+]{40}"
    r"|eyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\."
)
LARGEST = 8 * 2**20  # bytes of a file that is read
OWN = ("dpa",)  # not of any index


def secrets_in(text: str) -> list[str]:
    """What looks like a secret, cut short so that a log does not spread it."""
    return [f"{match.group()[:12]}..." for match in SECRETS.finditer(text)]


def blobs() -> Iterator[tuple[str, bytes]]:
    """Every file of every commit, once: its name, and its content."""
    listed = _git("rev-list", "--objects", "--all").decode("utf-8", "replace")
    names = dict(line.partition(" ")[::2] for line in listed.splitlines() if " " in line)
    with subprocess.Popen(
        ["git", "cat-file", "--batch"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for identity, name in names.items():
            process.stdin.write(f"{identity}\n".encode())
            process.stdin.flush()
            _, kind, length = process.stdout.readline().split()
            content = process.stdout.read(int(length))
            process.stdout.read(1)
            if kind == b"blob" and len(content) <= LARGEST:
                yield f"{name} ({identity[:10]})", content


def scan(contents: Iterable[tuple[str, bytes]]) -> tuple[int, list[str]]:
    """How many were read, and a line for each secret."""
    count, found = 0, []
    for name, content in contents:
        count += 1
        for secret in secrets_in(content.decode("utf-8", "replace")):
            found.append(f"{name}: {secret}")
    return count, found


def audit(service: str) -> tuple[list[str], list[str], int]:
    """Weaknesses, packages nothing was learned about, and how many packages there are."""
    words = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    words += ["--skip-editable", "--timeout=20", f"--vulnerability-service={service}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return [], [f"all of them: pip-audit failed ({last})"], 0
    packages = [package for package in said["dependencies"] if package["name"] not in OWN]
    unknown = [
        f"{package['name']}: {package['skip_reason']}"
        for package in packages
        if "skip_reason" in package
    ]
    weak = [
        f"{package['name']} {package['version']}: {weakness['id']}, mended in "
        f"{', '.join(weakness['fix_versions']) or 'no version yet'}"
        for package in packages
        for weakness in package.get("vulns", [])
    ]
    return weak, unknown, len(packages)


def main() -> int:
    """Print what was found; the code is 1 for a weakness, a secret, or a gap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", default="pypi", choices=("pypi", "osv"), help="asked [pypi]")
    parser.add_argument(
        "--allow-unaudited", action="store_true", help="packages nothing is known about do not fail"
    )
    arguments = parser.parse_args()
    count, secrets = scan(blobs())
    print(f"secrets    {len(secrets)} in {count} files of all commits")
    print("".join(f"  {line}\n" for line in secrets), end="")
    weak, unknown, total = audit(arguments.service)
    print(f"packages   {total} installed, {total - len(unknown)} looked up, {len(weak)} weaknesses")
    print("".join(f"  {line}\n" for line in weak), end="")
    if unknown:
        print(f"not looked up: {len(unknown)}, such as {unknown[0]}")
        print(
            "  run it where https://pypi.org/pypi/NAME/VERSION/json answers (a mirror has no such "
            'data),\n  or ARGS="--service osv"; ARGS=--allow-unaudited lets it pass all the same'
        )
    failed = secrets or weak or (unknown and not arguments.allow_unaudited)
    return 1 if failed else 0


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
