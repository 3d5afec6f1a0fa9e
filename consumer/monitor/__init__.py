"""What a member tells of itself: metrics, a status page, probes. `Monitor` implements the engine's hooks."""
