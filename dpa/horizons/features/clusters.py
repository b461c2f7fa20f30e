"""What the cluster model says: s-score, gate, activity, and returns against the consensus.

They need a cluster model, ``--cluster``.
"""

import math

import numpy as np
from numpy.typing import NDArray

from dpa.horizons.arithmetic import ratio
from dpa.horizons.registry import feature, series
from dpa.horizons.views import View

Doubles = NDArray[np.float64]


@series
def consensus_square(view: View) -> Doubles:
    """Square of the standardised consensus."""
    return view.now("cluster_consensus") * view.now("cluster_consensus")


@series
def newest_by_consensus(view: View) -> Doubles:
    """Product of a name's standardised return and its consensus."""
    return view.now("cluster_newest") * view.now("cluster_consensus")


@feature("s-score of the residual to the cluster's consensus")
def cluster_score(view: View) -> Doubles:
    """Avellaneda & Lee (2010), past residuals only."""
    return view.now("cluster_s")


@feature("outlier gate: 1 in a cluster, 0 an outlier", role="context")
def cluster_gate(view: View) -> Doubles:
    """How much the name belongs to any cluster."""
    return view.now("cluster_gate_now")


@feature("activity of the cluster model's own signal, 0 to 1")
def cluster_active(view: View) -> Doubles:
    """Band-pass times gate."""
    return view.now("cluster_activity")


@feature(
    "slope of the name's standardised returns on its consensus", (390, 8190), role="risk", bars=6
)
def beta_consensus(view: View, minutes: int) -> Doubles:
    """Through the origin, over the look-back."""
    shared, own = view.mean("newest_by_consensus", minutes), view.mean("consensus_square", minutes)
    return ratio(shared, own, own > 0)


@feature(
    "residual to the cluster's consensus over the look-back, in its own units", (15, 60, 390, 1950)
)
def residual_consensus(view: View, minutes: int) -> Doubles:
    """Sum of residuals over the square root of the bars."""
    return view.total("cluster_residual", minutes) / math.sqrt(view.bars(minutes))
