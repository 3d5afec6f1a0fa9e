"""A real broker and a real Schema Registry for the tests and for chaos. Not part of the product."""
