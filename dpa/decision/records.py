"""A decision as JSON and Arrow."""

from typing import Any

import pyarrow as pa

from dpa.decision.decision import Decision


def to_dict(decision: Decision, trace: bool = True) -> dict[str, Any]:
    """For JSON."""
    raise NotImplementedError


def to_arrow(decision: Decision) -> pa.Table:
    """One row a symbol."""
    raise NotImplementedError
