"""The XML of a pull-mode backup."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sandbox.hosts.drivers.backup_xml import backup_socket, backup_xml
from tests.support.paths import GOLDEN

SCHEMA = etree.RelaxNG(etree.parse("/usr/share/libvirt/schemas/domainbackup.rng"))
FOLDER = Path("/var/lib/upgrade-sandbox/clones/20260102-030405-abcdef/export")


def test_golden() -> None:
    """One disk of two, and neither the CD drive."""
    domain = (GOLDEN / "clone-bios.source.xml").read_text()
    made = backup_xml(domain, ["vda"], FOLDER / "nbd.sock", FOLDER)
    assert made == (GOLDEN / "backup.xml").read_text()


TARGETS = [f"vd{letter}" for letter in "abcdef"]


@given(
    st.lists(st.sampled_from(TARGETS), unique=True, min_size=1), st.sets(st.sampled_from(TARGETS))
)
def test_every_disk_is_said_to_be_in_or_out(there: list[str], wanted: set[str]) -> None:
    """libvirt would back up a disk that is not mentioned, with a name of its own for its file."""
    disks = "".join(
        f"<disk type='file' device='disk'><target dev='{name}'/></disk>" for name in there
    )
    domain = f"<domain><devices>{disks}</devices></domain>"
    made = etree.fromstring(backup_xml(domain, sorted(wanted), FOLDER / "nbd.sock", FOLDER))
    assert SCHEMA.validate(made), SCHEMA.error_log.last_error
    said = {disk.get("name"): disk.get("backup") for disk in made.iterfind("./disks/disk")}
    assert said == {name: "yes" if name in wanted else "no" for name in there}
    files = [str(scratch.get("file")) for scratch in made.iterfind("./disks/disk/scratch")]
    assert len(set(files)) == len(files) == len(wanted & set(there))
    assert all(Path(file).parent == FOLDER for file in files)


@pytest.mark.parametrize("path", ["/a/nbd.sock", "/with space/<&>'\"/nbd.sock", "/ä/n"])
def test_the_socket_is_read_back(path: str) -> None:
    made = backup_xml("<domain/>", [], Path(path), FOLDER)
    assert backup_socket(made) == Path(path)


@pytest.mark.parametrize(
    "xml",
    [
        "<domainbackup mode='push'/>",
        "<domainbackup mode='pull'><server transport='tcp' name='localhost' port='10809'/>"
        "</domainbackup>",
    ],
)
def test_a_backup_of_somebody_elses_has_no_socket_of_ours(xml: str) -> None:
    assert backup_socket(xml) is None
