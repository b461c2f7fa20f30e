"""Stages 2 and 3 at the level of a name: its clusters, its outlier gate, its consensus.

Axes are (n_rows, n_clusters, n_assets); a row is a bar with a whole window behind it. The soft
forms are written with their gradients, a few rows at a time, so that the arrays over clusters stay
in the processor's cache and only the assignments are kept for the backward pass.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dpa.cluster.elementwise import sigmoid

WEIGHT_FLOOR = 1e-6
NEAR_TIE = 1e-6  # clusters this near the nearest, relative in exp, share its subgradient
CACHE_FLOATS = 100000  # elements of one array over clusters that are worked on at a time


class Gating(NamedTuple):
    """Parameters of the assignments.

    Attributes
    ----------
    temperature : scalar Tensor
        Of the softmax, in units of cosine.
    threshold : scalar Tensor
        Cosine at which the outlier gate is half open.
    sharpness : float
        Slope of the gate, per cosine.
    hard : bool
        Nearest cluster and a step instead of softmax and sigmoid; no gradient.
    """

    temperature: Tensor
    threshold: Tensor
    sharpness: float
    hard: bool


class Consensus(NamedTuple):
    """What each name is held against, shape (n_rows, n_assets).

    Attributes
    ----------
    value : weighted mean of the newest values of its clusters' other members
    gate : outlier gate ``sigmoid(sharpness * (max_k similarity - threshold))``, 0 where invalid
    company : ``1 - exp(-w)``, in [0, 1), with `w` the membership around the name less its own: a
        name alone in its cluster has no consensus to be held against, and must not trade
    """

    value: Tensor
    gate: Tensor
    company: Tensor


def hard_assignment(
    product: Tensor, inverse_scale: Tensor, valid: Tensor, gating: Gating
) -> tuple[Tensor, Tensor]:
    """Nearest cluster as one-hot (n_rows, n_clusters, n_assets), and the gate as a step.

    Parameters as in :func:`leave_one_out_consensus`.
    """
    best, nearest = product.max(1)
    clusters = torch.arange(product.shape[1], device=product.device).reshape(1, -1, 1)
    q = (nearest.unsqueeze(1) == clusters).to(product.dtype)
    return q, (best * inverse_scale > gating.threshold).to(product.dtype) * valid


def membership(product: Tensor, inverse_scale: Tensor, valid: Tensor, gating: Gating) -> Tensor:
    """Gated assignments ``softmax(similarity / temperature) * gate``; 0 where invalid.

    Parameters as in :func:`leave_one_out_consensus`.

    Returns
    -------
    Tensor (n_rows, n_clusters, n_assets)
    """
    if gating.hard:
        q, gate = hard_assignment(product, inverse_scale, valid, gating)
        return q * gate.unsqueeze(1)
    gated: Tensor = _Membership.apply(  # type: ignore[no-untyped-call]
        product, inverse_scale, valid, gating.temperature, gating.threshold, gating.sharpness
    )
    return gated


def leave_one_out_consensus(
    product: Tensor, inverse_scale: Tensor, valid: Tensor, newest: Tensor, gating: Gating
) -> Consensus:
    """Consensus of each name's clusters, from the other members only.

    With assignments ``q = softmax(similarity / temperature)`` over clusters and membership
    ``a = q * gate``, the consensus of cluster k as name i sees it is
    ``(sum_j a_kj y_j - a_ki y_i) / (sum_j a_kj - a_ki)``, and the name's own consensus is the
    mean of these under its assignments. Only the newest value of the window enters: a reduction
    over names, not over names and window.

    Parameters
    ----------
    product : Tensor (n_rows, n_clusters, n_assets)
        Similarity before the division by the name's own scale.
    inverse_scale : Tensor (n_rows, n_assets)
        ``similarity = product * inverse_scale``, a cosine.
    valid : Tensor (n_rows, n_assets)
        1 where the name has a whole window, else 0.
    newest : Tensor (n_rows, n_assets)
        y, the newest standardised value of each name; 0 where invalid.
    gating : Gating

    Returns
    -------
    Consensus
    """
    if gating.hard:
        q, gate = hard_assignment(product, inverse_scale, valid, gating)
        value, others = _leave_one_out(q, gate, newest)
    else:
        value, gate, others = _SoftConsensus.apply(  # type: ignore[no-untyped-call]
            product,
            inverse_scale,
            valid,
            newest,
            gating.temperature,
            gating.threshold,
            gating.sharpness,
        )
    return Consensus(value, gate, 1.0 - torch.exp(-others))


def _leave_one_out(q: Tensor, gate: Tensor, newest: Tensor) -> tuple[Tensor, Tensor]:
    """The formulas of :func:`leave_one_out_consensus`, as they are written there."""
    own = q * gate.unsqueeze(1)
    weight = own.sum(2, keepdim=True)
    path = own * newest.unsqueeze(1)
    mean = (path.sum(2, keepdim=True) - path) / (weight - own).clamp_min(WEIGHT_FLOOR)
    return (q * mean).sum(1), ((q * weight).sum(1) - gate).clamp_min(0.0)


def _chunks(rows: int, per_row: int) -> Iterator[slice]:
    size = max(1, CACHE_FLOATS // per_row)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


class _Assigned(NamedTuple):
    """Assignments ``q = exponential * share`` of some rows, in parts; nothing over clusters twice.

    `exponential` (rows, n_clusters, n_assets) is 1 at the nearest cluster; `share` and `gate` are
    (rows, n_assets).
    """

    exponential: Tensor
    share: Tensor
    gate: Tensor


def _soft_assign(
    product: Tensor, inverse_scale: Tensor, valid: Tensor, gating: Gating, out: Tensor
) -> _Assigned:
    scale = inverse_scale / gating.temperature
    best = product.amax(1)
    torch.addcmul((best * -scale).unsqueeze(1), product, scale.unsqueeze(1), out=out)
    share = out.exp_().sum(1).reciprocal_()
    gate = sigmoid(gating.sharpness * (best * inverse_scale - gating.threshold)) * valid
    return _Assigned(out, share, gate)


def _assign_backward(
    d_q: Tensor,
    d_gate: Tensor,
    assigned: _Assigned,
    product: Tensor,
    inverse_scale: Tensor,
    valid: Tensor,
    gating: Gating,
    d_scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of product, temperature and threshold; `d_q` is overwritten by the first.

    The gradient of the inverse scale is written to `d_scale` where it is wanted.
    """
    exponential, share, gate = assigned
    mean = torch.linalg.vecdot(exponential, d_q, dim=1).mul_(share)
    d_logits = d_q.sub_(mean.unsqueeze(1)).mul_(exponential)  # less the share, which comes below
    d_best = d_gate * (gating.sharpness * gate * (valid - gate))
    d_temperature = d_q.new_zeros(())
    if gating.temperature.requires_grad or d_scale is not None:
        along = torch.linalg.vecdot(d_logits, product, dim=1).mul_(share / gating.temperature)
        d_temperature = -(along * inverse_scale).sum() / gating.temperature
        if d_scale is not None:
            torch.addcmul(along, d_best, product.amax(1), out=d_scale)
    d_product = d_logits.mul_((share * inverse_scale / gating.temperature).unsqueeze(1))
    # 1 at the nearest cluster, 0 elsewhere; comparing would make slow boolean arrays
    winner = exponential.add(NEAR_TIE).floor_()
    d_product.addcmul_(winner, (d_best * inverse_scale).unsqueeze(1))
    return d_product, d_temperature, -d_best.sum()


