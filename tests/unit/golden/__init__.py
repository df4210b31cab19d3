"""What reports and XML look like; regenerate.py writes the reports anew."""
