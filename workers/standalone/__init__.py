"""The whole service on one machine, without configuration: `sandbox up`."""
