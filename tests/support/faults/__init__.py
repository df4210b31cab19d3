"""What is killed and cut off, and what must hold afterwards."""
