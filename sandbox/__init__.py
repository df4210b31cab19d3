"""Upgrade Sandbox: rehearse an upgrade on a throwaway clone before production is touched."""

__version__ = "0.1.0"
