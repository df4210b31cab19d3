"""What is done to queued runs: every write is fenced, and each change is one of states.py's.

``submitting`` puts runs in and takes wishes back, ``leases`` is for whoever holds a run,
``sweeping`` finds those whose holder is gone, ``reading`` is for looking, ``once`` keeps what is
asked for twice from being done twice.
"""
