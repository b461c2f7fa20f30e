"""Options made from the settings tree: complete, typed, documented."""

import argparse
from pathlib import Path

import pytest

from dpa.config import Settings, load_settings
from dpa.errors import ConfigError
from dpa.options import (
    OneLineParser,
    UsageError,
    add_settings_options,
    option_table,
    read_axes,
    read_overrides,
    settings_options,
    typed,
)

REPOSITORY = Path(__file__).resolve().parents[1]
EVERY_SECTION = tuple(Settings.model_fields)


def parsed(*words: str, axes: bool = False) -> argparse.Namespace:
    parser = OneLineParser(prog="test")
    add_settings_options(parser, EVERY_SECTION, axes)
    return parser.parse_args(words)


def test_every_field_has_an_option() -> None:
    fields = {
        name for info in Settings.model_fields.values() for name in info.annotation.model_fields
    }
    assert set(settings_options()) == fields


def test_help_shows_meaning_bounds_and_default_of_every_field() -> None:
    parser = OneLineParser(prog="test")
    add_settings_options(parser, EVERY_SECTION)
    shown = " ".join(parser.format_help().split())
    for option in settings_options().values():
        assert option.flag in shown
        assert " ".join((option.info.description or "?").split()) in shown
        assert f"default {option.default}]" in shown
    assert (
        "--window VALUE bars in a name's unit vector [integer; >= 5, <= 5000; default 60]" in shown
    )


def test_a_default_typed_again_is_the_default() -> None:
    words = []
    for option in settings_options().values():
        words += [option.flag, option.default]
    assert load_settings(overrides=read_overrides(parsed(*words)), environ={}) == Settings()


def test_values_are_typed() -> None:
    words = "--window 20 --max-age none --learn false --names A,BRK.B --centroids shape"
    assert read_overrides(parsed(*words.split(), "--data", "x.csv")) == {
        "data": {"names": ("A", "BRK.B"), "path": "x.csv"},
        "model": {"window": 20, "max_age": None, "learn": False, "centroids": "shape"},
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--window 2", "--window: '2' is not allowed; give integer, >= 5, <= 5000"),
        ("--window many", "--window: 'many'"),
        ("--learn maybe", "--learn: 'maybe'"),
        ("--centroids round", "comovement | shape"),
        ("--temperature 0", "> 0, <= 10"),
        ("--epochs none", "--epochs: 'none'"),
    ],
)
def test_a_bad_value_names_option_and_bounds(words: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_overrides(parsed(*words.split()))
    assert named in str(caught.value)


def test_comma_lists_are_axes_in_the_order_typed() -> None:
    axes = read_axes(
        parsed("--window", "90,30", "--names", "A,B", "--max-age", "5,none", axes=True)
    )
    assert axes == {"names": (("A", "B"),), "window": (90, 30), "max_age": (5, None)}


@pytest.mark.parametrize("words", [("--window", "30,30"), ("--window", "30,"), ("--window", "")])
def test_a_bad_axis_is_refused(words: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"--window"):
        read_axes(parsed(*words, axes=True))


def test_a_bad_command_line_is_one_line() -> None:
    with pytest.raises(UsageError, match="unrecognized arguments: --windw 3") as caught:
        parsed("--windw", "3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (True, "true"), (0.3, "0.3"), (30, "30"), (("A", "B"), "A,B")],
)
def test_typed(value: object, text: str) -> None:
    assert typed(value) == text


def test_the_documented_table_is_the_code() -> None:
    assert (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8") == option_table()
