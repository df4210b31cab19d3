"""A clone is made, entered and removed."""
