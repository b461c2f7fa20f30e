"""A decision in words: why a symbol is not traded, or not more, and every number behind it."""

import difflib
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from dpa.decision.arbitration import SHORTEST, cost_parts, session_minutes
from dpa.decision.decision import Decision
from dpa.decision.gates import age_limit
from dpa.decision.types import Action, Reason
from dpa.errors import DataError
from dpa.market.costs import CostModel
from dpa.text import columns

REASON_WORDS = {
    Reason.NONE: "",
    Reason.NOT_A_MEMBER: "it is not a member of the universe",
    Reason.NO_FORECAST: "there is no forecast",
    Reason.NO_FAMILY: "no family answered",
    Reason.NO_SCORE: "there are too few past forecasts to score it",
    Reason.NO_SKILL: "no family has skill",
    Reason.COST_UNKNOWN: "the cost is not known",
    Reason.BELOW_RESERVE: "alpha is too small for its cost",
    Reason.NO_QUOTE: "there is no quote",
    Reason.SPREAD_WIDE: "the spread is too wide",
    Reason.QUOTE_OLD: "the quote is too old",
    Reason.BARRIER_UNKNOWN: "the probability of a barrier is not known",
    Reason.BARRIER_BLOCK: "an adverse barrier is too likely to open a position",
    Reason.BARRIER_EXIT: "an adverse barrier is too likely to keep the position",
    Reason.ALPHA_TURNED: "alpha is against the position",
    Reason.BAND: "the change is within the no-trade band",
    Reason.LOT: "the change is less than a lot",
    Reason.NAME_LIMIT: "the most of one name is reached",
    Reason.GROSS_LIMIT: "the gross exposure allowed is used",
    Reason.NET_LIMIT: "the net exposure allowed is used",
    Reason.ORDER_LIMIT: "the most of one order is reached",
    Reason.RATE_LIMIT: "there were too many orders in 60 seconds",
    Reason.RISK_REDUCE_ONLY: "risk is only reduced",
    Reason.RISK_FLATTEN: "every position is closed",
    Reason.RISK_HALTED: "trading is halted",
    Reason.QUOTE_ODD: "the quote is too far from the close",
    Reason.NO_RECORD: "no family has shown skill yet",
    Reason.ENOUGH_HELD: "as much is held as it would be given",
}


def why(decision: Decision, k: int) -> str:
    """Why symbol number `k` is not traded, or not more, with the numbers; empty: nothing kept it.

    Limits are named only where the decision knows its settings.
    """
    return Words(decision).why(k)


