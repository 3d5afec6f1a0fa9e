"""How a member reports on itself: metrics, a status page, probes. `Monitor` implements the engine's hooks."""
