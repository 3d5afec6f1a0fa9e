"""One HTTP request, bounded in time and size: how the API and the Schema Registry are reached."""
