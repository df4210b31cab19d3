"""From the facts of a rehearsal to one of the five answers. Pure."""
