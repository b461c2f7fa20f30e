"""The encoder: a line where the truth is one, masks, weights, and the best epoch."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from dpa.config import FamiliesConfig
from dpa.errors import DataError
from dpa.horizons.families import EncoderFamily, RidgeFamily
from dpa.horizons.families.encoder import LOG_VARIANCE_BOUND, _Losses

REFERENCE = np.array([1.0, 2.0, 0.5, 0.6, 0.3])


def linear(rows, seed):
    rng = np.random.default_rng(seed)
    signal = rows.features[:, [0, 1, 3]] @ np.array([0.5, -0.3, 0.2])
    targets = signal[:, None] + 0.5 * rng.standard_normal((len(rows), 3))
    return dataclasses.replace(rows, targets=targets.astype(np.float32))


@pytest.mark.parametrize("weights", ["equal", "decay", "uncertainty"])
def test_about_as_good_as_ridge_on_a_line(
    schema, settings, train, validation, make_rows, weights, r_squared
):
    learned, held, unseen = linear(train, 0), linear(validation, 1), linear(make_rows(2000, 9), 2)
    settings = settings.model_copy(update={"loss_weights": weights})
    score = []
    for family in (RidgeFamily(schema, settings), EncoderFamily(schema, settings, "cpu")):
        family.fit(learned, held, 0)
        returns = family.predict(unseen.features).returns
        score.append(r_squared(returns[:, 0], unseen.targets[:, 0]))
    assert score[1] > score[0] - 0.03


def test_losses_of_each_head_by_hand(schema, settings):
    losses = _Losses(schema, settings, REFERENCE)
    outputs = torch.tensor([[1.0, 2.0, 0.0, 0.0, 2.0], [3.0, 0.0, 0.0, 1.0, 0.0]])
    nan = math.nan
    labels = torch.tensor([[0.0, 2.5, nan, 1.0, 0.0], [nan, 1.0, nan, 0.0, nan]])
    total, count = losses.heads(outputs, labels)
    assert count.tolist() == [1, 2, 0, 2, 1]
    peak = math.log(2) + math.log(1 + math.e)
    expected = [1.0, 0.25 + 1.0, 0.0, peak, math.log(1 + math.e**2)]
    np.testing.assert_allclose(total.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "primary", "weights"),
    [
        ("equal", 0, [1, 1, 1, 1, 1]),
        ("decay", 0, [1, 6**-0.5, 78**-0.5, 1, 1]),
        ("decay", 1, [6**-0.5, 1, 13**-0.5, 1, 1]),
    ],
)
def test_fixed_weights_by_hand(schema, kind, primary, weights):
    settings = FamiliesConfig(loss_weights=kind, loss_decay=0.5)
    losses = _Losses(dataclasses.replace(schema, primary=primary), settings, REFERENCE)
    labels = torch.zeros((4, 5))
    outputs = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).repeat(4, 1)
    total, count = losses.heads(outputs, labels)
    relative = (total / count).detach().numpy() / REFERENCE
    expected = np.average(relative, weights=weights)
    assert losses(outputs, labels)[0].item() == pytest.approx(expected, rel=1e-6)
    assert losses.score(relative * REFERENCE) == pytest.approx(expected, rel=1e-6)


def test_uncertainty_is_kendall_and_starts_at_its_optimum(schema, settings):
    losses = _Losses(schema, settings, REFERENCE)
    s = losses.log_variances.detach().numpy().astype(float)
    np.testing.assert_allclose(s, np.log([1.0, 2.0, 0.5, 1.2, 0.6]), rtol=1e-5, atol=1e-6)
    labels, outputs = torch.zeros((4, 5)), torch.full((4, 5), 0.3)
    sums, count = losses.heads(outputs, labels)
    loss = (sums / count).detach().numpy().astype(float)
    expected = sum(np.exp(-s[:3]) * loss[:3] / 2 + s[:3] / 2)  # 1/(2 sigma^2) L + log sigma
    expected += sum(np.exp(-s[3:]) * loss[3:] + s[3:] / 2)  # 1/sigma^2 L + log sigma
    assert losses(outputs, labels)[0].item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        losses.log_variances += torch.tensor([99.0, -99.0, 0, 0, 0])
    losses.bound()
    bounded = losses.log_variances.tolist()[:2]
    assert bounded == [LOG_VARIANCE_BOUND, -LOG_VARIANCE_BOUND]


def test_at_the_reference_the_learned_weights_stand_still(schema, settings):
    losses = _Losses(schema, settings, REFERENCE)
    n = 3
    outputs = torch.zeros((1, 5))
    labels = torch.tensor(np.r_[np.sqrt(REFERENCE[:n]), math.nan, math.nan][None]).float()
    losses(outputs, labels)[0].backward()
    np.testing.assert_allclose(losses.log_variances.grad.numpy(), 0, atol=1e-6)


def test_a_head_without_labels_in_a_batch_pushes_nothing(schema, settings):
    losses = _Losses(schema, settings, REFERENCE)
    outputs = torch.zeros((3, 5), requires_grad=True)
    labels = torch.zeros((3, 5))
    labels[:, 1] = math.nan
    losses(outputs, labels)[0].backward()
    assert losses.log_variances.grad[1] == 0
    assert torch.equal(outputs.grad[:, 1], torch.zeros(3))
    assert torch.isfinite(outputs.grad).all()


def test_the_best_epoch_is_kept(fitted, settings, validation):
    family, log = fitted("encoder")
    curve = log.curves["validation loss"]
    best = int(log.notes["best epoch"]) - 1
    assert best == int(np.argmin(curve))
    assert len(curve) == log.notes["epochs"] == len(log.curves["training loss, valley"])
    returns = family.predict(validation.features).returns
    for horizon, label in enumerate(("5m", "30m", "1d")):
        error = np.nanmean((returns[:, horizon] - validation.targets[:, horizon]) ** 2)
        assert log.curves[f"validation loss, {label}"][best] == pytest.approx(error, rel=1e-4)


def test_stops_when_the_holdout_gets_no_better(schema, settings, make_rows):
    train, held = make_rows(300, 1, shuffled=True), make_rows(300, 2, shuffled=True)
    settings = settings.model_copy(update={"encoder_epochs": 200, "encoder_patience": 2})
    log = EncoderFamily(schema, settings, "cpu").fit(train, held, 0)
    assert log.notes["epochs"] == log.notes["best epoch"] + 2 < 200


def test_without_a_holdout_every_epoch_is_run(schema, settings, make_rows, empty):
    log = EncoderFamily(schema, settings, "cpu").fit(make_rows(300, 1), empty, 0)
    assert log.notes["epochs"] == log.notes["best epoch"] == settings.encoder_epochs
    assert "validation loss" not in log.curves


def test_a_gap_that_tells_is_learned(schema, settings, make_rows, empty, r_squared):
    rows = make_rows(3000, 5)
    told = np.isnan(rows.features[:, 2]).astype(np.float32)
    rows = dataclasses.replace(rows, targets=np.repeat(told[:, None], 3, axis=1))
    family = EncoderFamily(schema, settings, "cpu")
    family.fit(rows, empty, 0)
    assert r_squared(family.predict(rows.features).returns[:, 0], told) > 0.9


@pytest.mark.parametrize("changed", [{"encoder_layers": 1}, {"encoder_norm": False}])
def test_loads_with_the_layers_it_was_trained_with(schema, settings, make_rows, tmp_path, changed):
    rows = make_rows(300, 1)
    family = EncoderFamily(schema, settings.model_copy(update=changed), "cpu")
    family.fit(rows, rows, 0)
    family.save(tmp_path)
    loaded = EncoderFamily.load(tmp_path, schema, settings)
    np.testing.assert_array_equal(
        loaded.predict(rows.features).returns, family.predict(rows.features).returns
    )


def test_another_seed_another_network(schema, settings, make_rows):
    rows, prints = make_rows(300, 1), set()
    for seed in (0, 1):
        family = EncoderFamily(schema, settings, "cpu")
        family.fit(rows, rows, seed)
        prints.add(family.fingerprint())
    assert len(prints) == 2


def test_the_number_of_threads_changes_nothing_and_comes_back(schema, settings, make_rows):
    rows, prints, threads = make_rows(600, 1), set(), torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            family = EncoderFamily(schema, settings, "cpu")
            family.fit(rows, rows, 0)
            assert torch.get_num_threads() == n
            prints.add(family.fingerprint())
    finally:
        torch.set_num_threads(threads)
    assert len(prints) == 1


def test_divergence_is_an_error_not_a_forecast(schema, settings, train, empty):
    wild = dataclasses.replace(train, targets=train.targets * np.float32(1e30))
    with pytest.raises(DataError, match="diverged"):
        EncoderFamily(schema, settings, "cpu").fit(wild, empty, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_trains_on_a_gpu_and_forecasts_on_the_cpu(schema, settings, train, validation, r_squared):
    family = EncoderFamily(schema, settings)
    family.fit(train, validation, 0)
    returns = family.predict(validation.features).returns
    assert r_squared(returns[:, 0], validation.targets[:, 0]) > 0.15
