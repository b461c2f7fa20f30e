"""Model families: each in one file, all behind one Protocol, found by name."""

from dpa.horizons.families._storage import fingerprint, pack, read_model, write_model
from dpa.horizons.families.cluster import ClusterFamily
from dpa.horizons.families.encoder import EncoderFamily
from dpa.horizons.families.gbdt import GbdtFamily
from dpa.horizons.families.protocol import (
    BARRIER_TARGET,
    Family,
    FitLog,
    family_class,
    family_names,
    register_family,
)
from dpa.horizons.families.ridge import RidgeFamily

__all__ = [
    "BARRIER_TARGET",
    "ClusterFamily",
    "EncoderFamily",
    "Family",
    "FitLog",
    "GbdtFamily",
    "RidgeFamily",
    "family_class",
    "family_names",
    "fingerprint",
    "pack",
    "read_model",
    "register_family",
    "write_model",
]
