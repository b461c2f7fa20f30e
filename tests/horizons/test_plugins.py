"""Features and families in files of the user's own."""

import sys
from pathlib import Path

import pytest

from dpa.errors import ConfigError
from dpa.horizons.families.protocol import family_class
from dpa.horizons.plugins import load_plugins
from dpa.horizons.registry import FEATURES, find_feature

FEATURE = '''
from dpa.horizons.registry import feature

@feature("return with its sign turned", (15, 30))
def {name}(view, minutes):
    """For the test."""
    return -view.scaled(view.now("log_close") - view.ago("log_close", minutes), minutes)
'''


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a plugin registers is gone after the test."""
    before, modules = dict(FEATURES), set(sys.modules)
    yield
    for name in set(FEATURES) - set(before):
        del FEATURES[name]
    for name in set(sys.modules) - modules:
        if name.startswith("dpa_plugin_"):
            del sys.modules[name]


def plugin(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_registers_its_features(tmp_path):
    load_plugins([plugin(tmp_path, FEATURE.format(name="turned"))])
    assert find_feature("turned_15m").minutes == 15
    assert "view.scaled" in find_feature("turned_30m").source


def test_a_file_is_imported_once(tmp_path):
    text = FEATURE.format(name="once") + "\nimport pathlib\n"
    text += f"with pathlib.Path({str(tmp_path / 'count')!r}).open('a') as f:\n    f.write('x')\n"
    path = plugin(tmp_path, text)
    load_plugins([path, path])
    load_plugins([path])
    assert (tmp_path / "count").read_text() == "x"


def test_equal_names_in_two_folders_are_two_files(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [plugin(tmp_path / n, FEATURE.format(name=f"from_{n}")) for n in ("a", "b")]
    load_plugins(paths)
    assert {"from_a_15m", "from_b_15m"} <= set(FEATURES)


def test_a_copy_of_a_file_is_no_contradiction(tmp_path):
    text = FEATURE.format(name="copied")
    load_plugins([plugin(tmp_path, text), plugin(tmp_path, text, "another.py")])
    assert "copied_15m" in FEATURES


def test_an_installed_module_is_named_without_py():
    load_plugins(["dpa.horizons.features.prices"])
    assert family_class("ridge").name == "ridge"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ValueError('my mistake')", r"\(ValueError: my mistake\)"),
        ("def f(:\n", "SyntaxError"),
        ("import not_there_at_all", "ModuleNotFoundError"),
        (FEATURE.format(name="momentum").replace("15, 30", "60,"), "registered twice"),
    ],
    ids=["raises", "syntax", "import", "taken name"],
)
def test_what_is_wrong_in_a_file_is_told(tmp_path, text, words):
    path = plugin(tmp_path, text)
    before = FEATURES["momentum_60m"]
    with pytest.raises(ConfigError, match=words) as caught:
        load_plugins([path])
    assert caught.value.cure
    assert "\n" not in str(caught.value)
    assert FEATURES["momentum_60m"] is before
    assert not [name for name in sys.modules if name.startswith("dpa_plugin_mine")]


def test_a_mended_file_can_be_loaded_again(tmp_path):
    path = plugin(tmp_path, "raise ValueError")
    with pytest.raises(ConfigError):
        load_plugins([path])
    plugin(tmp_path, FEATURE.format(name="mended"))
    load_plugins([path])
    assert "mended_15m" in FEATURES


@pytest.mark.parametrize("name", ["nowhere.py", "no_such_module_at_all", ""])
def test_what_is_not_there_is_told(name):
    with pytest.raises(ConfigError, match=r"horizons\.plugins") as caught:
        load_plugins([name])
    assert caught.value.cure
