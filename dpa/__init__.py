"""dpa: deep potential arbitrage, statistical arbitrage research and trading on Ray."""

__version__ = "0.1.0"
