"""The service: a queue of rehearsals with its truth in a database, workers, nights, summaries.

Imports sandbox, never the other way round. A message of the broker is only a wake-up: whatever
becomes of it, the rows of the database say what has to be done, and by whom it is being done.
"""