class Words:
    """Reasons of one decision in words; shared work is done once for all symbols."""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision
        self._reasons: list[int] = decision.sizes.reason.tolist()
        self._tell: list[Callable[[int], str]] = [
            getattr(self, "_" + reason.name.lower(), self._plain) for reason in Reason
        ]

    def why(self, k: int) -> str:
        """As :func:`why`."""
        return self._tell[self._reasons[k]](k)

    def _plain(self, k: int) -> str:
        return REASON_WORDS[Reason(self._reasons[k])]

    @cached_property
    def _labels(self) -> list[str]:
        return [horizon.label for horizon in self._decision.snapshot.forecasts.horizons]

    @cached_property
    def _leading(self) -> list[int]:
        return self._decision.arbitration.leading.tolist()  # type: ignore[no-any-return]

    @cached_property
    def _net(self) -> list[list[float]]:
        return self._decision.arbitration.net.tolist()  # type: ignore[no-any-return]

    @cached_property
    def _spread(self) -> list[float]:
        return self._decision.snapshot.market.spread_bps.tolist()  # type: ignore[no-any-return]

    @cached_property
    def _held(self) -> list[float]:
        return self._decision.snapshot.market.weight.tolist()  # type: ignore[no-any-return]

    @cached_property
    def _samples(self) -> list[int]:
        samples = self._decision.beliefs.n_samples
        shape = samples.shape[-1]
        return samples.reshape(-1, shape).max(axis=0, initial=0).tolist()  # type: ignore[no-any-return]

    def _limit(self, section: str, name: str, form: str = "g", words: str = "limit") -> str:
        """``, limit 12``, or nothing where the settings are not known."""
        settings = self._decision.settings
        value = None if settings is None else getattr(getattr(settings, section), name)
        return "" if value is None else f", {words} {value:{form}}"

    def _no_forecast(self, k: int) -> str:
        said = self._decision.snapshot.forecasts.reasons
        return (said[k] if said else "") or REASON_WORDS[Reason.NO_FORECAST]

    def _no_family(self, k: int) -> str:
        left_out = self._decision.snapshot.forecasts.left_out
        causes = ", ".join(f"{family} ({cause})" for family, cause in left_out.items())
        skilled = (self._decision.blend.merit > 0).any()
        words = "no family with skill answered" if skilled else REASON_WORDS[Reason.NO_FAMILY]
        return words + (f": {causes}" if causes else "")

    def _no_score(self, k: int) -> str:
        needed = self._limit("standardise", "score_samples", "d", "a score needs")
        return f"{self._samples[k]} past forecasts{needed or ' are too few to score it'}"

    @cached_property
    def _skill(self) -> tuple[str, str]:
        """Why there is no skill, and why there is none yet."""
        merit, ic = self._decision.blend.merit, self._decision.beliefs.ic
        words = REASON_WORDS[Reason.NO_RECORD]
        if np.isnan(merit).all():
            return "", f"{words}: no forecast has matured"
        yet = f"{words}: the best IC less cost is {np.nanmax(merit):.4f}"
        none = f"{REASON_WORDS[Reason.NO_SKILL]}: the best IC is {np.nanmax(ic):.4f}"
        return none, yet

    def _no_skill(self, k: int) -> str:
        return self._skill[0]

    def _no_record(self, k: int) -> str:
        return self._skill[1]

    def _cost_unknown(self, k: int) -> str:
        market = self._decision.snapshot.market
        if not market.adv_usd[k] > 0:
            return "the cost is not known: no daily traded value"
        return REASON_WORDS[Reason.COST_UNKNOWN]

    def _below_reserve(self, k: int) -> str:
        place = self._leading[k]
        least = self._limit("arbitration", "reserve_bps", words="needed")
        return f"net is {self._net[place][k]:.2f} bps over {self._labels[place]}{least}"

    def _no_quote(self, k: int) -> str:
        market = self._decision.snapshot.market
        bid, ask = market.bid[k], market.ask[k]
        if math.isfinite(bid) and math.isfinite(ask):
            return f"bid {bid:g} and ask {ask:g} are no quote"
        return REASON_WORDS[Reason.NO_QUOTE]

    def _spread_wide(self, k: int) -> str:
        settings = self._decision.settings
        if settings is None:
            return f"spread {self._spread[k]:.1f} bps is too wide"
        return f"spread {self._spread[k]:.1f} bps is wider than {settings.gates.max_spread_bps:g}"

    def _quote_old(self, k: int) -> str:
        age = self._decision.snapshot.market.quote_age_ms[k]
        if math.isnan(age):
            return "the age of the quote is not known"
        settings, market = self._decision.settings, self._decision.snapshot.market
        if settings is None:
            return f"the quote is {age:.0f} ms old"
        return f"the quote is {age:.0f} ms old, limit {age_limit(market, settings.gates):g}"

    def _quote_odd(self, k: int) -> str:
        gap = self._decision.snapshot.market.quote_gap_bps[k]
        if math.isnan(gap):
            return "the close, which a quote is compared with, is not known"
        return f"the quote is {gap:+.0f} bps from the close" + self._limit(
            "gates", "max_quote_gap_bps"
        )

    def _adverse(self, side: float, k: int) -> tuple[str, float]:
        barriers = self._decision.snapshot.forecasts.barriers
        row = 0 if side > 0 else 1
        return ("peak", "valley")[row], math.nan if barriers is None else float(barriers[row, k])

    def _barrier_unknown(self, k: int) -> str:
        return "the probability of peak or valley is not known"

    def _barrier_block(self, k: int) -> str:
        name, chance = self._adverse(self._decision.arbitration.side[k], k)
        limit = self._limit("gates", "barrier_block", words="no new position above")
        return f"the probability of a {name} is {chance:.2f}{limit}"

    def _barrier_exit(self, k: int) -> str:
        name, chance = self._adverse(self._decision.snapshot.market.shares[k], k)
        limit = self._limit("gates", "barrier_exit", words="closed above")
        return f"the probability of a {name} is {chance:.2f}{limit}"

    def _alpha_turned(self, k: int) -> str:
        place = self._leading[k]
        alpha = self._decision.blend.alpha[place, k]
        return f"alpha {alpha:+.2f} bps over {self._labels[place]} is against the position"

    def _band(self, k: int) -> str:
        change = abs(self._decision.sizes.wanted[k] - self._held[k])
        limit = self._limit("sizing", "band_bps", words="band")
        return f"the change of {1e4 * change:.1f} bps of NAV is within the band{limit}"

    def _lot(self, k: int) -> str:
        return f"the change is less than a lot of {self._decision.snapshot.market.lot[k]:g}"

    def _name_limit(self, k: int) -> str:
        return self._plain(k) + self._limit("risk", "max_name_weight", ".1%")

    def _gross_limit(self, k: int) -> str:
        if self._decision.sizes.wanted[k] == 0:
            return "other positions use the gross target" + self._limit(
                "sizing", "gross_target", ".1%", "which is"
            )
        return self._plain(k) + self._limit("risk", "max_gross", ".1%")

    def _net_limit(self, k: int) -> str:
        return self._plain(k) + self._limit("risk", "max_net", ".1%")

    def _order_limit(self, k: int) -> str:
        return self._plain(k) + self._limit("risk", "max_order_usd", ",.0f", "USD")

    def _rate_limit(self, k: int) -> str:
        return self._plain(k) + self._limit("risk", "max_orders_per_minute", "d")

    def _risk(self, k: int) -> str:
        cause = self._decision.risk.why
        return self._plain(k) + (f": {cause}" if cause else "")

    _risk_reduce_only = _risk_flatten = _risk_halted = _risk


