"""The lab: a Xen host inside QEMU, for machines without Xen. Reached as any remote host is."""