class _Membership(torch.autograd.Function):
    @staticmethod
    def forward(ctx, product, inverse_scale, valid, temperature, threshold, sharpness):  # type: ignore[no-untyped-def]
        gating = Gating(temperature, threshold, sharpness, False)
        exponential, gated = torch.empty_like(product), torch.empty_like(product)
        share, gate = torch.empty_like(inverse_scale), torch.empty_like(inverse_scale)
        for rows in _chunks(product.shape[0], product[0].numel()):
            part = _soft_assign(
                product[rows], inverse_scale[rows], valid[rows], gating, exponential[rows]
            )
            share[rows], gate[rows] = part.share, part.gate
            weight = (part.share * part.gate).unsqueeze(1)
            torch.mul(part.exponential, weight, out=gated[rows])
        ctx.save_for_backward(
            product, exponential, share, gate, inverse_scale, valid, temperature, threshold
        )
        ctx.sharpness = sharpness
        return gated

    @staticmethod
    def backward(ctx, d_gated):  # type: ignore[no-untyped-def]
        product, exponential, share, gate, inverse_scale, valid, *scalars = ctx.saved_tensors
        gating = Gating(scalars[0], scalars[1], ctx.sharpness, False)
        d_product = torch.empty_like(product)
        d_scale = torch.empty_like(inverse_scale) if ctx.needs_input_grad[1] else None
        d_temperature, d_threshold = product.new_zeros(()), product.new_zeros(())
        for rows in _chunks(product.shape[0], product[0].numel()):
            assigned = _Assigned(exponential[rows], share[rows], gate[rows])
            d_gate = torch.linalg.vecdot(exponential[rows], d_gated[rows], dim=1) * share[rows]
            d_product[rows], more_temperature, more_threshold = _assign_backward(
                d_gated[rows] * gate[rows].unsqueeze(1),
                d_gate,
                assigned,
                product[rows],
                inverse_scale[rows],
                valid[rows],
                gating,
                None if d_scale is None else d_scale[rows],
            )
            d_temperature += more_temperature
            d_threshold += more_threshold
        return d_product, d_scale, None, d_temperature, d_threshold, None


