"""The commands, one module for each group of them: their options, and what they print."""

PROGRAM = "jirafe-consumer"
