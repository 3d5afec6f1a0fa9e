"""Our handler: decodes records, maps them to events, sends the events to the API, and writes the results."""
