"""Limits and the state of an account: the last word on every target.

Levels NORMAL, REDUCE_ONLY, FLATTEN and HALTED only ever grow more severe by themselves, but for
what a session brought: that ends when the venue's next session begins. A reduction is never
blocked by a limit nor made smaller. HALTED alone stops everything: nothing is traded, reductions
and exits included, until a person resumes, since what is held, or what it is worth, is in doubt.

What may be added is bounded by the most that positions may be worth, which for one without a value
is the most of a name; a reduction is forced only by what they are worth at least, and such a
position forces none.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np

from dpa.config import RiskConfig, Settings
from dpa.decision.arbitration import at
from dpa.decision.sizing import ROUNDING, actions, total, weight_of, weights_between
from dpa.decision.types import (
    Arbitration,
    Bools,
    Codes,
    Doubles,
    Gates,
    Market,
    Reason,
    RiskLevel,
    Sizes,
)
from dpa.errors import DataError

SCHEMA_VERSION = 1
WINDOW_SECONDS = 60.0
SLACK = 1e-12  # 1 - 0.9 is less than 0.1


@dataclass(frozen=True)
class RiskState:
    """What limits an account, after a decision.

    Parameters
    ----------
    account : str
    level : RiskLevel
    why : str
        Of the level, in words; empty when it is normal and always was.
    session : int
        Number of the session the level belongs to; -1: none yet.
    peak_nav : float
        Highest NAV since the start or since a person resumed, USD; NaN: none known.
    orders : tuple of (float, int)
        Orders that added risk: epoch seconds of the decision and their number, 60 seconds back.
    held : tuple of str
        Names with a position after the last decision, and those `gone`.
    gone : tuple of str
        Names that had a position when they were last in a snapshot; until they are in one again,
        or a person resumes, risk is only reduced.
    lasting : bool
        The level ends only by :func:`resume`.
    digest : str
        Hash of this state and of all before it.
    """

    account: str
    level: RiskLevel = RiskLevel.NORMAL
    why: str = ""
    session: int = -1
    peak_nav: float = math.nan
    orders: tuple[tuple[float, int], ...] = ()
    held: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    lasting: bool = False
    digest: str = ""

    @classmethod
    def start(cls, account: str) -> "RiskState":
        """No limit hit, no NAV seen."""
        return _changed(cls(account))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return {
            "schema_version": SCHEMA_VERSION,
            "account": self.account,
            "level": self.level.name,
            "why": self.why,
            "session": self.session,
            "peak_nav": None if math.isnan(self.peak_nav) else self.peak_nav,
            "orders": [list(order) for order in self.orders],
            "held": list(self.held),
            "gone": list(self.gone),
            "lasting": self.lasting,
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, data: Any, account: str | None = None) -> "RiskState":
        """The state `data` tells; one that is HALTED, and why, where it cannot be read.

        Parameters
        ----------
        data : mapping
            Of :meth:`to_dict`.
        account : str, optional
            Whose state it must be.
        """
        try:
            state = _read(cls, data)
            problem = ""
            if account is not None and state.account != account:
                problem = f"it is of account {state.account!r}"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
        if not problem:
            return state
        whose = account
        if whose is None:
            named = data.get("account") if isinstance(data, Mapping) else None
            whose = named if isinstance(named, str) else "default"
        return halt(cls.start(whose), f"the stored risk state cannot be used: {problem}")


def _read(cls: type[RiskState], data: Any) -> RiskState:
    version = data["schema_version"]
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r} is not {SCHEMA_VERSION}")
    peak = math.nan if data["peak_nav"] is None else float(data["peak_nav"])
    state = cls(
        account=_typed(data["account"], str),
        level=RiskLevel[data["level"]],
        why=_typed(data["why"], str),
        session=_typed(data["session"], int),
        peak_nav=peak,
        orders=tuple((float(time), _typed(count, int)) for time, count in data["orders"]),
        held=tuple(_typed(name, str) for name in data["held"]),
        gone=tuple(_typed(name, str) for name in data["gone"]),
        lasting=_typed(data["lasting"], bool),
        digest=_typed(data["digest"], str),
    )
    if math.isinf(peak) or peak <= 0:
        raise ValueError(f"peak_nav {peak} is not a NAV")
    if any(not math.isfinite(time) or count < 0 for time, count in state.orders):
        raise ValueError("orders hold a time or number that is none")
    return state


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _changed(state: RiskState, **changes: Any) -> RiskState:
    """`state` with `changes` and the next link of the hash chain; itself when nothing changes."""
    new = replace(state, **changes)
    parts = (
        new.account, int(new.level), new.why, new.session, new.peak_nav, new.orders, new.held,
        new.gone, new.lasting,
    )  # fmt: skip
    if state.digest and all(_same(getattr(state, name), value) for name, value in changes.items()):
        return state
    return replace(new, digest=hashlib.sha256((state.digest + repr(parts)).encode()).hexdigest())


def _same(old: Any, new: Any) -> bool:
    return bool(old == new) or (old != old and new != new)


def halt(state: RiskState, why: str) -> RiskState:
    """Nothing trades any more until a person resumes."""
    return _changed(state, level=RiskLevel.HALTED, why=why, lasting=True)


def resume(state: RiskState, by: str, why: str) -> RiskState:
    """A person ends what was in force.

    The drawdown counts anew from the next NAV seen, and positions that are gone are forgotten. A
    loss of the day is not forgiven: where it is still at its limit, the next assessment flattens
    again until the next session.

    Parameters
    ----------
    state : RiskState
    by : str
        Who; kept in `why`.
    why : str

    Raises
    ------
    DataError
        When nobody is named.
    """
    if not by.strip():
        raise DataError("resume: nobody is named", "say who resumes the account")
    said = f"resumed by {by.strip()}" + (f": {why}" if why else "")
    held = tuple(name for name in state.held if name not in state.gone)
    return _changed(
        state, level=RiskLevel.NORMAL, why=said, peak_nav=math.nan, held=held, gone=(),
        lasting=False,
    )  # fmt: skip


def assess(state: RiskState, market: Market, settings: Settings) -> RiskState:
    """The state in view of the account's NAV, before anything is traded.

    Parameters
    ----------
    state : RiskState
        After the decision before.
    market : Market
        NAV now and at the prior close.
    settings : Settings
        ``risk`` counts.

    Returns
    -------
    RiskState
        HALTED, until a person resumes: the NAV is not known or not positive. FLATTEN: drawdown
        at its limit, until a person resumes; loss of the day at its limit, until the next
        session. REDUCE_ONLY, until the next session: either loss at ``warn_share`` of its limit,
        or no NAV of the prior close. REDUCE_ONLY, until the session after it is in a snapshot
        again: a name that was held is not in this one.

    Raises
    ------
    DataError
        When the market is another account's.
    """
    if market.account != state.account:
        raise DataError(
            f"account: the snapshot is of {market.account!r}, the state of {state.account!r}",
            "keep a state for each account",
        )
    nav, limits = market.nav_usd, settings.risk
    session = max(market.session, state.session)
    level, why, lasting = state.level, state.why, state.lasting
    if session > state.session and not lasting:
        level, why = RiskLevel.NORMAL, "" if level else why
    if not (math.isfinite(nav) and nav > 0):
        if level < RiskLevel.HALTED:
            level, why, lasting = RiskLevel.HALTED, f"NAV is {nav:g}", True
        return _changed(state, session=session, level=level, why=why, lasting=lasting)
    peak = nav if math.isnan(state.peak_nav) else max(state.peak_nav, nav)
    for found, cause, stays in _causes(state, market, peak, limits):
        if found > level or (found == level and stays and not lasting):
            level, why, lasting = found, cause, stays
    return _changed(state, session=session, level=level, why=why, lasting=lasting, peak_nav=peak)


def _causes(
    state: RiskState, market: Market, peak: float, limits: RiskConfig
) -> list[tuple[RiskLevel, str, bool]]:
    """Levels called for, why, and whether only a person ends them."""
    found: list[tuple[RiskLevel, str, bool]] = []
    fall = 1 - market.nav_usd / peak + SLACK
    words = f"NAV is {fall:.2%} below its peak, limit {limits.drawdown_limit:.2%}"
    if fall >= limits.drawdown_limit:
        found.append((RiskLevel.FLATTEN, words, True))
    elif fall >= limits.warn_share * limits.drawdown_limit:
        found.append((RiskLevel.REDUCE_ONLY, words, False))
    prior = market.prior_nav_usd
    if math.isfinite(prior) and prior > 0:
        loss = 1 - market.nav_usd / prior + SLACK
        words = f"NAV is {loss:.2%} below the prior close, limit {limits.daily_loss_limit:.2%}"
        if loss >= limits.daily_loss_limit:
            found.append((RiskLevel.FLATTEN, words, False))
        elif loss >= limits.warn_share * limits.daily_loss_limit:
            found.append((RiskLevel.REDUCE_ONLY, words, False))
    else:
        found.append((RiskLevel.REDUCE_ONLY, "the NAV of the prior close is not known", False))
    gone = sorted(set(state.held).difference(market.names)) if state.held else []
    if gone:
        first = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        words = f"{first} held and not in the snapshot ({len(gone)} such)"
        found.append((RiskLevel.REDUCE_ONLY, words, False))
    return found


def limit(
    market: Market,
    arbitration: Arbitration,
    gates: Gates,
    sizes: Sizes,
    risk: RiskState,
    settings: Settings,
) -> tuple[Sizes, RiskState]:
    """Targets within the limits, and the state after them.

    Each target is what stays of the position plus what is added. Only what is added is cut, in
    this order: most of a name, value of an order, orders a minute (the largest net first), gross
    and net exposure (pro rata). Where what stays is alone above a limit of exposure, at the least
    it may be worth, it is reduced pro rata. All in whole lots, so that such a reduction may
    leave less than a lot of each name.

    Parameters
    ----------
    market : Market
    arbitration : Arbitration
    gates : Gates
    sizes : Sizes
        Before the limits.
    risk : RiskState
        Of :func:`assess`.
    settings : Settings
        ``risk`` counts.
    """
    limits = settings.risk
    if risk.level == RiskLevel.HALTED:
        shares, reason = _halted(market, sizes)
        return _finish(market, sizes, shares, reason, np.zeros(len(shares), bool), risk)
    if risk.level == RiskLevel.FLATTEN:
        shares = np.where(gates.may_trade, 0.0, market.shares)
        at_stake = gates.may_trade & ((market.shares != 0) | (sizes.shares != 0))
        reason = np.where(at_stake, Reason.RISK_FLATTEN, sizes.reason)
        return _finish(market, sizes, shares, reason, np.zeros(len(shares), bool), risk)

    stays, added = _split(market.shares, sizes.shares)
    reason = np.array(sizes.reason)
    if risk.level == RiskLevel.REDUCE_ONLY:
        reason[added != 0] = Reason.RISK_REDUCE_ONLY
        added = np.zeros_like(added)
    stays, reason = _trim(market, stays, gates.may_trade, reason, limits)
    added, reason = _cut(market, arbitration, stays, added, reason, risk, limits)
    return _finish(market, sizes, stays + added, reason, added != 0, risk)


def _halted(market: Market, sizes: Sizes) -> tuple[Doubles, Codes]:
    stopped = sizes.shares != market.shares
    return market.shares, np.where(stopped, Reason.RISK_HALTED, sizes.reason)


def _split(held: Doubles, target: Doubles) -> tuple[Doubles, Doubles]:
    """What stays of the positions and what is added to them, shares, (n_symbols,) each."""
    same = held * target > 0
    stays = np.where(same, np.sign(target) * np.minimum(np.abs(held), np.abs(target)), 0.0)
    return stays, target - stays


def _trim(
    market: Market, stays: Doubles, may_trade: Bools, reason: Codes, limits: RiskConfig
) -> tuple[Doubles, Codes]:
    """Reduce positions that exceed a limit of exposure alone and at the least they are worth."""
    least, most = weights_between(market, stays, 0.0)
    over = may_trade & (np.abs(least) > limits.max_name_weight)
    if over.any():
        fits = limits.max_name_weight / np.where(over, np.abs(least), 1.0)
        stays, reason = _shrink(market, stays, over, fits, reason, Reason.NAME_LIMIT)
        least, most = weights_between(market, stays, 0.0)
    gross = total(np.abs(least))
    if gross > limits.max_gross:
        movable = may_trade & (stays != 0)
        kept = _keep(total(np.abs(least[movable])), gross - limits.max_gross)
        stays, reason = _shrink(market, stays, movable, kept, reason, Reason.GROSS_LIMIT)
        least, most = weights_between(market, stays, 0.0)
    low, high = _net_between(least, most)
    excess = max(low, -high) - limits.max_net
    if excess > 0:
        movable = may_trade & (stays > 0 if low > -high else stays < 0)
        kept = _keep(total(np.abs(least[movable])), excess)
        stays, reason = _shrink(market, stays, movable, kept, reason, Reason.NET_LIMIT)
    return stays, reason


def _net_between(least: Doubles, most: Doubles) -> tuple[float, float]:
    """Least and greatest net exposure: one side at `least`, the other at `most`."""
    return total(np.where(most < 0, most, least)), total(np.where(most > 0, most, least))


def _keep(whole: float, excess: float) -> float:
    """Share of `whole` that is left without `excess`, in [0, 1]."""
    return max(1 - excess / whole, 0.0) if whole > 0 else 1.0


def _shrink(
    market: Market, stays: Doubles, where: Bools, kept: Any, reason: Codes, why: Reason
) -> tuple[Doubles, Codes]:
    """Sell whole lots of the names `where`, so that about the share `kept` of them stays."""
    sold = np.where(where, np.abs(stays) * (1 - kept), 0.0)
    lots = np.floor(sold / market.lot + ROUNDING) * market.lot
    fewer = stays - np.sign(stays) * np.minimum(lots, np.abs(stays))
    return fewer, np.where(fewer != stays, why, reason)


def _cut(
    market: Market,
    arbitration: Arbitration,
    stays: Doubles,
    added: Doubles,
    reason: Codes,
    risk: RiskState,
    limits: RiskConfig,
) -> tuple[Doubles, Codes]:
    """What may be added, shares in whole lots, (n_symbols,)."""
    adds = added != 0
    if not adds.any():
        return added, reason
    least, base = weights_between(market, stays, limits.max_name_weight)
    nets = _net_between(least, base)
    unit = np.where(adds, market.mark / market.nav_usd, 1.0)
    weight = added * unit
    cuts = [
        (Reason.NAME_LIMIT, np.clip(limits.max_name_weight - np.abs(base), 0.0, None)),
        (Reason.ORDER_LIMIT, np.full(len(weight), limits.max_order_usd / market.nav_usd)),
    ]
    for why, most in cuts:
        above = np.abs(weight) > most * (1 + ROUNDING)
        weight = np.where(above, np.sign(weight) * most, weight)
        reason = np.where(above, why, reason)
    late = _above_rate(market, arbitration, weight != 0, risk, limits)
    weight = np.where(late, 0.0, weight)
    reason = np.where(late, Reason.RATE_LIMIT, reason)

    asked = total(np.abs(weight))
    room = max(limits.max_gross - total(np.abs(base)), 0.0)
    if asked > room * (1 + ROUNDING):
        reason = np.where(weight != 0, Reason.GROSS_LIMIT, reason)
        weight = weight * (room / asked)
    weight, reason = _within_net(nets, weight, reason, limits)
    shares = _lots(market, weight / unit, added)
    weight, reason = _within_net(nets, shares * unit, reason, limits)
    return _lots(market, weight / unit, shares), reason


def _above_rate(
    market: Market, arbitration: Arbitration, adds: Bools, risk: RiskState, limits: RiskConfig
) -> Bools:
    """Orders that add risk for which there is no room in the 60 seconds, (n_symbols,)."""
    slots = max(limits.max_orders_per_minute - sum(n for _, n in _recent(risk, market)), 0)
    if np.count_nonzero(adds) <= slots:
        return np.zeros(len(adds), bool)
    net = np.where(adds, np.nan_to_num(at(arbitration.net, arbitration.chosen)), -np.inf)
    order = np.lexsort((np.array(market.names), -net))
    late = np.array(adds)
    late[order[:slots]] = False
    return late


def _within_net(
    nets: tuple[float, float], weight: Doubles, reason: Codes, limits: RiskConfig
) -> tuple[Doubles, Codes]:
    """Cut pro rata what is added on the side that exceeds the net limit.

    `nets` are the least and greatest net exposure of what stays. Where both ends would exceed the
    limit nothing is added: the net is not known well enough.
    """
    added, most = total(weight), limits.max_net
    short, long = -(nets[0] + added), nets[1] + added
    beyond = most * (1 + ROUNDING)
    if short <= beyond and long <= beyond:
        return weight, reason
    if short > beyond and long > beyond:
        return np.zeros_like(weight), np.where(weight != 0, Reason.NET_LIMIT, reason)
    toward = weight > 0 if long > beyond else weight < 0
    kept = _keep(total(np.abs(weight[toward])), max(long, short) - most)
    return np.where(toward, weight * kept, weight), np.where(toward, Reason.NET_LIMIT, reason)


def _lots(market: Market, shares: Doubles, most: Doubles) -> Doubles:
    """`shares` cut to whole lots, never more than `most`, (n_symbols,) each."""
    lots = np.floor(np.abs(shares) / market.lot + ROUNDING) * market.lot
    return np.sign(most) * np.minimum(lots, np.abs(most))


def _recent(risk: RiskState, market: Market) -> tuple[tuple[float, int], ...]:
    """Orders of the last 60 seconds."""
    since = market.moment.timestamp() - WINDOW_SECONDS
    return tuple(order for order in risk.orders if order[0] > since)


def _finish(
    market: Market, sizes: Sizes, shares: Doubles, reason: Codes, adds: Bools, risk: RiskState
) -> tuple[Sizes, RiskState]:
    """Sizes and state of the final `shares` (n_symbols,)."""
    orders, count = _recent(risk, market), int(np.count_nonzero(adds))
    if count:
        orders = (*orders, (market.moment.timestamp(), count))
    gone = tuple(sorted(set(risk.held).difference(market.names))) if risk.held else ()
    held = (*compress(market.names, (shares != 0).tolist()), *gone)
    final = replace(
        sizes,
        weight=weight_of(market, shares),
        shares=shares,
        action=actions(market.shares, shares),
        reason=reason.astype(np.int8),
    )
    return final, _changed(risk, orders=orders, held=held, gone=gone)
