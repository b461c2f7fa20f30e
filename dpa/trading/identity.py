"""Names that are functions of what they name: the same intent has the same id everywhere."""

import hashlib
import json

from dpa.trading.types import Purpose, Side

PREFIX = "dpa-"
DIGITS = 24


def intent_id(account: str, decision: str, symbol: str, side: Side, purpose: Purpose) -> str:
    """Id of an intent, which is also the ``orderRef`` of its orders.

    Parameters
    ----------
    account, decision, symbol : str
    side : Side
    purpose : Purpose

    Returns
    -------
    str
        ``dpa-`` and 24 hexadecimal digits of SHA-256; the number of shares and the moment are
        left out on purpose: a decision is carried out once, however often it is repeated.
    """
    words = json.dumps([account, decision, symbol, Side(side).value, Purpose(purpose).value])
    return PREFIX + hashlib.sha256(words.encode()).hexdigest()[:DIGITS]


def is_ours(ref: str) -> bool:
    """Whether an ``orderRef`` has the form of an intent's id."""
    digits = ref.removeprefix(PREFIX)
    return (
        ref.startswith(PREFIX)
        and len(digits) == DIGITS
        and all(letter in "0123456789abcdef" for letter in digits)
    )
