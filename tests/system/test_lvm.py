"""Logical volumes: what `lvs` says, the mark as tags, and that only ours are ever removed.

What `lvs` says is a sample here; test_lvm_itself.py asks LVM.
"""

from __future__ import annotations

import pytest

from sandbox.core.errors import DeadlineExceeded, HostError
from sandbox.hosts.volumes import lvm
from tests.support.fakes.lvm_world import RUN, Scripted, ours
from tests.support.waiting import soon


@pytest.mark.parametrize(
    "said",
    [
        "Logical volume vg0/sbabcdef-xvda in use.",
        "Logical volume vg0/sbabcdef-xvda is used by another device.",
        "Logical volume vg0/sbabcdef-xvda contains a filesystem in use.",
    ],
)
def test_a_volume_that_is_still_open_is_waited_for(said: str) -> None:
    """The backend of a destroyed domain lets go of its disk in its own time."""
    host = Scripted([ours("sbabcdef-xvda")], busy=[said])
    assert lvm.remove(host, RUN, soon()) == ("volume vg0/sbabcdef-xvda",)
    assert len(host.ran) == 2


def test_a_volume_that_stays_open_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvm, "_BUSY_SECONDS", 2.5)
    host = Scripted([ours("sbabcdef-xvda")], busy=["Logical volume in use."] * 50)
    with pytest.raises(HostError, match="vg0/sbabcdef-xvda is still in use") as caught:
        lvm.remove(host, RUN, soon())
    assert not isinstance(caught.value, DeadlineExceeded)
    assert "/dev/vg0/sbabcdef-xvda" in caught.value.hint
