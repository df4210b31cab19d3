"""What comes and goes by itself: containers, their mounts, and the numbers in log lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.checks.compare import lost_units, new_kernel_errors, real_filesystems
from sandbox.core.noise import normalised
from sandbox.observe.observation_parse import filesystems_of, mounts_of
from tests.support.fakes.check_samples import filesystem, seen

# --- containers -----------------------------------------------------------------------------

CONTAINER = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "unit",
    [
        "run-docker-netns-5d7e2b8c11aa.mount",
        "run-netns-cni\\x2d1.mount",
        f"var-lib-docker-overlay2-{CONTAINER}-merged.mount",
        f"var-lib-docker-containers-{CONTAINER}-mounts-shm.mount",
        "var-lib-docker-volumes-data-_data.mount",
        "var-lib-containers-storage-overlay-x-merged.mount",
        "var-lib-kubelet-pods-1-volumes-a.mount",
        f"srv-engine-overlay2-{CONTAINER}-merged.mount",
        f"{CONTAINER}.timer",
    ],
)
def test_what_is_there_for_one_container_is_not_lost(unit: str) -> None:
    assert lost_units({unit: "active/mounted"}, {}, []) == []


@pytest.mark.parametrize(
    "unit",
    [
        "var-lib-docker.mount",
        "var-lib-docker\\x2ddata.mount",
        "var-lib-docker-volumes.mount",
        "var-lib-containers.mount",
        "var-lib-containers-storage.mount",
        "var-lib-kubelet.mount",
        "docker.service",
    ],
)
def test_a_disk_for_containers_is_lost(unit: str) -> None:
    assert [lost.unit for lost in lost_units({unit: "active/mounted"}, {}, [])] == [unit]


def test_a_container_needs_no_room_of_its_own() -> None:
    there = ["/", "/var/lib/docker", f"/var/lib/docker/overlay2/{CONTAINER}/merged"]
    observation = seen(filesystems=tuple(filesystem(mount, 40) for mount in there))
    assert list(real_filesystems(observation)) == there[:2]


def test_what_is_mounted_for_containers_is_no_mount_of_the_guest() -> None:
    mounts = {
        "/": "ext4",
        "/var/lib/docker": "ext4",
        "/var/lib/docker/volumes": "ext4",
        "/var/lib/containers/storage": "xfs",
        "/var/lib/kubelet": "xfs",
        f"/var/lib/docker/overlay2/{'ab' * 32}/merged": "overlay",
        "/var/lib/containers/storage/overlay": "xfs",
        "/var/lib/containers/storage/overlay/x/merged": "overlay",
        "/var/lib/kubelet/pods/1/volumes/a": "ext4",
        f"/srv/engine/overlay2/{'0f' * 32}/merged": "overlay",
    }
    lines = [f"dev {path} {kind} rw 0 0" for path, kind in mounts.items()]
    used = [f"dev 100 50 50 50% {path}" for path in mounts]
    lasting = sorted([*mounts][:5])
    assert sorted(mounts_of(lines)) == lasting
    found = filesystems_of({"mounts": lines, "df": used})
    assert [one.mount for one in found] == lasting


# --- log lines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[    1.234567] ata1: link down", "[   99.000001] ata7: link down"),
        ("<3>[ 1.0] BUG at 0xffffffff81234567", "BUG at 0xffffffff99999999"),
        ("pcieport 0000:00:1c.0: AER", "pcieport 0000:03:00.1: AER"),
        ("RIP ffffffffc0a812f0 bad", "RIP ffff9d8e01234567 bad"),
        (
            "fs c0ffee00-1111-2222-3333-444455556666 dirty",
            "fs 01234567-89ab-cdef-0123-456789abcdef dirty",
        ),
        ("eth0 52:54:00:aa:bb:cc  up", "eth1 52:54:00:12:34:56 up"),
        ("no route to fe80::5054:ff:fe12:3456%eth0", "no route to 2001:db8::1%eth0"),
        ("commit a1b2c3d is bad", "commit 9f8e7d6c5b is bad"),
    ],
)
def test_messages_that_differ_in_numbers_only_are_the_same(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
    assert new_kernel_errors([one], [other], []) == []


def test_words_are_told_apart() -> None:
    assert normalised("defaced facade") == "defaced facade"
    assert normalised("sda: read error") != normalised("sda: write error")


@given(st.text(max_size=200))
def test_normalising_twice_changes_nothing_more(message: str) -> None:
    assert normalised(normalised(message)) == normalised(message)
