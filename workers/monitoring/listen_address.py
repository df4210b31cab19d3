"""Addresses that our servers listen at."""

from __future__ import annotations

from sandbox.core.errors import RequestError


def address(listen: str, example: str) -> tuple[str, int]:
    """HOST:PORT, taken apart; raises :class:`RequestError`."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise RequestError(f"{listen!r} is no HOST:PORT", f"{example}, for example")
    return host.strip("[]"), int(port)
