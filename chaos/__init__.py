"""Chaos: members are killed, paused and moved while the API fails. A ledger shows whether a guarantee broke."""
