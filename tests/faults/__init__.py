"""Kills, lost servers and restarts at every stage."""
