"""Assignments, gate and leave-one-out consensus against a slow triple loop."""

import math

import numpy as np
import pytest
import torch

from dpa.cluster.consensus import (
    WEIGHT_FLOOR,
    Gating,
    leave_one_out_consensus,
    membership,
)

ROWS, CLUSTERS, NAMES = 3, 4, 7


def gating(temperature=0.2, threshold=0.3, sharpness=20.0, hard=False, dtype=torch.float64):
    return Gating(
        torch.tensor(temperature, dtype=dtype),
        torch.tensor(threshold, dtype=dtype),
        sharpness,
        hard,
    )


def case(rng, rows=ROWS, clusters=CLUSTERS, names=NAMES):
    """Product, inverse scale, valid, newest; one name of the first row is not valid."""
    scale = rng.uniform(0.5, 2.0, (rows, names))
    cosine = rng.uniform(-0.2, 0.9, (rows, clusters, names))
    valid = np.ones((rows, names))
    valid[0, 2] = 0.0
    newest = rng.standard_normal((rows, names)) * valid
    arrays = (cosine * scale[:, None], valid / scale, valid, newest)
    return tuple(torch.from_numpy(a) for a in arrays)


def slow(product, inverse_scale, valid, newest, g):
    """The formulas of the docstring, number by number."""
    p, inv, ok, y = (a.numpy() for a in (product, inverse_scale, valid, newest))
    rows, clusters, names = p.shape
    tau, threshold = float(g.temperature), float(g.threshold)
    gated, value = np.zeros(p.shape), np.zeros(y.shape)
    gate, company = np.zeros(y.shape), np.zeros(y.shape)
    for t in range(rows):
        q = np.zeros((clusters, names))
        for i in range(names):
            cosine = [p[t, k, i] * inv[t, i] for k in range(clusters)]
            if g.hard:
                q[int(np.argmax(p[t, :, i])), i] = 1.0
                gate[t, i] = ok[t, i] * (max(cosine) > threshold)
            else:
                shares = [math.exp(c / tau) for c in cosine]
                q[:, i] = np.array(shares) / sum(shares)
                gate[t, i] = ok[t, i] / (1 + math.exp(-g.sharpness * (max(cosine) - threshold)))
            gated[t, :, i] = q[:, i] * gate[t, i]
        for i in range(names):
            around = 0.0
            for k in range(clusters):
                others = [j for j in range(names) if j != i]
                weight = sum(gated[t, k, j] for j in others)
                path = sum(gated[t, k, j] * y[t, j] for j in others)
                value[t, i] += q[k, i] * path / max(weight, WEIGHT_FLOOR)
                around += q[k, i] * sum(gated[t, k])
            company[t, i] = 1 - math.exp(-max(around - gate[t, i], 0.0))
    return gated, value, gate, company


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("rows", [3, 40])
def test_everything_equals_the_slow_loop(hard, rows, rng):
    arrays, g = case(rng, rows), gating(hard=hard)
    gated, value, gate, company = slow(*arrays, g)
    product, inverse_scale, valid, _ = arrays
    assert np.allclose(membership(product, inverse_scale, valid, g), gated, atol=1e-6)
    ours = leave_one_out_consensus(*arrays, g)
    assert np.allclose(ours.value, value, atol=1e-5)
    assert np.allclose(ours.gate, gate, atol=1e-6)
    assert np.allclose(ours.company, company, atol=1e-6)


def test_chunks_of_rows_change_nothing(rng, monkeypatch):
    arrays = case(rng, 30)
    whole = leave_one_out_consensus(*arrays, gating())
    monkeypatch.setattr("dpa.cluster.consensus.CACHE_FLOATS", 4 * CLUSTERS * NAMES)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole, leave_one_out_consensus(*arrays, gating()), strict=True)
    )


def test_membership_has_its_gradients(rng):
    product, inverse_scale, valid, _ = case(rng)
    g = gating()

    def function(product, inverse_scale, temperature, threshold):
        soft = Gating(temperature, threshold, 5.0, False)
        return membership(product, inverse_scale * valid, valid, soft)

    parts = (product, inverse_scale, g.temperature, g.threshold)
    inputs = [x.clone().requires_grad_() for x in parts]
    assert torch.autograd.gradcheck(function, inputs)


def test_consensus_has_its_gradients(rng):
    product, inverse_scale, valid, newest = case(rng)
    g = gating()

    def function(product, inverse_scale, temperature, threshold):
        soft = Gating(temperature, threshold, 5.0, False)
        return tuple(leave_one_out_consensus(product, inverse_scale * valid, valid, newest, soft))

    parts = (product, inverse_scale, g.temperature, g.threshold)
    inputs = [x.clone().requires_grad_() for x in parts]
    assert torch.autograd.gradcheck(function, inputs)


