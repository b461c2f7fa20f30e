"""A decision in words."""

from dpa.decision.decision import Decision


def explain(decision: Decision, symbol: str) -> str:
    """Every stage's numbers for one symbol, in words."""
    raise NotImplementedError
