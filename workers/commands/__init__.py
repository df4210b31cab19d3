"""Every command of the service, thin: what they do is in the packages that they call."""
