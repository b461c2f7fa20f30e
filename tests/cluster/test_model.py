"""The model end to end: what it learns, what it sees, and that it never looks ahead."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from dpa.cluster.loss import make_outcome, profit, training_loss
from dpa.cluster.model import ClusterModel, inverse_softplus
from dpa.config import ClusterConfig, CostConfig, TrainingConfig
from dpa.errors import ConfigError
from dpa.market.costs import CostModel
from dpa.market.panel import Panel
from dpa.validation.truncation import assert_past_only

KINDS = [(f, c) for f in ("returns", "price_path") for c in ("comovement", "shape")]
SCALARS = ["raw_temperature", "similarity_threshold", "raw_entry", "raw_band", "raw_scale"]


def config(features="returns", centroids="comovement", **options):
    defaults = {
        "window": 15, "n_clusters": 3, "similarity_threshold": 0.3, "temperature": 0.2,
        "entry_threshold": 1.0, "max_age": 8,
    }  # fmt: skip
    return ClusterConfig(features=features, centroids=centroids, **(defaults | options))


def build(settings, hard=False):
    model = ClusterModel(settings, 0)
    model.hard = hard
    if settings.centroids == "shape":
        draw = np.random.default_rng(5).standard_normal((settings.n_clusters, settings.window))
        with torch.no_grad():
            model.shapes.copy_(torch.from_numpy(draw))
    return model


def run(model, panel):
    with torch.no_grad():
        inputs = model.prepare(panel)
        return inputs, model(inputs)


def reordered(panel, order):
    names = tuple(panel.names[i] for i in order)
    prices, mask = panel.prices[:, order], panel.mask[:, order]
    return Panel(panel.times, names, prices, mask, panel.interval, panel.calendar)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("features", "centroids"), KINDS)
def test_nothing_looks_ahead_bit_for_bit(features, centroids, hard, messy):
    """Future cut off, permuted or poisoned: features, clusters, gate, score and weights stay."""

    def stages(panel):
        inputs, output = run(build(config(features, centroids), hard), panel)
        f = inputs.features
        seen = {name: getattr(f, name).numpy() for name in ("series", "valid", "mean", "newest")}
        for name in ("weights", "wanted_gross", "score", "ready", "active", "gate", "age"):
            seen[name] = getattr(output, name).numpy()
        assert np.abs(seen["weights"]).max() > 1e-3
        return seen | {"clusters": output.clusters(f.valid)}

    assert_past_only(stages, messy, (60, 83, 101, 150))


@pytest.mark.parametrize(("features", "centroids"), KINDS)
def test_the_signal_of_a_bar_is_the_same_in_training_and_test(features, centroids, messy):
    """Training sees a stretch cut at its end, trading a longer one: the same bits at each bar."""
    model = build(config(features, centroids))
    inputs, whole = run(model, messy)
    stop = 120
    with torch.no_grad():
        training = model(inputs.until(stop))
    for name in ("weights", "score", "gate", "age", "wanted_gross"):
        assert torch.equal(getattr(training, name), getattr(whole, name)[:stop]), name


@pytest.mark.parametrize(("features", "centroids"), KINDS)
def test_weights_are_0_outside_the_mask_and_before_a_whole_history(features, centroids, messy):
    settings = config(features, centroids)
    inputs, output = run(build(settings), messy)
    weights = output.weights.numpy()
    assert not weights[~messy.mask].any()
    assert not weights[~inputs.features.valid.numpy()].any()
    first = np.isfinite(messy.prices).argmax(0)
    late = np.flatnonzero(first > 0)
    assert len(late) >= 3
    for name in late:
        warm = first[name] + settings.context_bars - (2 if features == "price_path" else 1)
        assert not weights[:warm, name].any()
    assert weights[:, late].any()
    assert not output.gate.numpy()[~messy.mask].any()


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("features", "centroids"), KINDS)
def test_weights_stay_within_the_limits(features, centroids, hard, messy):
    settings = config(features, centroids, position_unit=0.4, name_cap=0.3, max_leverage=0.5)
    _, output = run(build(settings, hard), messy)
    weights = output.weights
    assert float(weights.abs().max()) <= 0.3
    assert float(weights.abs().sum(1).max()) <= 0.5 + 1e-5
    assert float(weights.sum(1).abs().max()) < 1e-6
    assert float(output.wanted_gross.max()) > 0.5
    assert bool(torch.isfinite(weights).all())


@pytest.mark.parametrize(("features", "centroids"), KINDS)
def test_the_order_of_names_does_not_matter(features, centroids, messy):
    """Planted clusters are found whatever the column order, and weights follow their names."""
    order = np.random.default_rng(2).permutation(messy.n_assets)
    settings = config(features, centroids, window=40, signal_window=20)
    model = build(settings)
    model.tracker.restarts = 40  # one partition, whichever vectors the seeds fall on
    other = build(settings)
    other.tracker.restarts = 40
    one, two = run(model, messy)[1], run(other, reordered(messy, order))[1]
    expected = one.weights[:, order]
    assert float(expected.abs().max()) > 1e-3
    same = torch.isclose(two.weights, expected, atol=1e-4).float().mean()
    assert float(same) > (0.99 if centroids == "shape" else 0.9)
    close = np.corrcoef(two.weights.numpy().ravel(), expected.numpy().ravel())[0, 1]
    assert close > (0.999 if centroids == "shape" else 0.9)


@pytest.mark.parametrize(("features", "centroids"), KINDS)
def test_every_parameter_has_a_gradient(features, centroids, messy):
    """The first version promised thresholds and learnt centroids only."""
    model = build(config(features, centroids, stop_threshold=1.8))
    output = model(model.prepare(messy))
    result = profit(output.weights, make_outcome(messy, 252.0), CostModel(CostConfig()), 1)
    training_loss(result, output.wanted_gross, 1.0, TrainingConfig(), 252.0).backward()
    learnable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own = "shapes" if centroids == "shape" else "raw_lags"
    assert set(learnable) == {*SCALARS, own}
    for name, parameter in learnable.items():
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 1e-6, name
    assert float(learnable[own].grad.abs().min()) > 0.0


@pytest.mark.parametrize(("features", "centroids"), KINDS)
def test_gradients_are_those_of_finite_differences(features, centroids, messy):
    """In double precision, through every stage at once."""
    model = build(config(features, centroids, stop_threshold=1.8)).double()
    inputs = in_double(model.prepare(messy))
    direction = torch.randn(
        messy.prices.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def total():
        return (model(inputs).weights * direction).sum()

    total().backward()
    own = model.shapes if centroids == "shape" else model.raw_lags
    places = [(getattr(model, name), ()) for name in SCALARS]
    places += [(own, tuple(d // 2 for d in own.shape)), (own, tuple(d - 1 for d in own.shape))]
    for parameter, place in places:
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                parameter[place] += step
                values.append(float(total()))
            parameter[place] += 1e-6
        slope = (values[0] - values[1]) / 2e-6
        assert float(parameter.grad[place]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def in_double(inputs):
    features = inputs.features
    floats = ("series", "mean", "scale", "newest")
    doubles = {name: getattr(features, name).double() for name in floats}
    return dataclasses.replace(inputs, features=dataclasses.replace(features, **doubles))


def test_learn_false_leaves_nothing_to_train(messy):
    model = build(config(learn=False))
    assert not [p for p in model.parameters() if p.requires_grad]
    assert not model(model.prepare(messy)).weights.requires_grad
    fixed = build(config(learn_thresholds=False))
    assert [n for n, p in fixed.named_parameters() if p.requires_grad] == ["raw_lags"]
    nothing = build(config(learn_thresholds=False, learn_lag_weights=False))
    assert not [n for n, p in nothing.named_parameters() if p.requires_grad]


def test_parameters_start_where_the_settings_say():
    settings = config(entry_threshold=1.3, stop_threshold=3.7, signal_scale=0.6, temperature=0.07)
    learned = ClusterModel(settings).learned()
    for name, value in learned.items():
        assert value == pytest.approx(getattr(settings, name), rel=1e-5), name
    for value in (1e-3, 0.5, 40.0):
        raw = torch.tensor(inverse_softplus(value), dtype=torch.float64)
        assert float(torch.nn.functional.softplus(raw)) == pytest.approx(value)


def test_positive_parameters_stay_positive_wherever_training_goes():
    model = ClusterModel(config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(10.0)
    assert float(model.temperature.detach()) > 0
    assert 0 < float(model.entry.detach()) < float(model.stop.detach())
    assert float(model.scale.detach()) > 0
    lags = model.lag_weights.detach()
    assert bool((lags > 0).all())
    assert float(lags.sum()) == pytest.approx(1.0, abs=1e-5)


def test_equal_lag_weights_are_no_lag_weights(messy):
    """The fast way for weights that are not learnt gives what the general way gives."""
    general, plain = build(config()), build(config(learn_lag_weights=False))
    assert torch.allclose(run(general, messy)[1].weights, run(plain, messy)[1].weights, atol=1e-5)


def test_planted_clusters_are_recovered(market):
    settings = ClusterConfig(window=60, n_clusters=5, similarity_threshold=0.3)
    inputs, output = run(ClusterModel(settings, 0), market.panel)
    clusters = output.clusters(inputs.features.valid)
    scores = [adjusted_rand_score(market.labels[bar], clusters[bar]) for bar in range(120, 600, 40)]
    assert np.mean(scores) >= 0.9


@pytest.mark.parametrize("hard", [False, True])
def test_positions_lean_against_the_planted_residual(hard, market):
    settings = ClusterConfig(window=60, n_clusters=5, similarity_threshold=0.3)
    _, output = run(build(settings, hard), market.panel)
    held = output.weights.numpy() != 0
    held[:120] = False
    assert held.any()
    agreement = output.weights.numpy()[held] * -market.residuals[held]
    assert agreement.mean() > 0
    assert np.corrcoef(output.weights.numpy()[held], market.residuals[held])[0, 1] < -0.3


def test_a_shut_gate_forces_the_exit(messy):
    """No cluster is near enough: every gate is shut and nothing is held."""
    _, output = run(build(config(similarity_threshold=1.0, gate_sharpness=1000.0)), messy)
    assert float(output.weights.abs().max()) < 1e-6
    _, output = run(build(config(similarity_threshold=1.0), hard=True), messy)
    assert not output.weights.any()


def test_clusters_are_minus_1_where_gated_out_or_absent(messy):
    inputs, output = run(build(config(similarity_threshold=0.6)), messy)
    clusters = output.clusters(inputs.features.valid)
    outside = (output.gate.numpy() < 0.5) | ~inputs.features.valid.numpy()
    assert np.array_equal(clusters == -1, outside)
    assert clusters.dtype == np.int16
    assert set(np.unique(clusters)) == {-1, 0, 1, 2}


def test_max_age_bounds_the_life_of_a_hard_position(messy):
    _, output = run(build(config(max_age=3, entry_threshold=0.3), hard=True), messy)
    sides = np.sign(output.weights.numpy())
    longest = 0
    for column in sides.T:
        run_length = 0
        for before, now in zip(np.r_[0.0, column[:-1]], column, strict=True):
            run_length = run_length + 1 if now != 0 and now == before else float(now != 0)
            longest = max(longest, run_length)
    assert longest == 3


def test_shapes_need_enough_windows(messy):
    model = ClusterModel(config(centroids="shape", n_clusters=500))
    features = model.prepare(messy.window(0, 20)).features
    with pytest.raises(ConfigError, match=r"n_clusters: 500 clusters but only \d+ whole windows"):
        model.seed_shapes(features, 20)


def test_shapes_are_seeded_from_the_training_bars_only(messy):
    model = ClusterModel(config(centroids="shape"))
    features = model.prepare(messy).features
    model.seed_shapes(features, 90)
    first = model.shapes.detach().clone()
    again = ClusterModel(config(centroids="shape"))
    again.seed_shapes(again.prepare(messy.window(0, 90)).features, 90)
    assert torch.equal(again.shapes, first)
    assert torch.allclose(first.norm(dim=1), torch.ones(3), atol=1e-5)


def test_labels_already_known_are_gone_on_from(messy):
    whole, _ = run(build(config()), messy)
    model = build(config())
    known = model.prepare(messy.window(0, 100)).labels.numpy().astype(np.int16)
    assert torch.equal(model.prepare(messy, known).labels, whole.labels)
