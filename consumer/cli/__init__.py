"""The commands, a file for each kind of them: what they print, and what they take."""

PROGRAM = "jirafe-consumer"
