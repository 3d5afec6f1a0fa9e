"""The wire formats: Avro schemas, framings, and the hub's JSON."""
