"""What all commands share: their program's name, and how they say that they were asked wrongly."""

PROGRAM = "jirafe-consumer"


class Usage(Exception):
    """What was asked for can't be done as it was asked; the sentence says why and how to mend it."""
