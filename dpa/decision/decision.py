"""What was decided, why, and what it was decided from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np
import pyarrow as pa

from dpa.config import Settings
from dpa.decision.learning import LearningState
from dpa.decision.risk import RiskState
from dpa.decision.types import Arbitration, Beliefs, Blend, Gates, Sizes, Snapshot
from dpa.errors import DataError

_MARKET = ("member", "price", "bid", "ask", "quote_age_ms", "adv_usd", "shares", "lot")


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
    settings : Settings, optional
        What it was decided with; without them words name no limits.
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
    settings: Settings | None = None

    def only(self, names: Sequence[str]) -> "Decision":
        """The same decision for some of its symbols, in that order; without the state.

        Raises
        ------
        DataError
            When a symbol is not in it.
        """
        known = {name: number for number, name in enumerate(self.snapshot.market.names)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(
                f"{unknown[0]!r} is not in the decision", "give symbols of the snapshot"
            )
        columns = np.array([known[name] for name in names], dtype=np.int64)

        def cut(part: Any, *fields: str) -> Any:
            found = {name: getattr(part, name) for name in fields}
            chosen = {
                name: None if array is None else np.ascontiguousarray(array[..., columns])
                for name, array in found.items()
            }
            return replace(part, **chosen)

        market = replace(
            cut(self.snapshot.market, *_MARKET),
            names=tuple(names),
        )
        said = self.snapshot.forecasts
        reasons = tuple(said.reasons[k] for k in columns) if said.reasons else ()
        forecasts = replace(cut(said, "returns", "sigma", "barriers"), reasons=reasons)
        return replace(
            self,
            snapshot=Snapshot(market, forecasts),
            beliefs=cut(self.beliefs, "scores", "n_samples"),
            blend=cut(self.blend, "capacity", "confidence", "alpha", "reason"),
            arbitration=cut(self.arbitration, "cost", "net", "chosen", "leading", "side", "reason"),
            gates=cut(
                self.gates, "barrier", "may_enter", "may_trade", "must_exit", "reason", "sound"
            ),
            sizes=cut(self.sizes, *(part.name for part in dataclass_fields(Sizes))),
            state=None,
        )

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
