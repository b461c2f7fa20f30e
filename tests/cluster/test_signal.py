"""s-score, band-pass and age gate against loops, limits and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.cluster.signal import age_gate, band_pass, linear_scan, s_score


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def naive_score(residual, usable, window, cumulative):
    """Avellaneda & Lee's auxiliary process of one name at a time, standardised."""
    n_bars, n_assets = residual.shape
    out = np.zeros((n_bars - window + 1, n_assets))
    for name in range(n_assets):
        for bar in range(window - 1, n_bars):
            rows = slice(bar - window + 1, bar + 1)
            if usable[rows, name].all():
                increments = residual[rows, name]
                level = np.cumsum(increments) if cumulative else increments
                score = (level[-1] - level.mean()) / (level.std() + 1e-3)
                out[bar - window + 1, name] = score
    return out


@pytest.mark.parametrize("cumulative", [True, False])
def test_score_equals_the_loop(cumulative, rng):
    residual = rng.standard_normal((150, 4))
    usable = rng.random((150, 4)) < 0.98
    residual[~usable] = 0.0
    score, ready = s_score(torch.from_numpy(residual), torch.from_numpy(usable), 20, cumulative)
    expected = naive_score(residual, usable, 20, cumulative)
    assert score.shape == (131, 4)
    assert np.allclose(score.numpy(), expected, atol=1e-6)
    assert np.array_equal(ready.numpy(), expected != 0)


def test_score_of_noise_fires_as_often_as_it_says():
    """|z| > 2 on pure noise: about 5 %, where a sum divided by sigma fires two times in three."""
    residual = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    score, ready = s_score(residual, torch.ones(4000, 5, dtype=torch.bool), 60, False)
    assert bool(ready.all())
    assert 0.03 < float((score.abs() > 2).double().mean()) < 0.07
    total = residual.unfold(0, 60, 1).sum(2)
    assert float((total.abs() > 2).double().mean()) > 0.6


@given(
    entry=st.floats(0.5, 2), width=st.floats(0.5, 3), score=st.floats(-8, 8), sharp=st.floats(1, 50)
)
def test_band_is_open_between_entry_and_stop(entry, width, score, sharp):
    stop = entry + width
    soft, hard = (
        float(band_pass(tensor([score]), tensor(entry), tensor(stop), sharp, hard))
        for hard in (False, True)
    )
    assert 0.0 <= soft <= 1.0
    assert hard == float(entry < abs(score) < stop)
    logistic = [1 / (1 + np.exp(-sharp * x)) for x in (abs(score) - entry, stop - abs(score))]
    assert soft == pytest.approx(logistic[0] * logistic[1], abs=1e-6)


def test_band_edges():
    entry, stop = tensor(1.25), tensor(4.0)
    scores = tensor([0.0, 1.25, -1.25, 1.3, -2.0, 4.0, -4.0, 6.0])
    assert band_pass(scores, entry, stop, 10.0, True).tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    soft = band_pass(scores, entry, stop, 1e4, False)
    assert soft.tolist() == pytest.approx([0, 0.5, 0.5, 1, 1, 0.5, 0.5, 0])


