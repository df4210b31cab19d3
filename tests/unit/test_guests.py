"""`sandbox guests`: what can be rehearsed where, what only xl knows, and taking that over."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sandbox.cli.guests import guest_rows, import_guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, RequestError
from sandbox.core.process import Completed
from sandbox.core.settings import Settings
from sandbox.hosts.capacity import Limits
from sandbox.hosts.drivers import xl
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.inventory import KnownHost
from sandbox.hosts.transport import LocalHost

HOST = KnownHost("xen1", "xen+ssh://root@xen1/system")
GIB = 1 << 30
LVS = {
    "report": [
        {
            "lv": [
                {
                    "vg_name": "vg0",
                    "lv_name": name,
                    "lv_size": str(GIB),
                    "lv_tags": "",
                    "lv_path": f"/dev/vg0/{name}",
                    "lv_dm_path": f"/dev/mapper/vg0-{name}",
                    "pool_lv": pool,
                    "segtype": segtype,
                    "vg_free": "0",
                    "data_percent": "10.00",
                    "metadata_percent": "10.00",
                    "lv_health_status": "",
                    "lv_check_needed": "",
                    "lv_permissions": "writeable",
                    "lv_snapshot_invalid": "",
                }
                for name, pool, segtype in (
                    ("web01", "thin", "thin"),
                    ("thin", "", "thin-pool"),
                    ("old", "", "linear"),
                )
            ]
        }
    ]
}


class Answers(LocalHost):
    """A host whose programs say what a test wants."""

    def __init__(self, said: Mapping[str, str | Exception]) -> None:
        self.said = said
        self.asked: list[str] = []

    def run(  # type: ignore[override]
        self, argv: Sequence[str | Path], deadline: Deadline, *, check: bool = True, **_: Any
    ) -> Completed:
        line = " ".join(map(str, argv))
        self.asked.append(line)
        answer = next((a for words, a in self.said.items() if line.startswith(words)), None)
        if isinstance(answer, Exception):
            raise answer
        if answer is None and check:
            raise CommandFailed(tuple(map(str, argv)), 1, "no such thing")
        return Completed(tuple(map(str, argv)), 0 if answer is not None else 1, answer or "", "")


class Xen(FakeHypervisor):
    """Takes guests over from xl: what it is given is XML already."""

    def from_xl(self, config: str) -> str:
        return config


def xen(said: Mapping[str, str | Exception]) -> FakeHypervisor:
    answers = {
        "lvs": json.dumps(LVS),
        "qemu-img info": json.dumps({"virtual-size": GIB}),
        "xl list": "[]",
    }
    # What a test says comes first: the first that fits is the answer.
    return Xen(kind="xen", host=Answers({**said, **answers}))


def domain(name: str, disk: str = "", boot: str = "<bootloader>pygrub</bootloader>") -> str:
    return (
        f"<domain type='xen'><name>{name}</name>{boot}"
        "<os><type machine='xenpv'>linux</type></os>"
        f"<devices>{disk}</devices></domain>"
    )


def block(path: str) -> str:
    return (
        "<disk type='block' device='disk'><driver name='phy'/>"
        f"<source dev='{path}'/><target dev='xvda'/></disk>"
    )


def file(path: str) -> str:
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{path}'/><target dev='xvda'/></disk>"
    )


def xl_entry(name: str) -> dict[str, Any]:
    return {
        "domid": 7,
        "config": {
            "c_info": {"type": "pv", "name": name, "uuid": "f10f27d0"},
            "b_info": {"type.pv": {"bootloader": "pygrub"}},
            "disks": [{"pdev_path": "/dev/vg0/x", "vdev": "xvda", "format": "raw"}],
        },
    }


# -- rows -----------------------------------------------------------------------------------


def rows(hypervisor: FakeHypervisor, host: KnownHost = HOST) -> dict[str, Any]:
    return {r.name: r for r in guest_rows(hypervisor, host, Deadline(5, "look"))}


def test_what_can_be_rehearsed_and_what_not() -> None:
    hypervisor = xen({"stat -f": "xfs /srv/a.qcow2\next2/ext3 /srv/b.qcow2\n"})
    kernel = "<os><type machine='xenpv'>linux</type><kernel>/boot/vmlinuz</kernel></os>"
    hypervisor.define(domain("web01", block("/dev/vg0/web01")), running=True)
    hypervisor.define(domain("old", block("/dev/mapper/vg0-old")))
    hypervisor.define(domain("a", file("/srv/a.qcow2")), running=True)
    hypervisor.define(domain("b", file("/srv/b.qcow2")), running=True)
    hypervisor.define(domain("b-stopped", file("/srv/b.qcow2")))
    hypervisor.define(domain("kernel", block("/dev/vg0/web01"), kernel))
    hypervisor.define(domain("raw", block("/dev/sdb")))
    hypervisor.define(domain("diskless"))
    found = rows(hypervisor)
    assert {name: row.rehearsal for name, row in found.items()} == {
        **dict.fromkeys(("web01", "old", "a", "b-stopped"), "yes"),
        **dict.fromkeys(("b", "raw", "diskless"), "no"),
        "kernel": "packages only",
    }
    stores = {name: [d.store for d in row.disks] for name, row in found.items()}
    assert stores["web01"] == ["lvm-thin vg0/thin"]
    assert stores["old"] == ["lvm (thick) vg0"]
    assert stores["a"] == ["qcow2 on xfs"]
    assert "no reflinks" in found["b"].reason
    assert "/dev/sdb" in found["raw"].reason
    assert "no disk" in found["diskless"].reason
    assert "/boot/vmlinuz" in found["kernel"].boot
    assert {row.type for row in found.values()} == {"pv"}
    assert {found["web01"].state, found["old"].state} == {"running", "off"}
    assert all(row.hint for row in found.values() if row.rehearsal != "yes")


def test_a_disk_outside_of_the_hosts_store_is_told() -> None:
    hypervisor = xen({})
    hypervisor.define(domain("web01", block("/dev/vg0/web01")))
    hypervisor.define(domain("old", block("/dev/vg0/old")))
    limited = KnownHost("xen1", HOST.uri, Limits(store="lvm-thin"))
    found = rows(hypervisor, limited)
    assert (found["web01"].rehearsal, found["old"].rehearsal) == ("yes", "no")
    assert "no thin pool" in found["old"].reason


def test_guests_of_xl_are_told_with_the_way_to_take_them_over() -> None:
    listed = [xl_entry(name) for name in ("foreign", "both", "sandbox-1-2-3")]
    hypervisor = xen({"xl list -l": json.dumps(listed)})
    hypervisor.define(domain("both", block("/dev/vg0/web01")))  # off, as libvirt sees it
    found = rows(hypervisor)
    assert set(found) == {"foreign", "both"}
    assert found["foreign"].hint == "sandbox guests --host xen1 --import foreign"
    assert (found["foreign"].type, found["foreign"].boot) == ("pv", "pygrub")
    assert found["both"].rehearsal == "no", "its disks would be taken for clean"
    assert "started by xl" in found["both"].reason


def test_a_qemu_host_is_not_asked_for_what_is_xens() -> None:
    hypervisor = FakeHypervisor(host=Answers({}))
    hypervisor.define("<domain><name>web01</name><os><type>hvm</type></os><devices/></domain>")
    (row,) = rows(hypervisor).values()
    assert (row.type, row.boot) == ("hvm", "its disk's boot loader")
    assert hypervisor.host.asked == []  # type: ignore[attr-defined]


# -- the command ----------------------------------------------------------------------------


# -- taking over ----------------------------------------------------------------------------


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeHypervisor]:
    def prepare(said: Mapping[str, str | Exception], made: FakeHypervisor | None = None) -> Any:
        hypervisor = made or xen(said)
        monkeypatch.setattr("sandbox.hosts.drivers.driver_for", lambda *_: hypervisor)
        return hypervisor

    return prepare


def take(*, define: bool = False, config: str | None = None) -> None:
    settings = Settings(uri="xen:///system")
    import_guest(settings, None, "db01", config, define=define)


def test_an_import_is_shown_and_nothing_is_made(
    taking: Callable[..., FakeHypervisor], capsys: pytest.CaptureFixture[str]
) -> None:
    hypervisor = taking({"cat -- /etc/xen/db01.cfg": domain("db01"), "xl domid db01": "3\n"})
    take()
    out, err = capsys.readouterr()
    assert etree.fromstring(out.encode()).findtext("./name") == "db01"
    assert "nothing was changed" in err
    assert "xl shutdown db01" in err
    assert hypervisor.guests() == ()


def test_a_guest_that_xl_runs_is_not_defined(taking: Callable[..., FakeHypervisor]) -> None:
    hypervisor = taking({"cat": domain("db01"), "xl domid db01": "3\n"})
    with pytest.raises(RequestError, match="runs under xl"):
        take(define=True)
    assert hypervisor.guests() == ()


def test_a_stopped_one_is_defined_when_that_is_asked_for(
    taking: Callable[..., FakeHypervisor], capsys: pytest.CaptureFixture[str]
) -> None:
    hypervisor = taking({"cat -- /root/x.cfg": domain("db01")})
    take(define=True, config="/root/x.cfg")
    assert hypervisor.guests() == ("db01",)
    assert "db01 is defined" in capsys.readouterr().err
    with pytest.raises(RequestError, match="knows 'db01' already"):
        take()


def test_what_cannot_be_taken_over(taking: Callable[..., FakeHypervisor]) -> None:
    taking({})
    with pytest.raises(RequestError, match="cannot be read") as caught:
        take()
    assert "--config PATH" in caught.value.hint
    taking({"cat": domain("other")})
    with pytest.raises(RequestError, match="of the guest 'other', not 'db01'"):
        take()
    taking({}, FakeHypervisor())
    with pytest.raises(RequestError, match="no Xen host"):
        take()


def test_a_device_that_libvirt_made_a_file_becomes_a_device_again() -> None:
    raw = "<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
    disks = f"{raw}<source file='/dev/vg0/a'/><target dev='xvda'/></disk>"
    disks += f"{raw}<source file='/srv/a.raw'/><target dev='xvdb'/></disk>"
    cards = "".join(
        f"<interface type='bridge'><mac address='{mac}'/></interface>"
        for mac in ("00:00:00:00:00:00", "00:16:3e:00:00:01")
    )
    found = etree.fromstring(xl.adopted(domain("a", disks + cards)).encode())
    first, second = found.findall("./devices/disk")
    assert (first.get("type"), second.get("type")) == ("block", "file")
    assert dict(first.find("./driver").attrib) == {"name": "phy", "type": "raw"}  # type: ignore[union-attr]
    assert dict(first.find("./source").attrib) == {"dev": "/dev/vg0/a"}  # type: ignore[union-attr]
    assert [mac.get("address") for mac in found.iterfind(".//mac")] == ["00:16:3e:00:00:01"]
    assert xl.adopted(xl.adopted(domain("a", disks))) == xl.adopted(domain("a", disks))


# -- xl's list ------------------------------------------------------------------------------


def test_xls_list_is_read() -> None:
    dom0 = {"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}}}
    (found,) = xl.parse_list(json.dumps([dom0, xl_entry("web01"), {"domid": 9}]))
    assert found == xl.XlDomain(
        "web01", "f10f27d0", "pv", "pygrub", (("xvda", "/dev/vg0/x", "raw"),)
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["domid", "config", "c_info", "b_info", "type", "disks", "pdev_path"]),
            inner,
        )
    ),
    max_leaves=15,
)


@given(JSON | st.lists(JSON, max_size=3))
def test_no_list_is_too_odd(value: object) -> None:
    for found in xl.parse_list(json.dumps(value)):
        assert isinstance(found.name, str)


@given(st.text(max_size=60))
def test_no_text_is_too_odd(text: str) -> None:
    assert isinstance(xl.parse_list(text), tuple)
