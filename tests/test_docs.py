"""Commands in the README and docs exist as written, the marked ones run, and links lead somewhere.

A block after the comment ``<!-- run -->`` is run as it stands; the blocks of one page share a
scratch folder, in order, with the page's Python blocks that begin with a file's name as files in
it. Everywhere else the command line is parsed by the program it calls.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from ray.scripts.scripts import cli as ray_cli

from dpa.cli import build_parser
from dpa.errors import UserError
from dpa.research.grid import grid_points, load_grid

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RUN_MARK = "<!-- run -->"
RUN_SECONDS = 400
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SCRIPT = re.compile(r"\A# (\w+\.py)\n")
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
JUDGED = ("dpa", "python", "make", "ray")
Parsers = dict[str, argparse.ArgumentParser]  # of the programs in tune/, by file name


@dataclass(frozen=True)
class Block:
    """One fenced block of commands."""

    page: Path
    line: int
    run: bool
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        if fence.group(1) in ("console", "bash"):
            lines = fence.group(2).replace("\\\n", " ").splitlines()
            if fence.group(1) == "bash":  # a script: every line is a command
                lines = [f"$ {line}" for line in lines if line and not line.startswith("#")]
            commands = tuple(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
            before = text[: fence.start()]
            marked = before.rstrip().endswith(RUN_MARK)
            found.append(Block(page, before.count("\n") + 1, marked, commands))
    return found


def python_of(page: Path) -> list[str]:
    """Python blocks of a page."""
    fences = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [fence.group(2) for fence in fences if fence.group(1) == "python"]


def scripts_of(page: Path) -> dict[str, str]:
    """Python blocks whose first line names a file, by that name."""
    named = ((SCRIPT.match(source), source) for source in python_of(page))
    return {match.group(1): source for match, source in named if match is not None}


def spans_of(page: Path) -> list[str]:
    """Commands of dpa within sentences, such as ``dpa runs report RUN``."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    spans = [" ".join(span.split()) for span in SPAN.findall(text)]
    return [span for span in spans if re.match(r"(dpa|python \S*tune/\S+)( |$)", span)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SPANS = sorted({(page.name, span) for page in PAGES for span in spans_of(page)})
RUN_PAGES = sorted({block.page for block in BLOCKS if block.run})


def words_of(command: str) -> Iterator[list[str]]:
    """The words of each simple command; assignments before it and redirections left out."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if skip:
            skip = False
        elif word in (";", "|", "&&", "||"):
            while words and re.match(r"^[A-Za-z_]\w*=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        elif word in (">", ">>", "<"):
            skip = True
        else:
            words.append(word)


def load_program(name: str) -> Any:
    """A file of tune/ as a module."""
    folder = REPOSITORY / "tune"
    module_name = f"{name.removesuffix('.py')}_of_docs"
    specification = importlib.util.spec_from_file_location(module_name, folder / name)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(folder))
    sys.modules[module_name] = module
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.fixture(scope="module")
def parsers() -> Parsers:
    """The parsers of the programs in tune/."""
    return {name: load_program(name).build_parser() for name in ("grid.py", "horizons.py")}


def judge_python(words: list[str], page: Path, parsers: Parsers) -> None:
    script = words[1]
    folder, _, name = script.rpartition("/")
    if folder.endswith("tune") and name in parsers:
        parsers[name].parse_args(words[2:])
    elif script in ("serve/run.py", "serve/paper.py"):
        program = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        program.build_parser().parse_args(words[2:])
    elif script.startswith("tests/benchmarks/"):
        source = (REPOSITORY / script).read_text(encoding="utf-8")
        for flag in (word for word in words[2:] if word.startswith("--")):
            assert f'"{flag}"' in source, f"{script} has no {flag}"
    elif script == "-m":
        assert importlib.util.find_spec(words[2]) is not None
    elif script == "-c":
        compile(words[2], "<docs>", "exec")
    else:
        assert script in scripts_of(page), f"no such script: {script}"


def judge_make(words: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in words[1:] if "=" not in word]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"no target {target}"
    for name in (word.partition("=")[0] for word in words[1:] if "=" in word):
        assert re.search(rf"^{name} \?=", makefile, flags=re.MULTILINE), f"no variable {name}"


def judge_ray(words: list[str]) -> list[str]:
    """Parse a command of Ray with Ray's own parser; what it would run on the cluster."""
    command: click.Command = ray_cli
    rest = words[1:]
    while isinstance(command, click.Group):
        name, rest = rest[0], rest[1:]
        command = command.commands[name]
    options, _, entrypoint = " ".join(map(shlex.quote, rest)).partition(" -- ")
    inner = shlex.split(entrypoint)
    command.make_context(words[1], [*shlex.split(options), *inner[:1]])
    return inner


def judge(words: list[str], page: Path, parsers: Parsers) -> None:
    judges: dict[str, Callable[[], Any]] = {
        "dpa": lambda: build_parser().parse_args(words[1:]),
        "python": lambda: judge_python(words, page, parsers),
        "make": lambda: judge_make(words),
        "ray": lambda: judge_ray(words),
    }
    inner = judges[words[0]]()
    if words[0] == "ray" and inner:
        judge(inner, page, parsers)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_command_line_is_one_the_program_accepts(block: Block, parsers: Parsers) -> None:
    for command in block.commands:
        for words in words_of(command):
            if words[0] in JUDGED:
                try:
                    judge(words, block.page, parsers)
                except (UserError, click.ClickException, KeyError) as error:
                    pytest.fail(f"{block}: {command}\n{error}")


def judge_span(span: str, parsers: Parsers) -> str:
    """What is wrong with a command that may leave out what it needs to run; empty if nothing.

    With ``--help`` at its end, the parser goes as far as it can and then asks for nothing more.
    """
    program, *words = shlex.split(span)
    parser = build_parser()
    if program == "python":
        name = words.pop(0).rpartition("tune/")[2]
        if name not in parsers:
            return "no such script"
        parser = parsers[name]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
            parser.parse_args([*words, "--help"])
    except UserError as error:
        return str(error)
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    known = set(re.findall(r"(?<![\w-])--?\w[\w-]*", shown.getvalue()))
    return ", ".join(f"no option {flag}" for flag in flags if flag not in known)


@pytest.mark.parametrize(("page", "span"), SPANS)
def test_every_command_in_a_sentence_exists(page: str, span: str, parsers: Parsers) -> None:
    assert judge_span(span, parsers) == ""


@pytest.mark.parametrize(
    ("span", "wrong"),
    [
        ("dpa report", "report"),
        ("dpa runs reprot latest", "reprot"),
        ("dpa runs report --nope", "no option --nope"),
        ("dpa data import FILE --bars 3", "no option --bars"),
        ("python tune/grid.py --windw 3", "no option --windw"),
        ("python tune/horizons.py --horizon 5m", "no option --horizon"),
        ("python tune/gird.py", "no such script"),
    ],
)
def test_a_wrong_command_in_a_sentence_is_found(span: str, wrong: str, parsers: Parsers) -> None:
    assert wrong in judge_span(span, parsers)


def test_the_grid_file_in_the_help_is_one_the_program_accepts(
    parsers: Parsers, tmp_path: Path
) -> None:
    _, _, example = str(parsers["grid.py"].epilog).partition("and the axes:\n")
    path = tmp_path / "grid.yaml"
    path.write_text(textwrap.dedent(example), encoding="utf-8")
    grid = load_grid(path, {}, {})
    assert grid.axes["max_age"] == (10, 30, None)
    assert grid.axes["window"] == (30, 60)
    assert {settings.model.max_age for _, settings in grid_points(grid)} == {10, 30, None}


def test_blocks_hold_commands() -> None:
    assert [str(block) for block in BLOCKS if not block.commands] == []
    assert sum(len(block.commands) for block in BLOCKS) > 30


@pytest.mark.long
@pytest.mark.timeout(RUN_SECONDS)
@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.name)
def test_marked_commands_run_as_written(page: Path, tmp_path: Path) -> None:
    (tmp_path / "tune").symlink_to(REPOSITORY / "tune")
    for name, source in scripts_of(page).items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    commands = [command for block in blocks_of(page) if block.run for command in block.commands]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in commands:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}: $ {command}\n{done.stdout}\n{done.stderr}"


def test_the_walk_throughs_are_run() -> None:
    assert {"getting-started.md", "horizons.md"} <= {page.name for page in RUN_PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_is_python(page: Path) -> None:
    for source in python_of(page):
        compile(source, page.name, "exec")


def anchors_of(page: Path) -> set[str]:
    """Anchors as GitHub makes them of headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"^[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link} is missing"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name}: {link} has no such heading"


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}
    assert pages <= set(LINK.findall(index))
