"""The stream engine: Kafka on one side, one port on the other (`ports.py`). It imports nothing else of ours."""
