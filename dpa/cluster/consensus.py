"""Stage 3: what a name's cluster did at the newest bar, without the name itself."""

import torch
from torch import Tensor

WEIGHT_FLOOR = 1e-6


def leave_one_out_consensus(q: Tensor, gate: Tensor, newest: Tensor) -> tuple[Tensor, Tensor]:
    """Consensus of each name's clusters, from the other members only.

    With membership ``a = q * gate``, the consensus of cluster k as name i sees it is
    ``(sum_j a_kj y_j - a_ki y_i) / (sum_j a_kj - a_ki)``, and the name's own consensus is the
    mean of these under its assignments `q`. Only the newest bar of the window enters, so this is
    a reduction over names, not over names and window.

    Parameters
    ----------
    q : Tensor (n_rows, n_clusters, n_assets)
        Assignments, summing to 1 over clusters.
    gate : Tensor (n_rows, n_assets)
        Outlier gate; a gated-out name does not weigh on anyone's consensus.
    newest : Tensor (n_rows, n_assets)
        Newest standardised value of each name, 0 where invalid.

    Returns
    -------
    consensus : Tensor (n_rows, n_assets)
        In units of `newest`.
    company : Tensor (n_rows, n_assets)
        ``1 - exp(-weight of the other members)``, in [0, 1): a name alone in its cluster has no
        consensus to be held against, and must not trade.
    """
    consensus: Tensor
    company: Tensor
    consensus, others = _LeaveOneOut.apply(q, gate, newest)  # type: ignore[no-untyped-call]
    company = 1.0 - torch.exp(-others)
    return consensus, company


class _LeaveOneOut(torch.autograd.Function):
    """The formula above with its gradient written out: five passes fewer over (T, K, N)."""

    @staticmethod
    def forward(ctx, q, gate, newest):  # type: ignore[no-untyped-def]
        weight = torch.bmm(q, gate.unsqueeze(2))  # (T, K, 1) sum_j a_kj
        path = torch.bmm(q, (gate * newest).unsqueeze(2))  # (T, K, 1) sum_j a_kj y_j
        own = q * gate.unsqueeze(1)
        rest = (weight - own).clamp_min_(0.0)
        inverse = (rest + WEIGHT_FLOOR).reciprocal_()
        mean = torch.addcmul(path, own, newest.unsqueeze(1), value=-1.0).mul_(inverse)
        consensus = torch.linalg.vecdot(q, mean, dim=1)
        others = torch.linalg.vecdot(q, rest, dim=1)
        ctx.save_for_backward(q, gate, newest, rest, inverse, mean)
        return consensus, others

    @staticmethod
    def backward(ctx, d_consensus, d_others):  # type: ignore[no-untyped-def]
        q, gate, newest, rest, inverse, mean = ctx.saved_tensors
        d_consensus, d_others = d_consensus.unsqueeze(1), d_others.unsqueeze(1)
        d_q = mean * d_consensus
        d_q.addcmul_(rest, d_others)
        d_top = (q * inverse).mul_(d_consensus)  # of path - own * newest
        d_rest = torch.addcmul(q * d_others, d_top, mean, value=-1.0)
        d_weight, d_path = d_rest.sum(2, keepdim=True), d_top.sum(2, keepdim=True)
        # d of a_ki: everyone's sums minus its own part
        d_own = (d_weight - d_rest).addcmul_(d_path - d_top, newest.unsqueeze(1))
        d_q.addcmul_(d_own, gate.unsqueeze(1))
        d_gate = torch.linalg.vecdot(q, d_own, dim=1)
        return d_q, d_gate, None
