"""The whole decision: ``decide(snapshot, state, settings) -> Decision``.

standardise -> confidence -> blend -> arbitrate -> gate -> size -> limit, each stage one vectorised
pass over all symbols. Pure: nothing is read but the arguments, and the state for the next decision
is part of the answer. The stages can be called one by one with the same outcome, which is how
they are served.
"""

import hashlib
import struct
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from dpa.config import DECISION_SECTIONS, Settings
from dpa.decision.arbitration import arbitrate
from dpa.decision.blending import blend
from dpa.decision.decision import Decision, State
from dpa.decision.gates import gate
from dpa.decision.learning import LearningState, learn
from dpa.decision.risk import RiskState, assess, limit
from dpa.decision.sizing import size
from dpa.decision.types import Snapshot
from dpa.runs import stable_hash


def start_state(snapshot: Snapshot) -> State:
    """Nothing learned, no limits hit."""
    market, said = snapshot.market, snapshot.forecasts
    learning = LearningState.start(market.names, said.horizons, said.families, said.models)
    return State(learning, RiskState.start(market.account))


def decide(snapshot: Snapshot, state: State, settings: Settings) -> Decision:
    """Target positions for all symbols of a snapshot.

    Parameters
    ----------
    snapshot : Snapshot
        Later than the newest bar of ``state.learning``.
    state : State
        The one of the decision before, or :func:`start_state`.
    settings : Settings
        The sections named in ``dpa.config.DECISION_SECTIONS`` count.

    Raises
    ------
    DataError
        When the snapshot is not later than the state, or is another account's.
    """
    market, said = snapshot.market, snapshot.forecasts
    learning, beliefs = learn(state.learning, snapshot, settings)
    blended = blend(snapshot, beliefs, settings)
    arbitration = arbitrate(
        market, said.horizons, said.sigma, blended.alpha, blended.reason, settings
    )
    gates = gate(market, said.barriers, beliefs.barrier_prior, blended.alpha, arbitration, settings)
    sizes = size(market, said.horizons, said.sigma, blended.alpha, arbitration, gates, settings)
    assessed = assess(state.risk, market, settings)
    sizes, risk = limit(market, arbitration, gates, sizes, assessed, settings)
    return Decision(
        decision_id(snapshot, state.learning.digest, state.risk.digest, settings),
        snapshot,
        beliefs,
        blended,
        arbitration,
        gates,
        sizes,
        risk,
        State(learning, risk),
        settings,
    )


def decision_id(
    snapshot: Snapshot, learning_digest: str, risk_digest: str, settings: Settings
) -> str:
    """Name of a decision, 16 hexadecimal digits: equal inputs and settings, equal name."""
    wanted = settings.model_dump(mode="json", include=set(DECISION_SECTIONS))
    wanted["target_clip"] = settings.horizons.target_clip  # of the labels that are learned from
    return inputs_digest(snapshot, learning_digest, risk_digest, stable_hash(wanted))[:16]


def inputs_digest(*values: Any) -> str:
    """Hexadecimal SHA-256 of all of `values`: arrays, texts, numbers, dataclasses of them."""
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Every field of nested dataclasses, in order, arrays by their bytes."""
    if isinstance(value, type(None) | bool | int | str) or _is_text(value):
        digest.update(repr(value).encode() + b";")
    elif isinstance(value, float):
        digest.update(struct.pack("<d", value))
    elif isinstance(value, pd.Timestamp):
        digest.update(struct.pack("<q", value.value))
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value))
    elif is_dataclass(value):
        for part in fields(value):
            _feed(digest, getattr(value, part.name))
    elif isinstance(value, tuple):
        digest.update(f"({len(value)}".encode())
        for part in value:
            _feed(digest, part)
    else:  # a mapping of families left out
        _feed(digest, tuple(sorted(value.items())))


def _is_text(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(part) is str for part in value)
