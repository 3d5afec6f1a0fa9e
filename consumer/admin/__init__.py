"""Operators' tools, separate from the service: the service does not use this code, and nothing here prints."""
