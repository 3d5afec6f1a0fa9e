"""Chaos: members are killed, stopped and moved while the API storms; a ledger tells whether a promise broke."""
