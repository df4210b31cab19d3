"""Real guests under QEMU, booted or gone on from a saved boot, and what watches them."""
