"""The settings tree: precedence, bounds, and errors that name layer, field and cure."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from dpa.config import ClusterConfig, Settings, environment_layer, load_settings, merge
from dpa.errors import ConfigError


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_stand_when_nothing_is_given() -> None:
    assert load_settings(environ={}) == Settings()


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "model: {window: 20, n_clusters: 4, max_age: 9}\n")
    environ = {"DPA__MODEL__WINDOW": "30", "DPA__MODEL__N_CLUSTERS": "6", "OTHER": "x"}
    model = load_settings(path, {"model": {"window": 40}}, environ).model
    assert (model.window, model.n_clusters, model.max_age) == (40, 6, 9)


def test_absent_is_none_and_not_the_default(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "model: {max_age: 10}\n")
    environ = {"DPA__MODEL__MAX_AGE": "null"}
    assert load_settings(path, environ=environ).model.max_age is None


@pytest.mark.parametrize("word", ["none", "None", "NONE", "null", "~", ""])
def test_none_is_absent_in_files_and_in_the_environment(tmp_path: Path, word: str) -> None:
    path = yaml_file(tmp_path, f"model: {{max_age: {word}}}\ndata: {{names: {word}}}\n")
    assert load_settings(path, environ={}).model.max_age is None
    assert load_settings(path, environ={}).data.names is None
    assert load_settings(environ={"DPA__MODEL__MAX_AGE": word}).model.max_age is None


def test_none_is_refused_where_a_value_must_be() -> None:
    with pytest.raises(ConfigError, match=r"environment: model\.window.*got 'none'"):
        load_settings(environ={"DPA__MODEL__WINDOW": "none"})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {windw: 3}\n", "model.windw"),
        ("modle: {}\n", "modle"),
        ("model: {window: 2}\n", "model.window"),
        ("model: {window: many}\n", "model.window"),
        ("model: {temperature: .nan}\n", "model.temperature"),
        ("model: 3\n", "model"),
        ("costs: {half_spread_bps: -1}\n", "costs.half_spread_bps"),
        ("model: {entry_threshold: 3, stop_threshold: 2}\n", "stop_threshold"),
    ],
)
def test_a_bad_file_is_one_line_with_file_and_field(tmp_path: Path, text: str, named: str) -> None:
    path = yaml_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ={})
    message = str(caught.value)
    assert str(path) in message
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "\tx: 1"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load_settings(yaml_file(tmp_path, text), environ={})


@pytest.mark.parametrize("content", ["model: {}  # é".encode("latin-1"), b"PAR1\x15\x04\xff"])
def test_a_file_that_is_no_text_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"settings\.yaml: is not UTF-8 text") as caught:
        load_settings(path, environ={})
    assert "\n" not in str(caught.value)


def test_dates_need_no_quotes(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "data: {start: 2008-01-01, end: '2009-01-01'}\n")
    data = load_settings(path, environ={"DPA__DATA__END": "2010-12-31"}).data
    assert (data.start, data.end) == ("2008-01-01", "2010-12-31")


def test_a_date_that_is_none_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml: is not valid YAML"):
        load_settings(yaml_file(tmp_path, "data: {start: 2008-13-01}\n"), environ={})
    with pytest.raises(ConfigError, match="DPA__DATA__END='2008-02-30' is not YAML"):
        load_settings(environ={"DPA__DATA__END": "2008-02-30"})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_settings(tmp_path / "absent.yaml", environ={})


def test_an_error_names_the_layer_it_came_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^environment: model\.window"):
        load_settings(environ={"DPA__MODEL__WINDOW": "1"})
    with pytest.raises(ConfigError, match=r"^command line: model\.window"):
        load_settings(overrides={"model": {"window": 1}}, environ={})
    with pytest.raises(ConfigError, match=r"^environment: DPA__MODEL__WINDOW"):
        load_settings(environ={"DPA__MODEL__WINDOW": "["})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().model.window = 5  # type: ignore[misc]


def test_context_is_window_and_residual_history() -> None:
    assert ClusterConfig(window=40).context_bars == 80
    assert ClusterConfig(window=40, signal_window=10).context_bars == 50


def test_merge_goes_deep_and_leaves_its_inputs() -> None:
    low, high = {"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": {"z": 4}}
    assert merge(low, high) == {"a": {"x": 1, "y": 3}, "b": 1, "c": {"z": 4}}
    assert low == {"a": {"x": 1, "y": 2}, "b": 1}


def test_environment_values_are_typed() -> None:
    layer = environment_layer({"DPA__MODEL__LEARN": "false", "DPA__DATA__NAMES": "[A, B]"})
    assert layer == {"model": {"learn": False}, "data": {"names": ["A", "B"]}}


def test_settings_survive_json() -> None:
    settings = Settings(model=ClusterConfig(window=33, max_age=None))
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
