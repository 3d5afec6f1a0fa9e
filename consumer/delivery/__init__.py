"""Our handler: decodes records, maps them to events, sends those to the API, and words what became of them."""