def test_a_name_is_never_part_of_its_own_consensus(rng):
    """Whatever name 1 does, its consensus stays; everybody else's moves."""
    product, inverse_scale, valid, newest = case(rng)
    moved = newest.clone()
    moved[1, 1] += 5.0
    for hard in (False, True):
        g = gating(hard=hard, threshold=-1.0)
        before = leave_one_out_consensus(product, inverse_scale, valid, newest, g).value
        after = leave_one_out_consensus(product, inverse_scale, valid, moved, g).value
        assert after[1, 1] == pytest.approx(float(before[1, 1]), abs=1e-9)
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        if not hard:
            others = [i for i in range(NAMES) if i != 1]
            assert ((after[1, others] - before[1, others]).abs() > 1e-6).all()


def test_a_singleton_would_have_residual_0_with_its_own_consensus():
    """Two names alone in their clusters: nobody to be held against, and they must not trade."""
    product = torch.tensor([[[0.9, -0.9], [-0.9, 0.9]]], dtype=torch.float64)
    one = torch.ones(1, 2, dtype=torch.float64)
    newest = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for hard in (False, True):
        seen = leave_one_out_consensus(
            product, one, one, newest, gating(temperature=0.02, hard=hard)
        )
        assert seen.company.abs().max() < 1e-6
        assert (newest - seen.value).abs().min() > 0.9


def test_an_outlier_does_not_move_the_others(rng):
    product, inverse_scale, valid, newest = case(rng)
    product[:, :, 3] = -0.9 / inverse_scale[:, 3:4]  # unlike every cluster: gate shut
    wild = newest.clone()
    wild[:, 3] = 1e6
    others = [i for i in range(NAMES) if i != 3]
    for hard, tolerance in ((False, 1e-3), (True, 0.0)):
        before = leave_one_out_consensus(product, inverse_scale, valid, newest, gating(hard=hard))
        after = leave_one_out_consensus(product, inverse_scale, valid, wild, gating(hard=hard))
        assert float(after.gate[:, 3].max()) < 1e-8
        difference = (after.value - before.value)[:, others].abs().max()
        assert float(difference) <= tolerance


def test_an_invalid_name_takes_no_part(rng):
    product, inverse_scale, valid, newest = case(rng)
    seen = leave_one_out_consensus(product, inverse_scale, valid, newest, gating())
    assert seen.gate[0, 2] == 0.0
    rest = [i for i in range(NAMES) if i != 2]
    without = leave_one_out_consensus(
        product[:1, :, rest], inverse_scale[:1, rest], valid[:1, rest], newest[:1, rest], gating()
    )
    assert torch.allclose(seen.value[:1, rest], without.value, atol=1e-12)
    assert torch.allclose(seen.company[:1, rest], without.company, atol=1e-12)


def test_hard_is_the_limit_of_soft(rng):
    arrays = case(rng)
    hard = leave_one_out_consensus(*arrays, gating(hard=True))
    soft = leave_one_out_consensus(*arrays, gating(temperature=1e-6, sharpness=1e6))
    valid = arrays[2] > 0
    for a, b in zip(hard, soft, strict=True):
        assert torch.allclose(a[valid], b[valid], atol=1e-4)


def test_equivariance_to_the_order_of_names_and_clusters(rng):
    product, inverse_scale, valid, newest = case(rng)
    names, clusters = torch.from_numpy(rng.permutation(NAMES)), torch.tensor([2, 0, 3, 1])
    plain = leave_one_out_consensus(product, inverse_scale, valid, newest, gating())
    other = leave_one_out_consensus(
        product[:, clusters][:, :, names], inverse_scale[:, names], valid[:, names],
        newest[:, names], gating(),
    )  # fmt: skip
    for a, b in zip(plain, other, strict=True):
        assert torch.allclose(a[:, names], b, atol=1e-12)


def test_single_precision_keeps_a_lone_name_quiet():
    """Leaving a name out of a sum it dominates loses digits; it has no company, so no weight."""
    product = torch.full((1, 2, 30), -0.9)
    product[0, 0, 0] = 0.99
    product[0, 1, 1:] = 0.9
    one = torch.ones(1, 30)
    newest = torch.linspace(-2, 2, 30).reshape(1, -1)
    seen = leave_one_out_consensus(
        product, one, one, newest, gating(temperature=0.05, dtype=torch.float32)
    )
    assert float(seen.company[0, 0]) < 1e-5
    assert bool(torch.isfinite(seen.value).all())
    assert float(seen.value[0, 1:].abs().max()) < 0.2
