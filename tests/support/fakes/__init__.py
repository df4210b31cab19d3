"""Guests, hosts and records without a hypervisor, and what they are made of."""
