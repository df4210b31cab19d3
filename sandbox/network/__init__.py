"""All that a clone may say: its own bridge, egress, stand-ins, the package proxy."""
