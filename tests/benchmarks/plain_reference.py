"""The cluster model (price paths, fixed-in-time shapes) written the plain way, as a yardstick.

Every epoch unfolds the windows, standardises and normalises them, and forms the leave-one-out
consensus over the whole window; autograd does the rest. float32, one fold at a time. It shares no
code with dpa but the settings, and serves as the oracle of the fast model's positions.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dpa.config import Settings


def plain_weights(log_prices: Tensor, shapes: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Target weights (n_bars, n_assets), 0 before warm-up, and wanted gross (n_bars,)."""
    model = settings.model
    windows = log_prices.unfold(0, model.window, 1)  # (rows, names, window)
    mean = windows.mean(2, keepdim=True)
    deviation = windows.std(2, keepdim=True, correction=0)
    path = (windows - mean) / deviation
    unit = normalize(path, dim=2)
    centred = normalize(shapes - shapes.mean(1, keepdim=True), dim=1)
    similarity = torch.einsum("tnw,kw->tnk", unit, centred)
    q = torch.softmax(similarity / model.temperature, 2)
    best = similarity.max(2).values
    gate = torch.sigmoid(model.gate_sharpness * (best - model.similarity_threshold))
    member = q * gate.unsqueeze(2)
    total = member.sum(1, keepdim=True)
    share = q / (total - member).clamp_min(1e-6)
    sums = torch.einsum("tnk,tnw->tkw", member, path)
    everyone = torch.einsum("tnk,tkw->tnw", share, sums)
    consensus = everyone - (share * member).sum(2, keepdim=True) * path
    residual_path = path - consensus
    residual = residual_path[:, :, -1]
    company = 1.0 - torch.exp(-((q * total).sum(2) - gate).clamp_min(0.0))
    history = residual.unfold(0, model.residual_bars, 1)
    spread = history.var(2, correction=0).clamp_min(1e-12).sqrt()
    score = (history[:, :, -1] - history.mean(2)) / (spread + 1e-3)
    score = torch.cat([score.new_zeros(model.residual_bars - 1, score.shape[1]), score])
    ready = (torch.arange(score.shape[0]) >= model.residual_bars - 1).unsqueeze(1)
    size, sharp = score.abs(), model.band_sharpness
    entry, stop = model.entry_threshold, model.stop_threshold
    band = torch.sigmoid(sharp * (size - entry)) * torch.sigmoid(sharp * (stop - size))
    active = band * gate * ready
    young = _age_mask(active, score, model.max_age or math.inf, model.age_sharpness)
    raw = -model.position_unit * torch.tanh(model.signal_scale * score) * active * young * company
    weights, gross = _project(raw, model.name_cap, model.max_leverage, model.dollar_neutral)
    before = model.window - 1
    blank = weights.new_zeros(before, weights.shape[1])
    return torch.cat([blank, weights]), torch.cat([blank[:, 0], gross])


def _age_mask(active: Tensor, score: Tensor, max_age: float, sharpness: float) -> Tensor:
    age = torch.zeros_like(active[0])
    ages = []
    side_before = torch.tanh(4.0 * score[0])
    for now, s in zip(active, score, strict=True):
        side = torch.tanh(4.0 * s)
        now = torch.sigmoid(20.0 * (now - 0.5))
        age = now * (0.5 * (1.0 + side * side_before)).clamp(0.0, 1.0) * age + now
        side_before = side
        ages.append(age)
    return torch.sigmoid(sharpness * (max_age + 0.5 - torch.stack(ages)))


def _project(raw: Tensor, cap: float, leverage: float, neutral: bool) -> tuple[Tensor, Tensor]:
    weights = raw.clamp(-cap, cap)
    if neutral:
        longs, shorts = weights.clamp_min(0.0), (-weights).clamp_min(0.0)
        long_sum, short_sum = longs.sum(1, keepdim=True), shorts.sum(1, keepdim=True)
        leg = torch.minimum(long_sum, short_sum)
        weights = longs * (leg / (long_sum + 1e-12)) - shorts * (leg / (short_sum + 1e-12))
    gross = weights.abs().sum(1, keepdim=True)
    return weights * (leverage / (gross + 1e-12)).clamp_max(1.0), gross.squeeze(1)


def plain_loss(
    weights: Tensor,
    wanted_gross: Tensor,
    returns: Tensor,
    fit: slice,
    settings: Settings,
    bars_per_year: float,
) -> tuple[Tensor, Tensor]:
    """Training loss and net Sharpe of the bars in `fit`.

    Lag 1, linear costs and borrow, drifting holdings.
    """
    costs, training = settings.costs, settings.training
    held = torch.cat([torch.zeros_like(weights[:1]), weights[:-1]])
    gross = (held * returns).sum(1)
    before = torch.cat([torch.zeros_like(held[:1]), held[:-1]])
    growth = torch.cat([torch.zeros_like(returns[:1]), returns[:-1]])
    drifted = before * (1.0 + growth) / (1.0 + (before * growth).sum(1, keepdim=True))
    trades = (held - drifted).abs().sum(1)
    rate = (costs.half_spread_bps + costs.commission_bps) * 1e-4
    borrow = costs.borrow_bps_per_year * 1e-4 / bars_per_year
    net = gross - rate * trades - borrow * (-held).clamp_min(0.0).sum(1)
    net, trades = net[fit], trades[fit]
    sharpe = net.mean() * bars_per_year / (net.std(correction=0) * bars_per_year**0.5 + 0.0016)
    over = torch.relu(wanted_gross[fit] - settings.model.max_leverage).square().mean()
    busy = torch.relu(trades.mean() - training.turnover_budget)
    return -sharpe + training.turnover_penalty * busy + training.leverage_penalty * over, sharpe


def plain_train(
    log_prices: Tensor,
    returns: Tensor,
    shapes: Tensor,
    fit: slice,
    settings: Settings,
    bars_per_year: float,
) -> Tensor:
    """Shapes with the best training Sharpe among the settings' epochs of Adam."""
    shapes = shapes.clone().requires_grad_()
    optimizer = torch.optim.Adam([shapes], lr=settings.training.learning_rate)
    best, best_sharpe = shapes.detach().clone(), -math.inf
    for epoch in range(settings.training.epochs + 1):
        weights, wanted = plain_weights(log_prices, shapes, settings)
        loss, sharpe = plain_loss(weights, wanted, returns, fit, settings, bars_per_year)
        if float(sharpe.detach()) > best_sharpe:
            best, best_sharpe = shapes.detach().clone(), float(sharpe.detach())
        if epoch == settings.training.epochs:
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([shapes], settings.training.gradient_clip)
        optimizer.step()
    return best
