"""Nights: when they are due, their runs, and the reports in the morning."""
