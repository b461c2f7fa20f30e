"""Whatever is wanted, the weights stay within the limits and only ever shrink."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpa.cluster.sizing import project

WANTED = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(-2, 2)
)
LIMITS = {"cap": st.floats(0.01, 0.5), "leverage": st.floats(0.1, 3), "neutral": st.booleans()}


@given(raw=WANTED, **LIMITS)
def test_limits_hold(raw, cap, leverage, neutral):
    wanted = torch.from_numpy(raw)
    weights, gross = project(wanted, cap, leverage, neutral)
    assert (weights.abs() <= cap + 1e-12).all()
    assert (weights.abs().sum(1) <= leverage + 1e-9).all()
    if neutral:
        assert (weights.sum(1).abs() <= 1e-9).all()
    assert (weights * wanted >= 0).all()  # no sign flips
    assert (weights.abs() <= wanted.abs() + 1e-15).all()  # only shrinks
    assert not weights[wanted == 0].any()
    assert (gross >= weights.abs().sum(1) - 1e-9).all()
    assert torch.isfinite(weights).all()


@given(raw=WANTED, seed=st.integers(0, 99), **LIMITS)
def test_the_order_of_names_does_not_matter(raw, seed, cap, leverage, neutral):
    order = torch.from_numpy(np.random.default_rng(seed).permutation(raw.shape[1]))
    wanted = torch.from_numpy(raw)
    weights, gross = project(wanted, cap, leverage, neutral)
    shuffled, again = project(wanted[:, order], cap, leverage, neutral)
    assert torch.allclose(shuffled, weights[:, order], atol=1e-12)
    assert torch.allclose(gross, again)


def test_by_hand():
    raw = torch.tensor([[0.3, 0.1, -0.1, 0.0]], dtype=torch.float64)
    weights, gross = project(raw, 0.2, 10.0, False)
    assert torch.allclose(weights, torch.tensor([[0.2, 0.1, -0.1, 0.0]], dtype=torch.float64))
    assert float(gross) == 0.4
    weights, gross = project(raw, 0.2, 0.1, True)  # legs 0.3 and 0.1, then gross 0.2 halved
    expected = [[0.1 * 2 / 3 / 2, 0.1 / 3 / 2, -0.05, 0.0]]
    assert torch.allclose(weights, torch.tensor(expected, dtype=torch.float64))
    assert abs(float(gross) - 0.2) < 1e-9


def test_names_within_the_limits_are_sized_independently():
    """No pie: adding a name leaves the others as they were while nothing binds."""
    few = torch.tensor([[0.02, -0.02]], dtype=torch.float64)
    more = torch.tensor([[0.02, -0.02, 0.02, -0.02]], dtype=torch.float64)
    assert torch.allclose(
        project(few, 0.05, 1.0, True)[0], project(more, 0.05, 1.0, True)[0][:, :2]
    )


def test_500_names_do_not_make_a_gross_of_10():
    raw = 0.02 * torch.sign(torch.randn(3, 500, generator=torch.Generator().manual_seed(0)))
    weights, gross = project(raw, 0.05, 1.0, True)
    assert (weights.abs().sum(1) <= 1.0 + 1e-6).all()
    assert (gross > 8).all()


def test_gradients_flow_through_every_step():
    raw = torch.tensor([[0.3, 0.1, -0.15, -0.02]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: project(r, 0.2, 0.25, True), (raw,))
