"""Real brokers for the tests and for chaos: not part of the product."""
