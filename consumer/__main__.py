"""`python -m consumer` is `jirafe-consumer`."""

from consumer.cli.main import main

main()
