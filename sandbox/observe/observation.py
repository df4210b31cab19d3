"""Observation: everything measured in a clone, in one round trip of one POSIX shell script."""

from __future__ import annotations

from importlib.resources import files
from urllib.parse import urlsplit

from sandbox.core.deadline import Deadline
from sandbox.core.guest_shell import Shell, new_mark
from sandbox.core.records import Observation
from sandbox.observe.observation_parse import parse


def observe(shell: Shell, deadline: Deadline) -> Observation:
    """Measure the clone.

    What a guest does not have (systemd, dpkg, a journal) leaves its fields at their defaults.
    Our own way in, the package proxy's forwarded port, is left out of the ports. Raises
    :class:`~sandbox.core.errors.GuestUnreachable` when the answer is not one, and what the shell
    raises.
    """
    return _ask(shell, deadline, "all")


def is_reboot_due(shell: Shell, deadline: Deadline) -> bool:
    """Whether the guest asks for a reboot, or runs what an upgrade has replaced. Raises what
    :func:`observe` raises."""
    now = _ask(shell, deadline, "reboot")
    return now.reboot_required or bool(now.stale_processes)


def observe_units(shell: Shell, deadline: Deadline) -> Observation:
    """The boot and its units, and nothing else: cheap enough to be asked again and again. Raises
    what :func:`observe` raises."""
    return _ask(shell, deadline, "units")


def _ask(shell: Shell, deadline: Deadline, what: str) -> Observation:
    mark = new_mark()
    script = files("sandbox.observe").joinpath("observe.sh").read_text()
    answer = shell.run(script, deadline, args=(mark, what))
    return parse(answer.stdout, mark, own_port=_port_of(shell.proxy_url()))


def _port_of(proxy_url: str) -> int:
    """The proxy's port in the guest; 0 without one."""
    return (urlsplit(proxy_url).port or 0) if proxy_url else 0
