"""Rehearsals of real guests on Xen."""
