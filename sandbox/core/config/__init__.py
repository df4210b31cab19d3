"""Strict files of configuration: plain YAML, typed sections, and every problem with its line."""
