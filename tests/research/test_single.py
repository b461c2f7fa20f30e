"""Training one model by hand, and trading a trained one."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from dpa.cluster.storage import load_model
from dpa.config import Settings
from dpa.errors import DataError, RunError
from dpa.research.single import backtest_model, last_price_bars, train_once
from dpa.simulation.planted import PlantedMarket, simulate

CONTEXT = 24


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def panel():
    config = PlantedMarket(n_clusters=3, names_per_cluster=5, n_bars=260, delistings=0.2)
    return simulate(config, 2).panel


def settings(test_bars=40, centroids="comovement", **model):
    return Settings.model_validate(
        {
            "model": {
                "window": 12, "n_clusters": 3, "similarity_threshold": 0.2,
                "entry_threshold": 1.0, "max_age": 4, "centroids": centroids, **model,
            },
            "training": {"epochs": 3},
            "walk_forward": {"train_bars": 60, "test_bars": test_bars},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(panel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train_once(settings(), panel.window(0, 150), folder)
    return folder


def test_last_price_bars_by_hand(panel):
    last = last_price_bars(panel)
    for name in range(panel.n_assets):
        priced = np.flatnonzero(np.isfinite(panel.prices[:, name]))
        assert last[name] == priced[-1]
    assert last_price_bars(panel.window(255, 260)).max() == 4
    gone = panel.window(int(last.min()) + 1, 260)
    assert last_price_bars(gone).min() == -1


@pytest.mark.parametrize("centroids", ["comovement", "shape"])
def test_training_writes_a_model_that_says_what_it_is(centroids, panel, tmp_path):
    result = train_once(settings(centroids=centroids), panel.window(0, 150), tmp_path)
    assert 1 <= result.epochs <= 3
    model, names = load_model(tmp_path)
    assert names == panel.names
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seen_until"] == panel.times[149].isoformat()
    assert manifest["settings"]["training"]["epochs"] == 3
    again = tmp_path / "again"
    train_once(settings(centroids=centroids), panel.window(0, 150), again)
    assert (again / "model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()
    assert model.config == settings(centroids=centroids).model


def test_too_little_history_to_train_on(panel, tmp_path):
    with pytest.raises(DataError, match=r"44 bars are too few to train on.* need 45"):
        train_once(settings(), panel.window(0, 44), tmp_path)
    assert train_once(settings(), panel.window(0, 45), tmp_path).epochs >= 0


def traded(out, part="weights"):
    return pd.read_parquet(out / f"{part}.parquet")


def test_a_model_is_traded_as_it_is(panel, trained, tmp_path):
    before = (trained / "model.safetensors").read_bytes()
    summary = backtest_model(trained, settings(), panel, tmp_path, panel.times[150])
    returns = traded(tmp_path, "returns")
    assert returns.index.equals(panel.times[150:].rename("time"))
    assert summary["bars"] == 110
    assert (trained / "model.safetensors").read_bytes() == before
    assert pd.read_csv(tmp_path / "folds.csv")["epochs"].eq(0).all()
    assert returns["gross_exposure"].iloc[-1] == 0.0  # liquidated, and paid for


@pytest.mark.parametrize("hard", [False, True])
def test_how_the_bars_are_cut_changes_no_weight(hard, panel, tmp_path):
    """A position keeps its age from one stretch to the next: 7, 40 or all bars at a time."""
    point = settings(learn=False)
    if hard:
        annealed = point.training.model_copy(update={"mode": "anneal"})
        point = point.model_copy(update={"training": annealed})
    train_once(point, panel.window(0, 150), tmp_path / "model")
    weights = []
    for test_bars in (7, 40, 1000):
        out = tmp_path / str(test_bars)
        backtest_model(tmp_path / "model", settings(test_bars), panel, out, panel.times[150])
        weights.append(pd.read_parquet(out / "weights.parquet").to_numpy())
    assert np.abs(weights[0]).max() > 5e-3
    assert np.allclose(weights[0], weights[2], atol=1e-4)
    assert np.allclose(weights[1], weights[2], atol=1e-4)


def test_trading_starts_with_the_first_bar_the_model_has_not_seen(panel, trained, tmp_path):
    summary = backtest_model(trained, settings(), panel, tmp_path / "unseen")
    assert summary["bars"] == panel.n_bars - 150
    with pytest.raises(RunError, match=r"bars until 2010-08-06; start later.*--in-sample"):
        backtest_model(trained, settings(), panel, tmp_path / "seen", panel.times[149])
    seen = backtest_model(trained, settings(), panel, tmp_path / "all", in_sample=True)
    assert seen["bars"] == panel.n_bars - CONTEXT


@pytest.mark.parametrize("until", [None, "soon", "2010-08-06", 5])
def test_a_model_that_does_not_say_what_it_has_seen_is_refused(until, panel, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["seen_until"] = until
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="does not say which bars it has seen"):
        backtest_model(folder, settings(), panel, tmp_path / "out", panel.times[150])


def test_what_cannot_be_traded_is_refused(panel, trained, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="too few: the model needs 24 to warm up"):
        backtest_model(trained, settings(), panel, out, panel.times[10], in_sample=True)
    late = panel.times[-1] + pd.Timedelta(days=30)
    with pytest.raises(DataError, match="no bars to trade"):
        backtest_model(trained, settings(), panel, out, late)
    with pytest.raises(DataError, match="no bars to trade after 2010-08-06"):
        backtest_model(trained, settings(), panel.window(0, 150), out)
    with pytest.raises(RunError, match="no model here"):
        backtest_model(tmp_path / "nothing", settings(), panel, out)
    hourly = dataclasses.replace(panel, interval="1h")
    with pytest.raises(RunError, match="the model's interval is 1d, the data's is 1h"):
        backtest_model(trained, settings(), hourly, out)
    assert not out.exists()


def test_the_future_changes_no_weight(panel, trained, tmp_path):
    backtest_model(trained, settings(), panel, tmp_path / "long", panel.times[150])
    backtest_model(trained, settings(), panel.window(0, 200), tmp_path / "short", panel.times[150])
    long, short = (traded(tmp_path / name) for name in ("long", "short"))
    pd.testing.assert_frame_equal(long.iloc[:50], short, check_exact=True, check_freq=False)
