"""Verdicts on guests that were changed before: a full disk, an edited file, no key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.core.records import Verdict
from sandbox.demo.broken import SITE_CONFIG, build_deb
from sandbox.demo.image import DemoImage, derive_image
from tests.support.guests.archive import SOURCE, Archive
from tests.support.guests.case_parts import ALL, FEW, MEMORY, changes_of, reason, site_11, verdict
from tests.support.guests.guests import Lab

pytestmark = pytest.mark.vm


def test_a_full_disk_in_the_guest_fails(
    lab: Lab, archive: Archive, base_image: DemoImage, tmp_path: Path
) -> None:
    archive.offer([])
    nearly_full = derive_image(
        base_image,
        "vmfull",
        print,
        files={
            "/etc/apt/sources.list": f"deb [trusted=yes] {SOURCE} ./\n",
            "/etc/systemd/system/fill.service": FILL,
        },
        links={
            "/etc/systemd/system/multi-user.target.wants/fill.service": (
                "/etc/systemd/system/fill.service"
            )
        },
    )
    package = build_deb("web01-big", "1.0", out=tmp_path, files={"/opt/big": bytes(80 << 20)})
    text = ALL + MEMORY + "checks: {filesystems_max_percent: 100}\n"
    record = lab.run(lab.scenario(text), image=nearly_full.path, upgrade=str(package), boots=True)
    assert verdict(record) is Verdict.FAIL
    assert "full" in reason(record) or "space" in reason(record)


FILL = """[Unit]
Description=leave 40 MB free
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'fallocate -l $(( ($(stat -f -c %%a /) - 10240) * $(stat -f -c %%S /) )) /fill'
[Install]
WantedBy=multi-user.target
"""


def test_a_kept_conffile_is_reported_with_its_difference(
    lab: Lab, archive: Archive, tmp_path: Path
) -> None:
    """The administrator edited the site's configuration; the new version brings another."""
    edited = derive_image(
        lab.image,
        "vmedited",
        print,
        files={SITE_CONFIG: "# edited by the administrator\n"},
    )
    archive.offer([site_11(tmp_path, config="# as shipped by 1.1\n")])
    record = lab.run(lab.scenario(ALL + MEMORY + FEW), image=edited.path, boots=True)
    assert record.facts.upgrade is not None
    kept = record.facts.upgrade.conffiles
    assert [(file.path, file.decision) for file in kept] == [(SITE_CONFIG, "kept")]
    assert "edited by the administrator" in kept[0].diff
    lines = [line["text"] for line in changes_of(record, lab.artifacts(record))]
    assert (
        f"configuration file {SITE_CONFIG} was kept as it is here; the package's new version "
        "lies beside it" in lines
    )


def test_a_key_is_injected_for_a_guest_that_accepts_none(
    lab: Lab, archive: Archive, tmp_path: Path
) -> None:
    archive.offer([])
    locked = derive_image(lab.image, "vmlocked", print, remove=["/root/.ssh/authorized_keys"])
    folder = lab.scenario(
        ALL + MEMORY + FEW + "login: {inject: true}\n"
        f"source: {{image: {{path: {locked.path}, format: qcow2}}}}\n"
    )
    record = lab.run_as_stated(folder)
    assert verdict(record) is Verdict.PASS, reason(record)
    assert record.source is not None
    assert record.source.mutations
    assert "authorized_keys" in record.source.mutations[0]
