"""Machines with a hypervisor: inventory, transport, admission, capacity, drivers and volumes."""
