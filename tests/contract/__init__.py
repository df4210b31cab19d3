"""One suite for every implementation; the service, its API and its pages."""