def explain(decision: Decision, symbol: str) -> str:
    """Every stage's numbers for one symbol, in words and aligned tables.

    Parameters
    ----------
    decision : Decision
    symbol : str

    Raises
    ------
    DataError
        When the symbol is not in the decision; names that are near are named.
    """
    names = decision.snapshot.market.names
    if symbol not in names:
        near = difflib.get_close_matches(symbol, names, 3, 0.5) or list(names[:3])
        raise DataError(f"{symbol!r} is not in the decision", f"there is {', '.join(near)}, ...")
    k = names.index(symbol)
    parts = [
        _header(decision, k),
        "Horizons, bps\n" + _horizons(decision, k),
        "Families\n" + _families(decision, k),
        "Gates\n" + _gates(decision, k),
        "Size\n" + _sizes(decision, k),
        "Risk\n" + _risk(decision),
    ]
    if decision.settings is not None:
        parts.insert(3, "Cost, bps\n" + _costs(decision, k))
    return "\n\n".join(parts) + "\n"


def _header(decision: Decision, k: int) -> str:
    market, sizes = decision.snapshot.market, decision.sizes
    action = Action(int(sizes.action[k])).name.lower()
    reason = why(decision, k)
    rows = [
        ("target", _position(sizes.shares[k], sizes.weight[k])),
        ("held", _position(market.shares[k], market.weight[k])),
        ("why not more", reason or "nothing keeps it from more"),
        ("account", market.account),
        ("bar", f"{market.time:%Y-%m-%d %H:%M:%S} UTC"),
        ("asked", f"{market.moment:%Y-%m-%d %H:%M:%S} UTC, {market.age_seconds:.1f} s later"),
        ("bundle", decision.snapshot.forecasts.bundle),
        ("decision", decision.id),
    ]
    left_out = decision.snapshot.forecasts.left_out
    rows += [("left out", f"{family}: {cause}") for family, cause in left_out.items()]
    return columns((market.names[k], action), rows)


