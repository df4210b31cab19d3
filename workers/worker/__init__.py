"""The service's processes: a worker for some hosts, its attempts, its tasks, the beat."""
