"""Measure a guest: scripts that run in it, and their parsers."""
