"""What ratios are measured with, and how they are shown."""
