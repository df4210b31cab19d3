"""The demo's production: a small Debian web server, built from packages and run by libvirt."""
