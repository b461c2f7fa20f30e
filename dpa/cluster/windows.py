"""Products with every trailing window of a series, without ever building the windows.

A panel of T bars and N names has T overlapping windows of W bars: as an array it would be
(names, bars, window). Everything here works on strided views of the (bars, names) series and on
matrix products of one fixed shape, so a bar's result does not depend on how many bars follow it,
not even in the last bit.
"""

from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

BLOCK = 64  # bars per block of a banded product


def window_view(x: Tensor, window: int) -> Tensor:
    """All trailing windows of `x`, as a view.

    Parameters
    ----------
    x : Tensor of shape (n_bars, n_assets), contiguous
    window : int
        Bars in a window, W.

    Returns
    -------
    Tensor of shape (n_bars - W + 1, W, n_assets)
        Entry [j, w] is bar ``j + w``; sharing memory with `x`.
    """
    n_bars, n_assets = x.shape
    return x.as_strided((n_bars - window + 1, window, n_assets), (n_assets, n_assets, 1))


def _blocks(x: Tensor, window: int, block: int) -> Tensor:
    """Overlapping blocks (n_blocks, window - 1 + block, n_assets) of `x`, zero-padded behind."""
    n_out = x.shape[0] - window + 1
    n_blocks = -(-n_out // block)
    padded = torch.nn.functional.pad(x, (0, 0, 0, n_blocks * block - n_out)).contiguous()
    n_assets = x.shape[1]
    shape = (n_blocks, window - 1 + block, n_assets)
    return padded.as_strided(shape, (block * n_assets, n_assets, 1))


@cache
def _band_index(window: int, block: int) -> tuple[Tensor, Tensor]:
    """Row and column of entry (j, w) of a band matrix: row j holds the kernel from column j."""
    row = torch.arange(block).repeat_interleave(window)
    lag = torch.arange(window).repeat(block)
    return row, row + lag


def _band(kernels: Tensor, block: int) -> Tensor:
    """Band matrix (block * n_kernels, window - 1 + block) whose row (j, k) is kernel k at j."""
    n_kernels, window = kernels.shape
    row, column = _band_index(window, block)
    band = kernels.new_zeros(block, n_kernels, window - 1 + block)
    band[row, :, column] = kernels.t().repeat(block, 1)
    return band.reshape(block * n_kernels, window - 1 + block)


class _WindowProduct(torch.autograd.Function):
    """Forward and gradient of :func:`window_product`; the series itself is a constant."""

    @staticmethod
    def forward(ctx: FunctionCtx, kernels: Tensor, x: Tensor, block: int) -> Tensor:
        n_kernels, window = kernels.shape
        n_out = x.shape[0] - window + 1
        blocks = _blocks(x, window, block)
        out = torch.matmul(_band(kernels, block), blocks)
        ctx.save_for_backward(blocks)
        ctx.shape = (n_kernels, window, block, n_out)  # type: ignore[attr-defined]
        return out.reshape(-1, n_kernels, x.shape[1])[:n_out]

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (blocks,) = ctx.saved_tensors  # type: ignore[attr-defined]
        n_kernels, window, block, n_out = ctx.shape  # type: ignore[attr-defined]
        n_blocks, width, n_assets = blocks.shape
        grad = torch.nn.functional.pad(
            grads[0].reshape(n_out, -1), (0, 0, 0, n_blocks * block - n_out)
        ).reshape(n_blocks, block * n_kernels, n_assets)
        band_grad = torch.bmm(grad, blocks.transpose(1, 2)).sum(0)
        row, column = _band_index(window, block)
        diagonals = band_grad.reshape(block, n_kernels, width)[row, :, column]
        return diagonals.reshape(block, window, n_kernels).sum(0).t(), None, None


def window_product(kernels: Tensor, x: Tensor, block: int = 16) -> Tensor:
    """Inner product of each kernel with each trailing window of each name.

    Parameters
    ----------
    kernels : Tensor of shape (n_kernels, window)
        Last entry meets the newest bar. Gradients flow to the kernels only.
    x : Tensor of shape (n_bars, n_assets)
        Finite values.
    block : int
        Bars handled by one banded product; more work saved, more multiplications with zero.

    Returns
    -------
    Tensor of shape (n_bars - window + 1, n_kernels, n_assets)
    """
    out: Tensor = _WindowProduct.apply(kernels, x, block)  # type: ignore[no-untyped-call]
    return out


def rolling_mean(x: Tensor, window: int) -> Tensor:
    """Mean of each trailing window of `x` (n_bars, n_assets); shape (n_bars - window + 1, ...)."""
    kernel = torch.full((1, window), 1.0 / window, dtype=x.dtype, device=x.device)
    return window_product(kernel, x, BLOCK)[:, 0]


def rolling_all(flags: Tensor, window: int) -> Tensor:
    """Whether all of the last `window` bars are True.

    Parameters
    ----------
    flags : bool Tensor of shape (n_bars, n_assets)

    Returns
    -------
    bool Tensor of shape (n_bars, n_assets); False while there are fewer than `window` bars.
    """
    false_so_far = torch.cumsum((~flags).to(torch.int32), 0)
    out = false_so_far.clone()
    out[window:] -= false_so_far[:-window] if window < flags.shape[0] else 0
    result: Tensor = out == 0
    result[: window - 1] = False
    return result


def rolling_score(path: Tensor, window: int, floor: float = 1e-3) -> Tensor:
    """Standard score of the newest value of `path` among the last `window` values.

    Parameters
    ----------
    path : Tensor of shape (n_bars, n_assets)
        Finite. Only differences within a window matter, so levels may be large.
    window : int
        Values in the score, the newest one included.
    floor : float
        Added to the standard deviation, in the units of `path`.

    Returns
    -------
    Tensor of shape (n_bars - window + 1, n_assets)
        ``(x - mean) / (std + floor)`` with the population standard deviation, of bars
        ``window - 1`` and later; no rows when there are fewer bars.
    """
    n_out = max(0, path.shape[0] - window + 1)
    if n_out == 0:
        return path[:0]
    blocks = _blocks_differentiable(path, window, BLOCK)
    local = blocks - blocks[:, :1]  # levels cancel: a running sum may drift far from zero
    band = _band(torch.full((1, window), 1.0 / window, dtype=path.dtype, device=path.device), BLOCK)
    mean = torch.matmul(band, local)
    square = torch.matmul(band, local * local)
    variance = (square - mean * mean).clamp_min(1e-12)
    score = (local[:, window - 1 :] - mean) / (variance.sqrt() + floor)
    return score.reshape(-1, path.shape[1])[:n_out]


def _blocks_differentiable(x: Tensor, window: int, block: int) -> Tensor:
    n_out = x.shape[0] - window + 1
    n_blocks = -(-n_out // block)
    padded = torch.nn.functional.pad(x, (0, 0, 0, n_blocks * block - n_out))
    return padded.unfold(0, window - 1 + block, block).transpose(1, 2)
