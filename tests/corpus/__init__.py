"""Upgrades of known outcome, and how often the verdict is right."""