class _SoftConsensus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, product, inverse_scale, valid, newest, temperature, threshold, sharpness):  # type: ignore[no-untyped-def]
        gating = Gating(temperature, threshold, sharpness, False)
        exponential = torch.empty_like(product)
        value, gate, share, others = (torch.empty_like(newest) for _ in range(4))
        all_sums = product.new_empty(*product.shape[:2], 2)
        for rows in _chunks(product.shape[0], product[0].numel()):
            part = _soft_assign(
                product[rows], inverse_scale[rows], valid[rows], gating, exponential[rows]
            )
            share[rows], gate[rows] = part.share, part.gate
            all_sums[rows] = sums = _sums(part, newest[rows])
            _, mean = _others(part, newest[rows], sums)
            torch.mul(
                torch.linalg.vecdot(exponential[rows], mean, dim=1), share[rows], out=value[rows]
            )
            around = torch.linalg.vecdot(exponential[rows], sums[:, :, :1], dim=1)
            torch.addcmul(-part.gate, around, part.share, out=others[rows])
        others.clamp_min_(0.0)
        ctx.save_for_backward(
            product,
            exponential,
            share,
            gate,
            all_sums,
            others,
            inverse_scale,
            valid,
            newest,
            temperature,
            threshold,
        )
        ctx.sharpness = sharpness
        return value, gate, others

    @staticmethod
    def backward(ctx, d_value, d_gate, d_others):  # type: ignore[no-untyped-def]
        product, exponential, share, gate, sums, others, *constants = ctx.saved_tensors
        inverse_scale, valid, newest, *scalars = constants
        gating = Gating(scalars[0], scalars[1], ctx.sharpness, False)
        d_others = d_others * (others > 0)
        d_product = torch.empty_like(product)
        d_scale = torch.empty_like(inverse_scale) if ctx.needs_input_grad[1] else None
        d_temperature, d_threshold = product.new_zeros(()), product.new_zeros(())
        for rows in _chunks(product.shape[0], product[0].numel()):
            assigned = _Assigned(exponential[rows], share[rows], gate[rows])
            d_q, d_gate_here = _consensus_backward(
                assigned, newest[rows], sums[rows], d_value[rows], d_others[rows]
            )
            d_product[rows], more_temperature, more_threshold = _assign_backward(
                d_q,
                d_gate_here + d_gate[rows],
                assigned,
                product[rows],
                inverse_scale[rows],
                valid[rows],
                gating,
                None if d_scale is None else d_scale[rows],
            )
            d_temperature += more_temperature
            d_threshold += more_threshold
        return d_product, d_scale, None, None, d_temperature, d_threshold, None


def _sums(assigned: _Assigned, newest: Tensor) -> Tensor:
    """Weight of each cluster and weighted sum of its newest values, (rows, n_clusters, 2)."""
    own = assigned.exponential * (assigned.share * assigned.gate).unsqueeze(1)
    weight = own.sum(2)
    return torch.stack([weight, own.mul_(newest.unsqueeze(1)).sum(2)], 2)


def _others(assigned: _Assigned, newest: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """The others' weight in each cluster as each name sees it, and the mean of their newest."""
    weight = (assigned.share * assigned.gate).unsqueeze(1)
    exponential = assigned.exponential
    rest = torch.addcmul(sums[:, :, :1], exponential, weight, value=-1.0)
    rest.clamp_min_(WEIGHT_FLOOR)
    path = torch.addcmul(sums[:, :, 1:], exponential, weight * newest.unsqueeze(1), value=-1.0)
    return rest, path.div_(rest)


def _consensus_backward(
    assigned: _Assigned, newest: Tensor, sums: Tensor, d_value: Tensor, d_others: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the assignments (rows, n_clusters, n_assets) and of the gate."""
    exponential, share, gate = assigned
    rest, mean = _others(assigned, newest, sums)
    d_path = torch.div(exponential, rest, out=rest).mul_((d_value * share).unsqueeze(1))
    minus_d_rest = d_path * mean
    d_weights = (exponential * (d_others * share).unsqueeze(1)).sub_(minus_d_rest)
    d_weights = d_weights.sum(2, keepdim=True)
    # of a_ki: everyone's sums, less the name's own part
    d_own = minus_d_rest.addcmul_(d_path.sum(2, keepdim=True) - d_path, newest.unsqueeze(1))
    d_own += d_weights
    d_gate = torch.linalg.vecdot(exponential, d_own, dim=1).mul_(share).sub_(d_others)
    d_q = mean.mul_(d_value.unsqueeze(1)).addcmul_(d_own, gate.unsqueeze(1))
    return d_q.addcmul_(sums[:, :, :1], d_others.unsqueeze(1)), d_gate
