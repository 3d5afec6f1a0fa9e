"""What a member tells over HTTP: probes, metrics, and a page for people."""
