"""Elementwise functions whose value at a place does not depend on how much is computed beside it.

The library's own sigmoid rounds the last few entries of an array by another routine than the rest,
so the last bars of a stretch would change in their last bit when more bars follow.
"""

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, to 1e-7 in float32; the same bits wherever the entry stands."""
    return torch.tanh(0.5 * x) * 0.5 + 0.5