def _horizons(decision: Decision, k: int) -> str:
    said, chosen = decision.snapshot.forecasts, decision.arbitration
    settings = decision.settings
    header = ["horizon", "volatility", "freshness", "alpha", "cost", "net", "ranked", ""]
    rows = []
    for place, horizon in enumerate(said.horizons):
        net = float(chosen.net[place, k])
        rank = math.nan
        if settings is not None:
            power = settings.arbitration.horizon_power
            rank = net / (horizon.minutes / SHORTEST) ** power if net > 0 else net
        mark = "chosen" if place == chosen.chosen[k] else ""
        mark = mark or ("leading" if place == chosen.leading[k] else "")
        rows.append(
            [
                horizon.label,
                _number(said.volatility[place, k], ".1f"),
                _number(decision.blend.freshness[place], ".3f"),
                _number(decision.blend.alpha[place, k], "+.2f"),
                _number(chosen.cost[place, k], ".2f"),
                _number(net, "+.2f"),
                _number(rank, "+.2f"),
                mark,
            ]
        )
    return columns(header, rows)


def _families(decision: Decision, k: int) -> str:
    said, beliefs, blended = decision.snapshot.forecasts, decision.beliefs, decision.blend
    header = ["horizon", "family", "forecast", "score", "samples", "IC", "samples", "stability"]
    header += ["confidence", "merit", "online", "weight"]
    rows = []
    for h, horizon in enumerate(said.horizons):
        for f, family in enumerate(said.families):
            rows.append(
                [
                    horizon.label,
                    family,
                    _number(said.returns[h, f, k], "+.4f"),
                    _number(beliefs.scores[h, f, k], "+.2f"),
                    _number(beliefs.n_samples[h, f, k], ".0f"),
                    _number(beliefs.ic[h, f], "+.4f"),
                    _number(beliefs.ic_samples[h, f], ".0f"),
                    _number(beliefs.stability[h, f], ".3f"),
                    _number(blended.confidence[h, f, k], ".4f"),
                    _number(blended.merit[h, f], "+.4f"),
                    _number(beliefs.online[h, f], ".3f"),
                    _number(blended.weights[h, f], ".3f"),
                ]
            )
    return columns(header, rows)


def _costs(decision: Decision, k: int) -> str:
    market, said, settings = (
        decision.snapshot.market,
        decision.snapshot.forecasts,
        decision.settings,
    )
    assert settings is not None
    parts = cost_parts(market, said.horizons, said.sigma, settings)
    shape = decision.arbitration.cost.shape
    spread, commission, timing, impact = (np.broadcast_to(part, shape)[:, k] for part in parts)
    model = CostModel(settings.costs)
    borrow = model.borrow_bps(said.minutes, session_minutes=session_minutes(said.horizons))
    table = np.stack([spread, commission, timing, impact, borrow])
    rows = [
        [horizon.label, *(_number(value, ".2f") for value in table[:, place])]
        for place, horizon in enumerate(said.horizons)
    ]
    header = ["horizon", "spread", "commission", "timing", "impact", "borrow, shorts only"]
    return columns(header, rows)


