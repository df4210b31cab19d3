"""Pure: no process, no socket, no sleep, no libvirt."""
