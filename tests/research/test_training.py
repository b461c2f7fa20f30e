"""Training of one fold: what it may see, what it keeps, and that it can be repeated."""

import dataclasses
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpa.cluster.loss import annual_sharpe, make_outcome, profit
from dpa.cluster.model import ClusterModel
from dpa.config import ClusterConfig, CostConfig, Settings, TrainingConfig
from dpa.market.costs import CostModel
from dpa.research.training import FoldTraining, Span
from dpa.simulation.planted import PlantedMarket, simulate
from dpa.validation.statistics import sharpe_ratio

MODEL = {"window": 15, "n_clusters": 3, "similarity_threshold": 0.3, "entry_threshold": 1.0}
YEAR, STOP, CONTEXT = 252.0, 240, 30


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def panel():
    config = PlantedMarket(n_clusters=3, names_per_cluster=6, n_bars=400)
    return simulate(config, 1).panel


def start(panel, centroids="comovement", **options):
    """A model and its inputs of the first STOP bars."""
    model = ClusterModel(ClusterConfig(centroids=centroids, **(MODEL | options)), 0)
    inputs = model.prepare(panel.window(0, STOP))
    if centroids == "shape":
        model.seed_shapes(inputs.features, STOP)
    return model, inputs


def train(model, inputs, panel, lag=1, outcome=None, span=None, **options):
    outcome = outcome or make_outcome(panel.window(0, STOP), YEAR)
    span = span or Span.of(CONTEXT + lag, STOP, 0.25)
    training = TrainingConfig(**({"epochs": 8, "patience": 100} | options))
    costs = CostModel(CostConfig())
    return FoldTraining(model, inputs, outcome, span, costs, training, YEAR, lag).run()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@given(begin=st.integers(0, 500), length=st.integers(1, 500), fraction=st.floats(0, 0.89))
def test_fit_and_check_share_no_bar(begin, length, fraction):
    span = Span.of(begin, begin + length, fraction)
    bars = range(begin, begin + length)
    tail = round(length * fraction)
    assert list(bars[: len(bars) - (tail if tail >= 5 else 0)]) == list(range(1000))[span.fit]
    if tail >= 5:
        assert list(bars[-tail:]) == list(range(1000))[span.check]
    else:
        assert span.check == span.fit


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("centroids", ["comovement", "shape"])
def test_no_label_of_the_validation_tail_enters_the_fit(centroids, lag, panel):
    """Returns of the tail replaced by absurd ones: the same losses, hence steps, to the bit."""
    outcome = make_outcome(panel.window(0, STOP), YEAR)
    span = Span.of(CONTEXT + lag, STOP, 0.25)
    poisoned = outcome.returns.clone()
    poisoned[span.validation :] = torch.linspace(
        -0.9, 50.0, poisoned[span.validation :].numel()
    ).reshape(poisoned[span.validation :].shape)
    results = []
    for returns in (outcome.returns, poisoned):
        model, inputs = start(panel, centroids)
        changed = dataclasses.replace(outcome, returns=returns)
        results.append(train(model, inputs, panel, lag, changed, span))
    assert results[0].losses == results[1].losses
    assert len(set(results[0].losses)) == 9  # it did train
    assert results[0].validation_sharpe != results[1].validation_sharpe
    touched = outcome.returns.clone()
    touched[span.validation - 1, ::2] += 0.01  # the last fitted return does matter
    model, inputs = start(panel, centroids)
    other = train(model, inputs, panel, lag, dataclasses.replace(outcome, returns=touched), span)
    assert other.losses[0] != results[0].losses[0]


def check_sharpe(model, inputs, panel, bars, lag=1):
    with torch.no_grad():
        weights = model(inputs).weights
    result = profit(
        weights, make_outcome(panel.window(0, STOP), YEAR), CostModel(CostConfig()), lag
    )
    return float(annual_sharpe(result.net[bars], YEAR))


@pytest.mark.parametrize("mode", ["soft", "anneal"])
def test_the_best_epoch_is_kept(mode, panel):
    """Trained for 0, 1, 2 ... epochs; the long training keeps what the best of them keeps."""
    span, runs = Span.of(CONTEXT + 1, STOP, 0.25), []
    model, inputs = start(panel, "shape")
    result = train(model, inputs, panel, mode=mode)
    assert result.epochs == 8
    assert result.validation_sharpe == check_sharpe(model, inputs, panel, span.check)
    assert result.train_sharpe == check_sharpe(model, inputs, panel, span.fit)
    if mode == "anneal":
        return
    for epochs in range(1, 9):
        other, inputs = start(panel, "shape")
        runs.append((train(other, inputs, panel, epochs=epochs), state(other)))
    scores = [r.validation_sharpe for r, _ in runs]
    assert scores == sorted(scores)
    kept = runs[max(result.best_epoch, 1) - 1]
    assert kept[0].best_epoch == result.best_epoch
    assert same(kept[1], state(model))


def test_patience_ends_training(panel):
    model, inputs = start(panel, "shape")
    long = train(model, inputs, panel, epochs=40, patience=40)
    model, inputs = start(panel, "shape")
    short = train(model, inputs, panel, epochs=40, patience=2)
    assert short.epochs == short.best_epoch + 2 < 40
    assert short.losses == long.losses[: short.epochs + 1]
    assert short.validation_sharpe <= long.validation_sharpe


