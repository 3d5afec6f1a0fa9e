"""Operators' tools that work beside the service: no record passes through this code, and nothing here prints."""
