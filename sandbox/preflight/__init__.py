"""Look at production before anything is cloned, only by reading."""
