"""What is done to queued runs: every write is fenced, and each change is one of database/states.py.

``submission`` puts runs in and cancels them, ``leases`` is for the worker that holds a run,
``reclaim`` finds runs whose holder is gone, ``reading`` is for looking, ``idempotency`` keeps a
request that comes twice from being done twice. Celery is configured in ``celery_app``.
"""
