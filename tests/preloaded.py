"""What a process loads from which commands are forked: all that commands load, so that none has to."""

from importlib import import_module
from pkgutil import walk_packages

import consumer.cli

for module in walk_packages(consumer.cli.__path__, "consumer.cli."):
    import_module(module.name)
