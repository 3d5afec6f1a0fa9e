"""`python -m consumer` is `jirafe-consumer`."""

from consumer.cli import main

main()
