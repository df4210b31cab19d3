"""The tests, from pure functions (unit) to real guests (vm, xen); parts.py says what runs when."""
