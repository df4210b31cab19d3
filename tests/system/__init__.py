"""Real programs of this machine, but no guest."""
