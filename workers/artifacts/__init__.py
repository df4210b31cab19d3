"""What attempts leave: copied to its place, found again, removed when it expires."""
