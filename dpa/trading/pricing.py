"""Limits of orders: from the mid to the far side in steps, on the tick, within the collar. Pure.

All prices are ``Decimal``, USD a share.
"""

from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache

from dpa.trading.types import Intent, Money, Quote, Side

BPS = Decimal("0.0001")


def passively(price: Money, tick: Decimal, side: Side) -> Money:
    """Round to a multiple of `tick`: down for a purchase, up for a sale."""
    rounding = ROUND_FLOOR if side is Side.BUY else ROUND_CEILING
    return ((price / tick).to_integral_value(rounding) * tick).quantize(tick)


def on_tick(price: Money, tick: Decimal) -> bool:
    """Whether a price is a multiple of `tick`."""
    return price % tick == 0


def collar(reference: Money, side: Side, bps: float) -> Money:
    """Return the worst price `bps` away from the mid at the decision; not rounded."""
    return reference * _factor(side, bps)


@lru_cache(maxsize=64)
def _factor(side: Side, bps: float) -> Decimal:
    return 1 + side.sign * Decimal(str(bps)) * BPS


def worst_price(intent: Intent, collar_bps: float) -> Money:
    """Return the worst price allowed: the collar, or the intent's own limit where it is tighter."""
    bound = collar(intent.reference, intent.side, collar_bps)
    if intent.limit is None:
        return bound
    return min(bound, intent.limit) if intent.side is Side.BUY else max(bound, intent.limit)


def step_at(decided_at: datetime, now: datetime, step_seconds: float, steps: int) -> int:
    """Return the step due at `now`: 0 at the decision, `steps` at the far side.

    It depends on the decision alone, so that a trader that was restarted goes on where it was.
    """
    passed = (now - decided_at).total_seconds()
    return min(steps, max(0, int(passed // step_seconds)))


def adaptive_limit(
    side: Side, quote: Quote, step: int, steps: int, tick: Decimal, worst: Money
) -> Money | None:
    """Return the limit of a step.

    Parameters
    ----------
    side : Side
    quote : Quote
        With both sides.
    step, steps : int
        0 is the mid and `steps` the far side: the ask of a purchase, the bid of a sale.
    tick : Decimal
    worst : Decimal
        The limit never goes beyond it.

    Returns
    -------
    Decimal or None
        A multiple of `tick`, rounded passively; none without both sides of the quote, or where no
        price above 0 is left.
    """
    mid, far = quote.mid, quote.ask if side is Side.BUY else quote.bid
    if mid is None or far is None:
        return None
    price = mid + (far - mid) * step / steps
    bounded = min(price, worst) if side is Side.BUY else max(price, worst)
    limit = passively(bounded, tick, side)
    return limit if limit > 0 else None
