"""The rolling trainer: what each fold sees and leaves, and going on where it was stopped."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from dpa.clock import FixedClock
from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import load_model
from dpa.config import Settings
from dpa.errors import RunError
from dpa.market.costs import CostModel
from dpa.market.panel import Panel
from dpa.research.backtest import RETURN_COLUMNS, Backtest
from dpa.research.rolling import RollingTrainer
from dpa.research.single import last_price_bars
from dpa.simulation.planted import PlantedMarket, simulate
from dpa.validation.splits import walk_forward_folds

PARTS = ("returns", "weights", "clusters")
MEASURED = {"seconds", "peak_memory_mb"}  # differ between two runs of the same


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def panel():
    """Eighteen names, some listed late, some gone before the end."""
    config = PlantedMarket(
        n_clusters=3, names_per_cluster=6, n_bars=205, late_listings=0.2, delistings=0.2
    )
    return simulate(config, 4).panel


def settings(centroids="comovement", lag=1, test_bars=40, train_bars=70, tail=0.25, **model):
    return Settings.model_validate(
        {
            "model": {
                "window": 12, "n_clusters": 3, "similarity_threshold": 0.2,
                "entry_threshold": 1.0, "max_age": 8, "centroids": centroids, **model,
            },
            "training": {"epochs": 3, "patience": 3, "validation_fraction": tail},
            "walk_forward": {
                "train_bars": train_bars, "test_bars": test_bars, "execution_lag": lag,
            },
        }
    )  # fmt: skip


def trainer(point, source, folder, n_bars=None, **options):
    folds = walk_forward_folds(
        n_bars or source.n_bars, point.walk_forward, point.model.context_bars
    )
    last_bar = last_price_bars(source)
    return RollingTrainer(point, source, folds, folder, last_bar, **options)


def finish(rolling):
    while not rolling.done:
        rolling.step()
    return rolling.finish()


def read(folder, part):
    return pd.read_parquet(folder / f"{part}.parquet")


def fold_part(folder, fold, part):
    return pd.read_parquet(folder / "folds" / f"{fold:04d}" / f"{part}.parquet")


@pytest.fixture(scope="module")
def finished(panel, tmp_path_factory):
    """One undisturbed run of each kind of centroid: folder, trainer, summary."""
    torch.set_num_threads(1)
    runs = {}
    for centroids in ("comovement", "shape"):
        folder = tmp_path_factory.mktemp(centroids)
        rolling = trainer(settings(centroids), panel, folder)
        runs[centroids] = (folder, rolling, finish(rolling))
    return runs


def test_out_of_sample_bars_follow_each_other(panel, finished):
    folder, rolling, summary = finished["comovement"]
    folds = rolling.folds
    assert [(f.test_start, f.test_stop) for f in folds] == [(94, 134), (134, 174), (174, 205)]
    assert folds[-1].partial
    for part in PARTS:
        frame = read(folder, part)
        assert frame.index.equals(panel.times[94:205].rename("time"))
        assert frame.index.name == "time"
        joined = pd.concat([fold_part(folder, k, part) for k in range(3)])
        pd.testing.assert_frame_equal(frame, joined)
    assert read(folder, "returns")["fold"].tolist() == [0] * 40 + [1] * 40 + [2] * 31
    assert summary["folds"] == 3
    assert summary["bars"] == 111


def test_files_of_a_trial(panel, finished):
    folder, rolling, _ = finished["comovement"]
    returns = read(folder, "returns")
    assert list(returns.columns) == [*RETURN_COLUMNS, "fold"]
    assert not returns.isna().any().any()
    assert read(folder, "weights").dtypes.eq(np.float32).all()
    assert read(folder, "clusters").dtypes.eq(np.int16).all()
    assert tuple(read(folder, "weights").columns) == panel.names
    table = pd.read_csv(folder / "folds.csv")
    assert table["fold"].tolist() == [0, 1, 2]
    assert table["test_start"].tolist() == [panel.times[b].isoformat() for b in (94, 134, 174)]
    assert table["train_stop"].tolist() == [panel.times[b].isoformat() for b in (92, 132, 172)]
    assert table["epochs"].between(1, 3).all()
    assert table["validation_sharpe"].notna().all()
    for name, value in rolling.model.learned().items():
        assert table[name].iloc[-1] == pytest.approx(value)
    model, names = load_model(folder / "checkpoint")
    assert names == panel.names
    manifest = json.loads((folder / "checkpoint" / "manifest.json").read_text())
    assert manifest["seen_until"] == panel.times[204].isoformat()
    assert manifest["interval"] == "1d"
    assert model.learned() == rolling.model.learned()


@pytest.mark.parametrize("centroids", ["comovement", "shape"])
def test_returns_are_those_of_the_weights_in_one_backtest(centroids, panel, finished):
    """Fold boundaries are no event: drift, costs and orders carry over; liquidated at the end."""
    folder, rolling, _ = finished[centroids]
    weights = read(folder, "weights").to_numpy().astype(np.float64)
    assert np.abs(weights).sum(1).mean() > 0.02
    backtest = Backtest(CostModel(rolling.settings.costs), panel.calendar, panel.interval, 1)
    expected, _ = backtest.run(
        weights, panel.window(94, 205), backtest.warm_up(panel.window(0, 94)),
        last_bar=last_price_bars(panel), first_bar=94, liquidate=True,
    )  # fmt: skip
    pd.testing.assert_frame_equal(
        read(folder, "returns").drop(columns="fold"), expected.frame(), check_freq=False
    )
    assert expected.gross_exposure[-1] == 0.0


@pytest.mark.parametrize("centroids", ["comovement", "shape"])
def test_an_interrupted_trial_ends_like_an_undisturbed_one(centroids, panel, finished, tmp_path):
    """Killed after every single fold: a new object each time, and one half-done fold besides."""
    undisturbed, _, summary = finished[centroids]
    point, out, state = settings(centroids), tmp_path / "out", tmp_path / "state"
    for done in range(3):
        rolling = trainer(point, panel, out)
        if done:
            rolling.load(state / str(done))
        assert rolling.folds_done == done
        lost = trainer(point, panel, out)  # dies before it could save
        if done:
            lost.load(state / str(done))
        lost.step()
        rolling.step()
        rolling.save(state / str(done + 1))
    last = trainer(point, panel, out)
    last.load(state / "3")
    again = last.finish()
    for part in PARTS:
        pd.testing.assert_frame_equal(read(out, part), read(undisturbed, part), check_exact=True)
    tables = [pd.read_csv(f / "folds.csv").drop(columns="seconds") for f in (out, undisturbed)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert {k: v for k, v in again.items() if k not in MEASURED} == {
        k: v for k, v in summary.items() if k not in MEASURED
    }
    files = [f / "checkpoint" / "model.safetensors" for f in (out, undisturbed)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("centroids", ["comovement", "shape"])
def test_later_data_change_no_earlier_weight(centroids, panel, finished, tmp_path):
    """The history ends after two folds, or goes on absurdly: the first folds are the same bits."""
    folder, rolling, _ = finished[centroids]
    prices, mask = panel.prices.copy(), panel.mask.copy()
    prices[174:] = np.where(np.isfinite(prices[174:]), 7.0 * prices[174:][::-1], np.nan)
    mask &= np.isfinite(prices)
    prices[174:][~np.isfinite(prices[174:])] = np.nan
    other = Panel(panel.times, panel.names, prices, mask, panel.interval, panel.calendar)
    sources = {"cut": (panel.window(0, 174), 174), "absurd": (other, 205)}
    for name, (source, n_bars) in sources.items():
        short = trainer(settings(centroids), source, tmp_path / name, n_bars)
        for fold in range(2):
            report = short.step()
            for part in ("weights", "clusters"):
                pd.testing.assert_frame_equal(
                    fold_part(tmp_path / name, fold, part),
                    fold_part(folder, fold, part),
                    check_exact=True,
                )
            assert report.entry_threshold == rolling.reports[fold].entry_threshold


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("centroids", ["comovement", "shape"])
def test_training_sees_nothing_of_the_test_window(centroids, lag, panel, tmp_path):
    """Prices from the first test bar on are replaced: the parameters learnt are the same bits."""
    prices = panel.prices.copy()
    prices[94:] *= np.exp(np.random.default_rng(0).standard_normal(prices[94:].shape))
    poisoned = Panel(panel.times, panel.names, prices, panel.mask, panel.interval, panel.calendar)
    states = []
    for name, source in (("clean", panel), ("poisoned", poisoned)):
        rolling = trainer(settings(centroids, lag, tail=0.0), source, tmp_path / name)
        rolling.step()
        states.append(rolling.model.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    start = ClusterModel(settings(centroids, lag, tail=0.0).model, 0).state_dict()
    learnt = "shapes" if centroids == "shape" else "raw_entry"
    assert not torch.equal(start[learnt], states[0][learnt])


def test_names_have_no_weight_before_they_list_or_after_they_are_gone(panel, finished):
    first = np.isfinite(panel.prices).argmax(0)
    last = last_price_bars(panel)
    assert ((first > 20) & (first < 94)).any()
    assert (last < 174).any()
    for folder, rolling, _ in finished.values():
        weights, clusters = (read(folder, part).to_numpy() for part in ("weights", "clusters"))
        for name in range(panel.n_assets):
            bars = np.arange(94, 205)
            warm = first[name] + rolling.settings.model.context_bars - 1
            silent = (bars < warm) | (bars > last[name])
            assert not weights[silent, name].any()
            gone = (bars < first[name] + 12) | (bars > last[name])
            assert (clusters[gone, name] == -1).all()


@pytest.mark.parametrize("test_bars", [5, 13, 40, 100])
def test_untrained_weights_are_those_of_one_long_pass(test_bars, panel, tmp_path):
    """Stretch by stretch or all at once: clusters carry over, histories are long enough."""
    point = settings(test_bars=test_bars, learn=False)
    rolling = trainer(point, panel, tmp_path)
    finish(rolling)
    model = ClusterModel(point.model, 0)
    with torch.no_grad():
        inputs = model.prepare(panel)
        output = model(inputs)
    weights, seen = (read(tmp_path, part).to_numpy() for part in ("weights", "clusters"))
    rows = slice(94, 94 + len(weights))
    whole = output.weights.numpy()[rows]
    assert np.abs(whole).max() > 5e-3
    assert np.allclose(weights, whole, atol=1e-4)
    assert (seen == output.clusters(inputs.features.valid)[rows]).mean() > 0.999


def test_memory_of_labels_is_bounded_by_a_fold(panel, tmp_path):
    rolling = trainer(settings(test_bars=10, learn=False), panel, tmp_path)
    sizes = []
    while not rolling.done:
        rolling.step()
        rolling.save(tmp_path / "state")
        with np.load(tmp_path / "state" / "state.npz") as stored:
            sizes.append(len(stored["labels"]))
    assert len(sizes) > 10
    assert len(set(sizes[:-1])) == 1


def test_a_frozen_model_is_traded_as_it_is(panel, finished, tmp_path):
    folder, _, _ = finished["shape"]
    model, _ = load_model(folder / "checkpoint")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rolling = trainer(settings("shape"), panel, tmp_path, model=model)
    report = rolling.step()
    assert report.epochs == 0
    assert np.isnan(report.validation_sharpe)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert np.abs(fold_part(tmp_path, 0, "weights")).to_numpy().max() > 1e-3


def test_weights_carry_across_folds(panel, tmp_path):
    """The second fold starts from what the first one learnt, not from the settings."""
    point = settings("shape")
    rolling = trainer(point, panel, tmp_path)
    rolling.step()
    after_first = rolling.model.shapes.detach().clone()
    no_steps = point.model_copy(
        update={"training": point.training.model_copy(update={"learning_rate": 1e-12})}
    )
    rolling.settings = no_steps
    rolling.step()
    assert torch.allclose(rolling.model.shapes, after_first, atol=1e-6)


def test_a_fold_is_timed_by_the_clock_it_is_given(panel, tmp_path):
    clock = FixedClock(pd.Timestamp("2024-01-02", tz="UTC").to_pydatetime())
    report = trainer(settings(learn=False), panel, tmp_path, clock=clock).step()
    assert report.seconds == 0.0


def saved(panel, folder):
    rolling = trainer(settings(learn=False), panel, folder / "out")
    rolling.step()
    rolling.save(folder / "state")
    return folder / "state"


def cut(name):
    return lambda state: (state / name).write_bytes((state / name).read_bytes()[:-40])


DAMAGES = {
    "no state": lambda state: (state / "state.npz").unlink(),
    "state truncated": cut("state.npz"),
    "progress truncated": cut("progress.json"),
    "progress of another version": lambda state: (state / "progress.json").write_text("{}"),
    "unknown report": lambda state: (state / "progress.json").write_text(
        '{"labels_from": 0, "reports": [{"fold": 0}]}'
    ),
    "model truncated": cut("model/model.safetensors"),
    "folds lost": lambda state: (
        state.parent / "out" / "folds" / "0000" / "returns.parquet"
    ).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(damage, panel, tmp_path):
    state = saved(panel, tmp_path)
    DAMAGES[damage](state)
    with pytest.raises(RunError) as seen:
        trainer(settings(learn=False), panel, tmp_path / "out").load(state)
    assert "\n" not in str(seen.value)
    assert str(tmp_path) in str(seen.value)


def test_a_checkpoint_of_other_settings_or_names_is_refused(panel, tmp_path):
    state = saved(panel, tmp_path)
    other = trainer(settings(learn=False, window=13), panel, tmp_path / "out")
    with pytest.raises(RunError, match="other names or other model settings"):
        other.load(state)
    names = tuple(f"X{i}" for i in range(panel.n_assets))
    renamed = Panel(panel.times, names, panel.prices, panel.mask, panel.interval, panel.calendar)
    with pytest.raises(RunError, match="other names or other model settings"):
        trainer(settings(learn=False), renamed, tmp_path / "out").load(state)
