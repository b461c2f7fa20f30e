"""Window products and rolling moments against unfolded windows and pandas."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.cluster.windows import (
    rolling_all,
    rolling_mean,
    rolling_score,
    window_product,
    window_view,
)

SHAPES = {
    "n_kernels": st.integers(1, 4),
    "window": st.integers(1, 23),
    "extra": st.integers(0, 150),
    "n_assets": st.integers(1, 5),
    "block": st.sampled_from([1, 3, 16, 64]),
}


def random_case(n_kernels, window, extra, n_assets, dtype=torch.float64):
    generator = torch.Generator().manual_seed(window * 1000 + extra)
    kernels = torch.randn(n_kernels, window, generator=generator, dtype=dtype)
    x = torch.randn(window + extra, n_assets, generator=generator, dtype=dtype)
    return kernels, x


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_product_and_gradient_equal_those_of_unfolded_windows(
    n_kernels, window, extra, n_assets, block
):
    kernels, x = random_case(n_kernels, window, extra, n_assets)
    ours, plain = kernels.clone().requires_grad_(), kernels.clone().requires_grad_()
    out = window_product(ours, x, block)
    expected = torch.einsum("kw,tnw->tkn", plain, x.unfold(0, window, 1))
    assert torch.allclose(out, expected, atol=1e-12)
    weight = torch.randn_like(expected)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.allclose(ours.grad, plain.grad, atol=1e-10)


@pytest.mark.parametrize(("extra", "block"), [(0, 16), (5, 4), (17, 16)])
def test_product_passes_gradcheck(extra, block):
    kernels, x = random_case(2, 4, extra, 3)
    kernels.requires_grad_()
    assert torch.autograd.gradcheck(lambda k: window_product(k, x, block), (kernels,))


def test_views_are_the_windows_themselves(rng):
    x = torch.from_numpy(rng.standard_normal((9, 2)))
    view = window_view(x, 4)
    assert torch.equal(view, x.unfold(0, 4, 1).transpose(1, 2))
    assert view.data_ptr() == x.data_ptr()


@given(window=st.integers(1, 23), n_bars=st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_rolling_all_equals_the_loop(window, n_bars):
    flags = np.random.default_rng(n_bars).random((n_bars, 3)) < 0.9
    slow = [flags[t - window + 1 : t + 1].all(0) & (t >= window - 1) for t in range(n_bars)]
    assert np.array_equal(rolling_all(torch.from_numpy(flags), window).numpy(), np.array(slow))


@given(window=st.integers(2, 70), extra=st.integers(0, 200))
@settings(max_examples=25, deadline=None)
def test_rolling_mean_and_score_equal_pandas(window, extra):
    path = np.random.default_rng(extra).standard_normal((window + extra, 3)).cumsum(0)
    frame = pd.DataFrame(path)
    mean, std = frame.rolling(window).mean(), frame.rolling(window).std(ddof=0)
    x = torch.from_numpy(path)
    rows = slice(window - 1, None)
    assert np.allclose(rolling_mean(x, window).numpy(), mean[rows], atol=1e-10)
    expected = ((frame - mean) / (std + 1e-3))[rows]
    assert np.allclose(rolling_score(x, window).numpy(), expected, atol=1e-6)


def test_score_does_not_mind_a_far_away_level(rng):
    path = rng.standard_normal((300, 4)).cumsum(0)
    near = rolling_score(torch.from_numpy(path).float(), 60)
    far = rolling_score(torch.from_numpy(path + 2000.0).float(), 60)  # as after years of drift
    assert torch.allclose(near, far, atol=2e-3)


def test_score_of_a_path_that_does_not_move_is_0_and_short_paths_have_none():
    assert not rolling_score(torch.full((80, 2), 7.0), 20).any()
    assert rolling_score(torch.zeros(19, 2), 20).shape == (0, 2)
    assert rolling_score(torch.zeros(20, 2), 20).shape == (1, 2)


def test_score_has_its_gradient():
    x = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda p: rolling_score(p, 4), (x.requires_grad_(),))


@pytest.mark.parametrize("n_assets", [2, 13, 16])
def test_bits_of_a_bar_do_not_depend_on_the_bars_after_it(n_assets, rng):
    window = 11
    kernels = torch.from_numpy(rng.standard_normal((3, window))).float()
    x = torch.from_numpy(rng.standard_normal((260, n_assets)).cumsum(0)).float()
    functions = {
        "product": lambda x: window_product(kernels, x),
        "mean": lambda x: rolling_mean(x, window),
        "score": lambda x: rolling_score(x, window),
        "all": lambda x: rolling_all(x > -3, window)[window - 1 :],
    }
    for name, function in functions.items():
        whole = function(x)
        for n_bars in range(window, len(x), 7):
            rows = n_bars - window + 1
            assert torch.equal(function(x[:n_bars])[:rows], whole[:rows]), (name, n_bars)
