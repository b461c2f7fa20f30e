"""What decides the rows of a run: horizons, purge, cluster model; contradictions are told."""

import copy

import pytest

from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import save_model
from dpa.config import load_settings
from dpa.errors import ConfigError, RunError
from dpa.horizons.recipe import barrier_minutes, horizon_place, make_recipe, open_reader
from dpa.market.interval_specs import get_interval_spec, parse_horizons

NAMES = ("A", "B", "C")


def recipe(interval="5m", extras=("volume",), cluster=None, lag=1, **horizons):
    tree = {"horizons": horizons, "walk_forward": {"execution_lag": lag}}
    settings = load_settings(None, tree, {})
    return make_recipe(settings, NAMES, interval, "XNYS", extras, cluster)


@pytest.fixture
def model(tmp_path):
    """Folder of an untrained cluster model for 5m bars."""
    settings = load_settings(None, {"model": {"window": 12, "n_clusters": 2}}, {})
    folder = tmp_path / "model"
    save_model(ClusterModel(settings.model, 0), folder, NAMES, {"interval": "5m"})
    return folder


def test_horizons_are_sorted_and_the_primary_is_found():
    found = recipe(horizons=("1d", "5m", "30m"), primary_horizon="30m")
    assert found.schema().labels == ("5m", "30m", "1d")
    assert found.primary == 1
    assert recipe(horizons=("1d", "5m")).primary == 0


@pytest.mark.parametrize(
    ("lag", "horizons", "barrier", "embargo", "label_bars", "embargo_bars"),
    [
        (1, ("5m", "30m"), 30, 0, 6, 0),
        (1, ("5m",), 60, 0, 12, 0),
        (3, ("1d",), 30, 12, 80, 3),
    ],
)
def test_the_purge_is_that_of_the_longest_label(
    lag, horizons, barrier, embargo, label_bars, embargo_bars
):
    found = recipe(
        lag=lag, horizons=horizons, barrier_minutes=barrier, embargo_minutes=embargo
    ).purge
    assert (found.label_bars, found.embargo_bars) == (label_bars, embargo_bars)


def test_barriers_look_a_daily_bar_ahead_at_least():
    settings = load_settings(None, {}, {})
    assert barrier_minutes(settings, get_interval_spec("5m", None)) == 30
    assert barrier_minutes(settings, get_interval_spec("1d", None)) == 390
    assert recipe("1d", ()).barrier_bars == 1


@pytest.mark.parametrize(
    ("horizons", "named"),
    [
        ({"horizons": ("7m",)}, "horizon 7m"),
        ({"horizons": ("5m", "5 min")}, "5"),
        ({"horizons": ("soon",)}, "'soon' is not understood"),
        ({"horizons": ("5m",), "primary_horizon": "30m"}, "horizon 30m is not forecast"),
        ({"barrier_minutes": 33}, "33 minutes are 6.6 bars"),
        ({"feature_list": ("nothing",)}, "'nothing' is not known"),
        ({"plugins": ("absent.py",)}, "absent.py"),
    ],
)
def test_contradictions_are_told_before_anything_is_done(horizons, named):
    with pytest.raises((ConfigError, RunError), match=named) as caught:
        recipe(**horizons)
    assert caught.value.cure
    assert "\n" not in str(caught.value)


def test_a_horizon_is_found_by_its_length():
    spec = get_interval_spec("5m", None)
    assert horizon_place("1h", parse_horizons(("5m", "60m"), spec), spec) == 1


def test_the_cluster_model_brings_its_features(model):
    found = recipe(cluster=model)
    assert "cluster_score" in found.features
    assert "cluster_score" not in recipe().features
    assert found.reader() is not None
    assert recipe().reader() is None


def test_a_cluster_model_of_other_bars_is_refused(model):
    with pytest.raises(RunError, match="trained on 5m bars, the data hold 1m") as caught:
        open_reader(model, "1m")
    assert "--cluster" in caught.value.cure


def test_a_recipe_is_the_same_on_another_machine(model):
    found = recipe(cluster=model)
    again = copy.deepcopy(found)  # by the protocol with which Ray sends it
    assert again == found
    assert again.feature_set().fingerprints == found.feature_set().fingerprints
