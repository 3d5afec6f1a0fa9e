"""All modules of the commands, and their libraries: loaded once by the process from which commands are forked."""

from importlib import import_module
from pkgutil import walk_packages

import consumer.cli

for module in walk_packages(consumer.cli.__path__, "consumer.cli."):
    import_module(module.name)
