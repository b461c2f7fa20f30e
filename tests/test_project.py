"""The frame of the project: what a stranger types, installs and reads about it holds."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dpa
from tests.security.audit import secrets_in

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(t for e in EXTRAS.values() for t in e)]
]
ROOMS = sorted(path.parent for path in (REPOSITORY / "dpa").glob("*/**/__init__.py"))


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: nothing tells tracked files from others")
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", read("Makefile"), flags=re.MULTILINE))


def test_the_version_is_the_installed_one_and_has_its_section_in_the_changelog() -> None:
    assert metadata.version("dpa") == dpa.__version__
    assert f"\n## {dpa.__version__}\n" in read("CHANGELOG.md")


def test_every_requirement_has_a_tested_version_within_its_bounds() -> None:
    pinned = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for line in read("constraints.txt").splitlines()
        if line and not line.startswith("#")
        for pin in [Requirement(line)]
    }
    for requirement in REQUIREMENTS:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_requirements_are_floors_and_only_torch_has_a_ceiling() -> None:
    for requirement in REQUIREMENTS:
        operators = {part.operator for part in requirement.specifier}
        assert operators == ({">=", "<"} if requirement.name == "torch" else {">="}), requirement


def test_every_requirement_is_explained() -> None:
    rows = [line for line in read("docs/dependencies.md").splitlines() if line.startswith("|")]
    explained = set(re.findall(r"[A-Za-z][\w-]+", " ".join(rows)))
    assert {requirement.name for requirement in REQUIREMENTS} <= explained


def test_every_imported_package_is_a_requirement() -> None:
    declared = {canonicalize_name(r.name) for r in map(Requirement, PROJECT["dependencies"])}
    declared |= {
        canonicalize_name(Requirement(text).name) for text in EXTRAS["sample"] + EXTRAS["mcp"]
    }
    distributions = metadata.packages_distributions()
    own = {"dpa", *(path.stem for path in (REPOSITORY / "tune").glob("*.py"))}
    for path in [*(REPOSITORY / "dpa").rglob("*.py"), *(REPOSITORY / "tune").glob("*.py")]:
        for package in imported_packages(path) - own - sys.stdlib_module_names:
            owners = {canonicalize_name(name) for name in distributions.get(package, [])}
            assert owners & declared, f"{path}: {package} is not in pyproject.toml"


def imported_packages(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in read("README.md")
    assert read(".ci/run").rstrip().endswith("\nmake test")
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


def test_the_makefile_offers_what_its_help_lists() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {"install", "grid", "horizons", "test", "bench"} <= makefile_targets()
    for target in makefile_targets():
        assert re.search(rf"^{target}\s+\S", shown, flags=re.MULTILINE), target


def test_an_old_python_is_refused_with_one_clear_line(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("make", "tail"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    old = tools / "python3"
    old.write_text(
        '#!/bin/bash\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n',
        encoding="utf-8",
    )
    old.chmod(0o755)
    done = make("install", tmp_path / "venv", {"PATH": str(tools)})
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert first.startswith("dpa needs Python 3.11 or newer; found Python 3.9.2; install one")
    assert not (tmp_path / "venv").exists()


def test_nothing_is_installed_twice_until_the_requirements_change(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    assert make("install", venv, {}, "--question").returncode == 1
    stamp = venv / ".installed-sample"
    stamp.touch()
    assert make("install", venv, {}, "--question").returncode == 0
    requirements_changed = (REPOSITORY / "pyproject.toml").stat().st_mtime
    os.utime(stamp, (requirements_changed - 10, requirements_changed - 10))
    assert make("install", venv, {}, "--question").returncode == 1


def test_several_extras_are_one_installation(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    planned = make("install", venv, {}, "--dry-run", "EXTRAS=sample,aws").stdout
    assert "--editable '.[sample,aws]'" in planned
    assert "--constraint constraints.txt" in planned


def make(
    target: str, venv: Path, environment: dict[str, str], *flags: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", target, f"VENV={venv}", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "", **environment},
    )


def test_extras_named_anywhere_exist() -> None:
    pages = ["README.md", "Makefile", "cluster.yaml", "cluster-onprem.yaml"]
    pages += [f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")]
    named = {
        extra
        for page in pages
        for group in re.findall(r"EXTRAS=([a-z,-]+)", read(page))
        for extra in group.strip(",").split(",")
    }
    assert {"sample", "aws", "dev"} <= named <= set(EXTRAS)


def test_no_tracked_file_holds_a_secret() -> None:
    for path in tracked_files():
        assert secrets_in(path.read_bytes().decode("utf-8", errors="replace")) == [], path


def test_no_tracked_file_names_a_folder_of_somebodys_machine() -> None:
    homes = re.compile(r"(?<![\w.}])/(?:home/(?!ubuntu\b)|root/|Users/)\w")
    here = [str(folder) for folder in (REPOSITORY, REPOSITORY.parent) if len(folder.parts) > 2]
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found = homes.search(text)
        assert found is None, f"{path}: {found}"
        assert not any(folder in text for folder in here), path


def test_imports_point_one_way() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [str(linter), "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def name_of(room: Path) -> str:
    return room.relative_to(REPOSITORY).as_posix()


def architecture_section(title: str) -> str:
    text = read("docs/architecture.md")
    found = re.search(rf"^### `{re.escape(title)}`(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"docs/architecture.md has no section `{title}`"
    return found.group(1)


@pytest.mark.parametrize("room", ROOMS, ids=name_of)
def test_the_architecture_names_every_module_of_a_room_and_no_other(room: Path) -> None:
    named = set(re.findall(r"^\| `(\w+\.py)` \|", architecture_section(f"{name_of(room)}/"), re.M))
    assert named == {path.name for path in room.glob("*.py") if path.name != "__init__.py"}


@pytest.mark.parametrize("folder", ["dpa", "tune"])
def test_the_architecture_names_the_modules_beside_the_rooms(folder: str) -> None:
    named = set(re.findall(r"^\| `(\w+\.py)` \|", architecture_section(f"{folder}/"), re.M))
    there = {path.name for path in (REPOSITORY / folder).glob("*.py")}
    assert named == there - {"__init__.py"}


def test_the_picture_shows_every_room() -> None:
    picture = read("docs/architecture.md").split("```")[1]
    for room in ROOMS:
        if room.parent.name == "dpa":
            assert name_of(room) in picture
