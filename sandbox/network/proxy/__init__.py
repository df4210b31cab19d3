"""The package proxy: a clone's only way out, and only to package sources."""
