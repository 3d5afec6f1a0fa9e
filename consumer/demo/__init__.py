"""The demo: an embedded broker, a simulated shop, and the main job run on them."""
