"""What was decided, why, and what it was decided from."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dpa.decision.learning import LearningState
from dpa.decision.risk import RiskState
from dpa.decision.types import Arbitration, Beliefs, Blend, Gates, Sizes, Snapshot


@dataclass(frozen=True, eq=False)
class State:
    """What a decision depends on beside its snapshot.

    Parameters
    ----------
    learning : LearningState
        Of the forecasts; shared by all accounts.
    risk : RiskState
        Of one account.
    """

    learning: LearningState
    risk: RiskState


@dataclass(frozen=True, eq=False)
class Decision:
    """Target positions of one account with the whole trace behind them.

    Parameters
    ----------
    id : str
        Hash of the snapshot, the state before and the settings: equal inputs, equal id.
    snapshot : Snapshot
    beliefs, blend, arbitration, gates, sizes
        What each stage said.
    risk : RiskState
        After the decision; its `level` and `why` are those in force.
    state : State, optional
        What to hand to the next decision; none in a decision read back.
    """

    id: str
    snapshot: Snapshot
    beliefs: Beliefs
    blend: Blend
    arbitration: Arbitration
    gates: Gates
    sizes: Sizes
    risk: RiskState
    state: State | None = None

    def explain(self, symbol: str) -> str:
        """Every stage's numbers for one symbol, in words.

        Raises
        ------
        DataError
            When the symbol is not in the snapshot.
        """
        from dpa.decision.explain import explain

        return explain(self, symbol)

    def to_dict(self, trace: bool = True) -> dict[str, Any]:
        """For JSON: :func:`dpa.decision.records.to_dict`."""
        from dpa.decision.records import to_dict

        return to_dict(self, trace)

    def to_arrow(self) -> pa.Table:
        """One row a symbol, trace included: :func:`dpa.decision.records.to_arrow`."""
        from dpa.decision.records import to_arrow

        return to_arrow(self)