@given(n_bars=st.integers(0, 70), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_scan_equals_the_loop(n_bars, seed):
    generator = np.random.default_rng(seed)
    keep, add = generator.random((n_bars, 3)), generator.standard_normal((n_bars, 3))
    state, expected = np.zeros(3), np.zeros((n_bars, 3))
    for bar in range(n_bars):
        expected[bar] = state = keep[bar] * state + add[bar]
    assert np.allclose(linear_scan(torch.from_numpy(keep), torch.from_numpy(add)), expected)


@pytest.mark.parametrize("n_bars", [1, 2, 7, 8, 13])
def test_scan_has_its_gradients(n_bars):
    generator = torch.Generator().manual_seed(n_bars)
    keep = torch.rand(n_bars, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    add = torch.randn(n_bars, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_scan, (keep, add))


def test_scan_of_a_bar_keeps_its_bits_whatever_follows():
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(200, 13, generator=generator)
    add = torch.randn(200, 13, generator=generator)
    whole = linear_scan(keep, add)
    for n_bars in range(1, 200, 3):
        assert torch.equal(linear_scan(keep[:n_bars], add[:n_bars]), whole[:n_bars])


def open_bars(active, score, max_age, hard=True, sharpness=4.0):
    """Bars at which a position is held: active and young."""
    columns = [torch.tensor(x, dtype=torch.float64).reshape(-1, 1) for x in (active, score)]
    _, mask = age_gate(*columns, max_age, sharpness, hard)
    return (columns[0] * mask)[:, 0].tolist()


@pytest.mark.parametrize("max_age", [1, 2, 5, 30])
def test_a_position_is_open_for_exactly_its_age(max_age):
    held = open_bars([1.0] * 60, [2.0] * 60, max_age)
    assert held == [1.0] * max_age + [0.0] * (60 - max_age)


def test_the_gate_is_not_half_shut_on_the_limit():
    """The first version used sigmoid(beta (T_max - age)): one half on the last bar allowed."""
    ages = torch.ones(10, 1)
    _, mask = age_gate(ages, 2.0 * ages, 5, 4.0, False)
    assert float(mask[4]) == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-3)
    assert float(mask[5]) == pytest.approx(1 / (1 + np.exp(2.0)), abs=1e-3)
    assert float(mask[3]) > 0.99
    assert float(mask[6]) < 0.01


def test_an_expired_position_rearms_only_after_flat():
    active = [1.0] * 8 + [0.0] + [1.0] * 4
    assert open_bars(active, [2.0] * 13, 3) == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]


def test_a_change_of_side_starts_anew():
    score = [2.0] * 5 + [-2.0] * 5
    assert open_bars([1.0] * 10, score, 3) == [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("activity", [0.8, 0.95, 1.0])
def test_a_softly_held_position_expires_too(activity):
    """With keep = active its age would level off at activity / (1 - activity) and never expire."""
    held = open_bars([activity] * 60, [2.0] * 60, 30, hard=False)
    assert min(held[:29]) > 0.95 * activity
    assert max(held[33:]) < 0.05


def test_without_a_limit_nothing_ages():
    age, mask = age_gate(torch.ones(9, 2), torch.ones(9, 2), None, 4.0, True)
    assert not age.any()
    assert bool((mask == 1).all())


def slow_age(active, score, max_age):
    """Hard gate, bar by bar: the rule in words."""
    age, held = 0, []
    for bar, on in enumerate(active):
        turned = bar > 0 and np.sign(score[bar]) != np.sign(score[bar - 1])
        age = 0 if not on else (1 if turned else age + 1)
        held.append(float(on and age <= max_age))
    return held


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_hard_gate_is_the_rule_in_words_and_the_limit_of_the_soft_one(bars):
    active = [float(on) for on, _ in bars]
    score = [3.0 if up else -3.0 for _, up in bars]
    expected = slow_age(active, score, 4)
    assert open_bars(active, score, 4) == expected
    assert open_bars(active, score, 4, hard=False, sharpness=200.0) == pytest.approx(
        expected, abs=1e-6
    )


def test_gradients_reach_what_opens_a_position():
    generator = torch.Generator().manual_seed(3)
    score = 2.0 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    entry, stop = tensor(1.25).requires_grad_(), tensor(4.0).requires_grad_()
    score.requires_grad_()
    active = band_pass(score, entry, stop, 10.0, False)
    _, mask = age_gate(active, score, 3, 4.0, False)
    (active * mask * torch.tanh(score)).square().sum().backward()
    assert all(float(x.grad.abs().max()) > 1e-3 for x in (score, entry, stop))


def test_age_gate_has_its_gradients():
    generator = torch.Generator().manual_seed(4)
    active = torch.rand(9, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    score = torch.randn(9, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, s: age_gate(a, s, 2, 4.0, False), (active, score))
