"""A bar's value must not depend on how many bars follow, not even in the last bit."""

import pytest
import torch

from dpa.cluster.elementwise import sigmoid


def test_sigmoid_is_the_logistic_function():
    x = torch.linspace(-30, 30, 301)
    exact = 1.0 / (1.0 + torch.exp(-x.double()))
    assert torch.allclose(sigmoid(x).double(), exact, atol=1e-7, rtol=0)
    assert ((sigmoid(x) >= 0) & (sigmoid(x) <= 1)).all()


@pytest.mark.parametrize("function", [sigmoid, torch.tanh, torch.exp])
def test_bits_do_not_depend_on_the_length(function):
    x = torch.randn(67, 13, generator=torch.Generator().manual_seed(0)) * 3
    whole = function(x)
    for n_bars in range(1, len(x)):
        assert torch.equal(function(x[:n_bars].clone()), whole[:n_bars]), n_bars


def test_sigmoid_has_its_gradient():
    x = torch.linspace(-8, 8, 33, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sigmoid, (x,))
    far = torch.tensor([-200.0, 200.0], requires_grad=True)
    sigmoid(far).sum().backward()
    assert far.grad.tolist() == [0.0, 0.0]
