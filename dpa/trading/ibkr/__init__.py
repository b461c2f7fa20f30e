"""Interactive Brokers: orders, data and history through TWS or its gateway.

The client library, ib_insync or ib_async, is imported when a connection is opened, not before.
"""
