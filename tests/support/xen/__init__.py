"""A real Xen host: the lab's, or one's own."""
