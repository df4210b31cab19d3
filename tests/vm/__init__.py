"""Rehearsals of real guests on QEMU."""
