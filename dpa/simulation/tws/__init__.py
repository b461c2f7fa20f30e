"""A server that speaks the wire protocol of TWS: unmodified clients connect, trade and suffer."""
