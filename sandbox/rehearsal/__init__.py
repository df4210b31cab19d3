"""The recipe of a rehearsal and its steps."""