def test_without_a_tail_the_fit_decides(panel):
    model, inputs = start(panel)
    result = train(model, inputs, panel, span=Span.of(CONTEXT + 1, STOP, 0.0))
    assert math.isnan(result.validation_sharpe)
    untrained, _ = start(panel)
    fit = slice(CONTEXT + 1, STOP)
    assert result.train_sharpe >= check_sharpe(untrained, inputs, panel, fit)


@pytest.mark.parametrize("mode", ["soft", "anneal"])
@pytest.mark.parametrize("centroids", ["comovement", "shape"])
def test_training_repeats_to_the_bit(centroids, mode, panel):
    ends = []
    for _ in range(2):
        model, inputs = start(panel, centroids)
        before = state(model)
        result = train(model, inputs, panel, mode=mode, epochs=4, validation_fraction=0.0)
        ends.append((result.losses, state(model)))
    assert ends[0][0] == ends[1][0]
    assert same(ends[0][1], ends[1][1])
    assert result.best_epoch == 0 or not same(before, ends[0][1])


def test_a_model_that_does_not_learn_is_only_measured(panel):
    model, inputs = start(panel, learn=False)
    before = state(model)
    result = train(model, inputs, panel)
    assert (result.epochs, result.best_epoch, len(result.losses)) == (0, 0, 1)
    assert math.isfinite(result.validation_sharpe)
    assert same(before, state(model))


def hold(model, panel, hard):
    model.hard = hard
    with torch.no_grad():
        return model(model.prepare(panel)).weights[CONTEXT:].numpy()


def test_annealed_models_trade_as_they_were_judged(panel):
    """Trained soft and traded hard, the first version's positions correlated 0.25."""
    model, inputs = start(panel)
    train(model, inputs, panel, mode="anneal", epochs=10)
    assert model.hard
    assert model.sharpening == 1.0
    model.tracker.last = None
    soft, hard = (hold(copy_of(model), panel, mode) for mode in (False, True))
    assert np.corrcoef(soft.ravel(), hard.ravel())[0, 1] > 0.8
    exposure = np.abs(hard).sum() / np.abs(soft).sum()
    assert 0.7 < exposure < 1.4  # it was 7 times lower


def copy_of(model):
    fresh = ClusterModel(model.config, model.seed)
    fresh.load_state_dict(model.state_dict())
    return fresh


@pytest.mark.parametrize("mode", ["soft", "anneal"])
def test_training_does_not_shrink_the_book_away(mode, panel):
    """Costs in the return and a turnover penalty once took exposure to half a percent of NAV."""
    untrained, _ = start(panel)
    before = np.abs(hold(untrained, panel, False)).sum(1).mean()
    model, inputs = start(panel)
    train(model, inputs, panel, mode=mode, epochs=15, patience=15)
    after_training = copy_of(model)
    weights = hold(after_training, panel, model.hard)
    assert np.abs(weights).sum(1).mean() > 0.7 * before > 0.05
    result = profit(
        torch.from_numpy(weights), make_outcome(panel.window(CONTEXT, 400), YEAR),
        CostModel(CostConfig()), 1,
    )  # fmt: skip
    assert sharpe_ratio(result.net[STOP - CONTEXT :].double().numpy(), YEAR) > 1.0


@pytest.fixture(scope="module")
def plain():
    """The plain way of writing the model down, from the benchmarks."""
    path = Path(__file__).parents[1] / "benchmarks" / "plain_reference.py"
    spec = importlib.util.spec_from_file_location("plain_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_settings(**options):
    return Settings(
        model=ClusterConfig(
            features="price_path", centroids="shape", learn_thresholds=False, **(MODEL | options)
        ),
        training=TrainingConfig(epochs=6, patience=7, validation_fraction=0.0),
    )


@pytest.mark.parametrize(
    "options", [{}, {"max_age": None, "dollar_neutral": False}, {"window": 31}]
)
def test_positions_are_those_of_the_plain_reference(options, panel, plain):
    settings = plain_settings(**options)
    model = ClusterModel(settings.model, 0)
    inputs = model.prepare(panel)
    model.seed_shapes(inputs.features, STOP)
    logs = torch.from_numpy(np.log(panel.prices / panel.prices[0])).float()
    with torch.no_grad():
        ours = model(inputs)
        weights, gross = plain.plain_weights(logs, model.shapes, settings)
    assert float(weights.abs().max()) > 5e-3
    assert torch.allclose(ours.weights, weights, atol=1e-5)
    assert torch.allclose(ours.wanted_gross, gross, atol=1e-4)


def test_training_follows_the_plain_reference(panel, plain):
    settings = plain_settings()
    model, inputs = start(panel, "shape", features="price_path", learn_thresholds=False)
    shapes = model.shapes.detach().clone()
    outcome, fit = make_outcome(panel.window(0, STOP), YEAR), slice(CONTEXT + 1, STOP)
    FoldTraining(
        model, inputs, outcome, Span.of(CONTEXT + 1, STOP, 0.0), CostModel(settings.costs),
        settings.training, YEAR, 1,
    ).run()  # fmt: skip
    logs = torch.from_numpy(np.log(panel.prices[:STOP] / panel.prices[0])).float()
    expected = plain.plain_train(logs, outcome.returns, shapes, fit, settings, YEAR)
    assert float((expected - shapes).abs().max()) > 0.05
    assert torch.allclose(model.shapes, expected, atol=1e-4)
