"""Showing a ledger and its runs to people and programs; nothing here writes to either."""
