"""libvirt's test driver as far as Xen's goes: what libxl lacks is refused as libxl refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import libvirt

# libxl_driver.c of libvirt 9.0 has none of these.
DOMAIN_LACKS = (
    *("snapshotCreateXML", "snapshotLookupByName", "snapshotNum", "snapshotListNames"),
    *("listAllSnapshots", "hasCurrentSnapshot", "snapshotCurrent", "revertToSnapshot"),
    *("checkpointCreateXML", "checkpointLookupByName", "listAllCheckpoints"),
    *("screenshot", "sendKey", "backupBegin", "backupGetXMLDesc", "rename", "reset"),
    *("fsFreeze", "fsThaw", "fsInfo", "fSTrim", "setUserPassword", "guestInfo"),
    *("blockCopy", "blockCommit", "blockPull", "blockRebase", "blockJobInfo", "blockJobAbort"),
    "blockJobSetSpeed",
)
CONNECTION_LACKS = ("getAllDomainStats", "domainListGetStats")
_REFUSED_FLAGS = {"createXML": libvirt.VIR_DOMAIN_START_AUTODESTROY}


class Masked:
    """A connection, or a domain of one."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        lacking = DOMAIN_LACKS if isinstance(self._thing, libvirt.virDomain) else CONNECTION_LACKS
        if name in lacking:
            return _refuse(name)
        found = getattr(self._thing, name)
        if not callable(found):
            return found

        def call(*arguments: Any) -> Any:
            refused = _REFUSED_FLAGS.get(name, 0)
            if any(isinstance(given, int) and given & refused for given in arguments):
                _refuse(name)()
            return _masked(found(*arguments))

        return call


def _masked(result: Any) -> Any:
    """Domains are masked in their turn, networks are libvirt's own everywhere."""
    if isinstance(result, list):
        return [_masked(one) for one in result]
    return Masked(result) if isinstance(result, libvirt.virDomain) else result


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        words = f"this function is not supported by the connection driver: {name}"
        problem = libvirt.libvirtError(words)
        level = libvirt.VIR_ERR_ERROR
        problem.err = (
            *(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_LIBXL, words, level),
            *(name, None, None, -1, -1),
        )
        raise problem

    return refuse