def _gates(decision: Decision, k: int) -> str:
    market, said, gates = decision.snapshot.market, decision.snapshot.forecasts, decision.gates
    limits = None if decision.settings is None else decision.settings.gates
    peak, valley = (math.nan, math.nan) if said.barriers is None else said.barriers[:, k]
    barrier = "the bundle has none"
    if said.barriers is not None:
        chances = f"p(peak) {_number(peak, '.3f')}, p(valley) {_number(valley, '.3f')}"
        barrier = f"g {_number(gates.barrier[k], '.3f')}: {chances}"
        if limits is not None:
            barrier += f"; opened up to {limits.barrier_block:g}"
            barrier += f", closed above {limits.barrier_exit:g}"
    spread = f"{_number(market.spread_bps[k], '.2f')} bps"
    age = f"{_number(market.quote_age_ms[k], '.0f')} ms"
    gap = f"{_number(market.quote_gap_bps[k], '+.2f')} bps from {_number(market.price[k], ',.4f')}"
    if limits is not None:
        gap += f", limit {limits.max_quote_gap_bps:g}"
        spread += f", limit {limits.max_spread_bps:g}"
        age += f", limit {age_limit(market, limits):g} for a feed that is {market.feed}"
    rows = [
        ("barrier", barrier),
        ("quote", f"{_number(market.bid[k], ',.4f')} / {_number(market.ask[k], ',.4f')} USD"),
        ("spread", spread),
        ("age", age),
        ("close", gap),
        ("traded a day", f"{_number(market.adv_usd[k], ',.0f')} USD"),
        ("capacity", _number(decision.blend.capacity[k], ".3f")),
        ("member", _yes(market.member[k])),
        ("may enter", _yes(gates.may_enter[k])),
        ("may trade", _yes(gates.may_trade[k])),
        ("must exit", _yes(gates.must_exit[k])),
    ]
    return columns(("gate", "value"), rows)


def _sizes(decision: Decision, k: int) -> str:
    market, sizes, limits = decision.snapshot.market, decision.sizes, decision.settings
    signal, after = _number(sizes.signal[k], "+.3f"), ""
    if limits is not None:
        signal += f" standard deviations, cut at {limits.sizing.signal_clip:g}"
        after = f" (band {limits.sizing.band_bps:g} bps of NAV"
        share = limits.sizing.band_share
        after += ")" if share is None else f", at most {share:.0%} of what is wanted)"
    rows = [
        ("signal", signal),
        ("held", _percent(market.weight[k])),
        ("wanted", _percent(sizes.wanted[k])),
        ("after the band", _percent(sizes.banded[k]) + after),
        ("target", _position(sizes.shares[k], sizes.weight[k])),
        ("traded", f"{sizes.shares[k] - market.shares[k]:+,g} shares, lots of {market.lot[k]:g}"),
    ]
    return columns(("step", "value"), rows)


def _risk(decision: Decision) -> str:
    market, risk, sizes = decision.snapshot.market, decision.risk, decision.sizes
    rows = [
        ("level", risk.level.name + (f": {risk.why}" if risk.why else "")),
        ("NAV", f"{_number(market.nav_usd, ',.0f')} USD"),
        ("prior close", f"{_number(market.prior_nav_usd, ',.0f')} USD"),
        ("peak", f"{_number(risk.peak_nav, ',.0f')} USD"),
        ("gross shown", _percent(float(np.nansum(np.abs(sizes.weight))))),
        ("net shown", _percent(float(np.nansum(sizes.weight)))),
    ]
    if decision.settings is not None:
        limits = decision.settings.risk
        rows += [
            ("gross", f"limit {limits.max_gross:.2%}"),
            ("net", f"limit {limits.max_net:.2%}"),
            ("one name", f"limit {limits.max_name_weight:.2%}"),
            ("one order", f"limit {limits.max_order_usd:,.0f} USD"),
            ("orders in 60 s", f"limit {limits.max_orders_per_minute:d}"),
            ("daily loss", f"limit {limits.daily_loss_limit:.2%}"),
            ("drawdown", f"limit {limits.drawdown_limit:.2%}"),
        ]
    return columns(("limit", "value"), rows)


def _number(value: Any, form: str) -> str:
    return "-" if math.isnan(value) else f"{float(value):{form}}"


def _percent(value: Any) -> str:
    return "-" if math.isnan(value) else f"{float(value):+.2%} of NAV"


def _position(shares: Any, weight: Any) -> str:
    return f"{float(shares):,g} shares, {_percent(weight)}"


def _yes(value: Any) -> str:
    return "yes" if value else "no"
