"""The queue: Celery app, tasks and schedule. Empty until the service is built."""
