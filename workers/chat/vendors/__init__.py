"""One module a vendor: its signature, its form, its messages."""
