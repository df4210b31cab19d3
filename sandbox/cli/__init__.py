"""The `sandbox` command: one file a group of commands, thin."""
