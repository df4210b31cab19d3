"""`sandbox gate`: a rehearsal as a gate of CI, with one behaviour on three ways.

``values`` is what all share; ``server``, ``service`` and ``foreground`` are the ways: over HTTP,
by the database of this machine, without a service. ``wait`` sees a queued run to its end,
``job`` knows what CI says about itself, ``progress`` what people see, ``files`` what CI keeps.
``answer`` and ``fleet`` say whether a guest may be upgraded, from the newest verdicts.
"""
