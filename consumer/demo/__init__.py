"""The demo: an embedded broker, a simulated shop, and the service that runs on them."""
