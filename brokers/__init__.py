"""A real broker and a real Schema Registry, for the tests and for chaos: not part of the product."""
