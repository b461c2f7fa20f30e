"""The features that come with dpa; importing this package registers them."""

from dpa.horizons.features import clusters, market, prices, session, volume

__all__ = ["clusters", "market", "prices", "session", "volume"]
