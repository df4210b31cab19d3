"""Real programs of this machine for a test's own use: sshd, namespaces, a package server."""
