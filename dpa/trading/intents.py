"""From a target to an intent: side, shares, purpose, and the worst price allowed. Pure."""

import math
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from dpa.market.costs import CostModel
from dpa.trading.identity import intent_id
from dpa.trading.pricing import collar, passively
from dpa.trading.types import Instrument, Intent, Money, Purpose, Quote, Side, Style

BPS = 1e4


@dataclass(frozen=True)
class Target:
    """A position that is wanted.

    Parameters
    ----------
    decision : str
        Id of the decision, or of the rule that wants it.
    symbol : str
    shares : int
        Signed; the position afterwards.
    decided_at, expires_at : datetime
        The moment it was decided for, and when its orders end.
    why : Purpose, optional
        Of a reduction that is not the signal's own: age, end of the session, risk.
    may_add : bool
        Whether risk may be added on the way.
    style : Style
    """

    decision: str
    symbol: str
    shares: int
    decided_at: datetime
    expires_at: datetime
    why: Purpose | None = None
    may_add: bool = True
    style: Style = Style.ADAPTIVE


@dataclass(frozen=True)
class Leg:
    """A step towards a target.

    Parameters
    ----------
    side : Side
    shares : int
        Above 0.
    purpose : Purpose
    """

    side: Side
    shares: int
    purpose: Purpose

    @property
    def signed_shares(self) -> int:
        """Shares, negative for a sale."""
        return self.side.sign * self.shares


@dataclass(frozen=True)
class Price:
    """What is known of a symbol's price when an intent is made.

    Parameters
    ----------
    quote : Quote, optional
    last : Decimal, optional
        Newest price known, USD; counts where the quote is not sound.
    sigma_day : float
        Standard deviation of the daily return, fraction; NaN: not known.
    adv_usd : float
        Average daily traded value, USD; NaN: not known.
    """

    quote: Quote | None
    last: Money | None = None
    sigma_day: float = math.nan
    adv_usd: float = math.nan

    @property
    def sound_quote(self) -> Quote | None:
        """The quote, where it may be traded on."""
        return self.quote if self.quote is not None and self.quote.sound else None

    @property
    def reference(self) -> Money | None:
        """Mid of a sound quote, else the last price; none: not known."""
        quote = self.sound_quote
        return self.last if quote is None else quote.mid

    @property
    def spread_bps(self) -> float:
        """Quoted spread, bps of the mid; NaN without a sound quote."""
        quote = self.sound_quote
        if quote is None or quote.bid is None or quote.ask is None:
            return math.nan
        return float((quote.ask - quote.bid) / (quote.ask + quote.bid)) * 2 * BPS


def next_leg(held: int, target: Target) -> Leg | None:
    """The next step from a position to a target; none: there is nothing to do.

    A change of side takes two: an exit, and an entry once the position is flat, so that the exit
    is never held up by a limit on new risk, and the entry never escapes one.

    Parameters
    ----------
    held : int
        Shares held now, signed.
    target : Target
    """
    wanted = target.shares
    if wanted == held:
        return None
    if held == 0:
        return _leg(wanted, Purpose.ENTER)
    if held * wanted <= 0:
        return _leg(-held, target.why or Purpose.EXIT)
    if abs(wanted) > abs(held):
        return _leg(wanted - held, Purpose.INCREASE)
    return _leg(wanted - held, target.why or Purpose.REDUCE)


def _leg(shares: int, purpose: Purpose) -> Leg:
    return Leg(Side.BUY if shares > 0 else Side.SELL, abs(shares), purpose)


def intent_for(
    account: str,
    target: Target,
    leg: Leg,
    price: Price,
    instrument: Instrument | None,
    collar_bps: float,
    costs: CostModel,
    unquoted: bool = False,
) -> Intent | str:
    """The intent of a leg, or in words why there can be none.

    Parameters
    ----------
    account : str
    target : Target
    leg : Leg
    price : Price
    instrument : Instrument, optional
        Its tick rounds the limit, passively; none: to the cent.
    collar_bps : float
        Furthest a limit goes from the mid, bps.
    costs : CostModel
    unquoted : bool
        Whether an exit by a limit needs no quote: one was waited for in vain.

    Returns
    -------
    Intent or str
        `limit` is the far side of the quote within the collar for a limit order, the collar for
        an adaptive one, and none at the market and at the close. Without a sound quote only what
        needs none can be made: reductions at the market or the close, or an exit at the collar
        around the last price.
    """
    reference = price.reference
    if reference is None or not reference.is_finite() or reference <= 0:
        return "no price of it is known"
    needs_none = target.style in (Style.MARKET, Style.CLOSE) or unquoted
    if price.sound_quote is None and (leg.purpose.adds or not needs_none):
        return "its quote is missing or unsound"
    return Intent(
        id=intent_id(account, target.decision, target.symbol, leg.side, leg.purpose),
        account=account,
        decision=target.decision,
        symbol=target.symbol,
        side=leg.side,
        shares=leg.shares,
        style=target.style,
        purpose=leg.purpose,
        decided_at=target.decided_at,
        expires_at=target.expires_at,
        reference=reference,
        limit=_limit(target.style, leg.side, reference, price.sound_quote, instrument, collar_bps),
        expected_cost_bps=one_way_bps(costs, price, leg.shares * float(reference)),
    )


def _limit(
    style: Style,
    side: Side,
    reference: Money,
    quote: Quote | None,
    instrument: Instrument | None,
    collar_bps: float,
) -> Money | None:
    if style in (Style.MARKET, Style.CLOSE):
        return None
    tick = Decimal("0.01") if instrument is None else instrument.min_tick
    worst = collar(reference, side, collar_bps)
    far = None if quote is None else quote.ask if side is Side.BUY else quote.bid
    if style is Style.LIMIT and far is not None:
        worst = min(worst, far) if side is Side.BUY else max(worst, far)
    return passively(worst, tick, side)


def one_way_bps(costs: CostModel, price: Price, value_usd: float) -> float:
    """Expected cost of one order: half the quoted spread, commission and impact.

    Parameters
    ----------
    costs : CostModel
    price : Price
    value_usd : float
        Of the order.

    Returns
    -------
    float
        bps of `value_usd`; NaN where a part is not known.
    """
    share = value_usd / price.adv_usd if price.adv_usd > 0 else math.nan
    way = costs.round_trip_bps(
        price.spread_bps, price.sigma_day * BPS, 0.0, share, session_minutes=1.0
    )
    return float(way.spread + way.commission + way.impact) / 2  # no time in the market


def record_of(intent: Intent) -> dict[str, Any]:
    """An intent for JSON: prices as text, moments in ISO, an unknown cost as None."""
    cost = intent.expected_cost_bps
    return {
        "id": intent.id,
        "account": intent.account,
        "decision": intent.decision,
        "symbol": intent.symbol,
        "side": intent.side.value,
        "shares": intent.shares,
        "style": intent.style.value,
        "purpose": intent.purpose.value,
        "decided_at": intent.decided_at.isoformat(),
        "expires_at": intent.expires_at.isoformat(),
        "reference": str(intent.reference),
        "limit": None if intent.limit is None else str(intent.limit),
        "expected_cost_bps": cost if math.isfinite(cost) else None,
    }
