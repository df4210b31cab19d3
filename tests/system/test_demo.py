"""The demo's builders, with the real tools they use but without booting a guest."""

from __future__ import annotations

import os
import stat
import xml.etree.ElementTree as ET
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError, RequestError
from sandbox.core.process import run
from sandbox.demo import disk, guest, image, mirror
from sandbox.demo.broken import SITE_CONFIG, build_broken_site, build_deb, build_site
from sandbox.hosts.drivers import acceleration


def output(*argv: str | Path) -> str:
    return run(argv, Deadline(60, "test")).stdout


class TestPackages:
    def test_a_package_carries_what_it_was_given(self, tmp_path: Path) -> None:
        deb = build_deb(
            "shop",
            "1:2.0-1",
            out=tmp_path,
            files={"/etc/shop.conf": "a=1\n", "/usr/bin/shop": b"#!/bin/sh\n"},
            executable=["/usr/bin/shop"],
            conffiles=["/etc/shop.conf"],
            postinst="#!/bin/sh\nexit 1\n",
            scripts={"prerm": "#!/bin/sh\n"},
            depends="nginx (>= 1.22)",
            fields={"Breaks": "old-shop"},
        )
        assert deb.name == "shop_2.0-1_all.deb"
        fields = output("dpkg-deb", "--field", deb)
        assert "Version: 1:2.0-1\n" in fields
        assert "Depends: nginx (>= 1.22)\n" in fields
        assert "Breaks: old-shop\n" in fields
        assert output("dpkg-deb", "--ctrl-tarfile", deb)
        output("dpkg-deb", "--raw-extract", deb, tmp_path / "tree")
        assert (tmp_path / "tree/etc/shop.conf").read_text() == "a=1\n"
        assert (tmp_path / "tree/DEBIAN/conffiles").read_text() == "/etc/shop.conf\n"
        assert (tmp_path / "tree/DEBIAN/postinst").read_text().endswith("exit 1\n")
        assert "prerm" in os.listdir(tmp_path / "tree/DEBIAN")

    def test_modes_and_owner_do_not_depend_on_who_builds(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            deb = build_deb(
                "shop",
                "1",
                out=tmp_path,
                files={"/usr/bin/shop": "", "/etc/shop": ""},
                executable=["/usr/bin/shop"],
            )
        finally:
            os.umask(before)
        listing = output("dpkg-deb", "--contents", deb).splitlines()
        modes = {line.split()[-1]: line.split()[:2] for line in listing}
        assert modes["./usr/bin/shop"] == ["-rwxr-xr-x", "root/root"]
        assert modes["./etc/shop"] == ["-rw-r--r--", "root/root"]
        assert modes["./usr/bin/"] == ["drwxr-xr-x", "root/root"]

    @pytest.mark.parametrize("path", ["etc/shop", "/etc/../../shop"])
    def test_a_path_outside_the_guest_is_refused(self, tmp_path: Path, path: str) -> None:
        with pytest.raises(ValueError, match="absolute path"):
            build_deb("shop", "1", out=tmp_path, files={path: ""})
        assert not list(tmp_path.iterdir())

    def test_an_unknown_maintainer_script_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="postint"):
            build_deb("shop", "1", out=tmp_path, scripts={"postint": "#!/bin/sh\n"})

    def test_the_broken_site_is_an_upgrade_that_differs_only_in_its_configuration(
        self, tmp_path: Path
    ) -> None:
        trees = []
        for deb in (build_site("1.0", tmp_path), build_broken_site(tmp_path)):
            tree = tmp_path / deb.stem
            output("dpkg-deb", "--raw-extract", deb, tree)
            trees.append({str(p.relative_to(tree)): p for p in tree.rglob("*") if p.is_file()})
        old, new = trees
        assert old.keys() == new.keys()
        changed = {name for name in old if old[name].read_bytes() != new[name].read_bytes()}
        assert changed == {"DEBIAN/control", SITE_CONFIG.lstrip("/")}
        versions = [
            output("dpkg-deb", "--field", d, "Version").strip()
            for d in (
                tmp_path / "web01-site_1.0_all.deb",
                tmp_path / "web01-site_2.0_all.deb",
            )
        ]
        assert run(
            ["dpkg", "--compare-versions", versions[1], "gt", versions[0]], Deadline(9, "test")
        ).ok


class TestMirror:
    LISTING = (
        "http://mirror.example/debian/|trixie|trixie|main|Debian|{lists}/m_dists_trixie_main_x\n"
        "http://other.example/|nodistro|nodistro|main|Other|{lists}/o_dists_nodistro_main_x\n"
        "http://mirror.example/sec/|trixie-security|stable-security|main|Debian-Security"
        "|{lists}/s_dists_stable-security_main_x\n"
    )

    @pytest.fixture
    def listing(self, tmp_path: Path) -> str:
        (tmp_path / "m_dists_trixie_InRelease").write_text("Origin: Debian\nDate: Sat, 11 Jul\n")
        return self.LISTING.format(lists=tmp_path)

    def test_release_and_security_are_found_among_other_sources(self, listing: str) -> None:
        found = mirror.parse_mirror(listing, "trixie", {"Acquire::Check-Valid-Until": "false"})
        assert found.release_date == "Sat, 11 Jul"
        assert found.sources() == (
            "deb http://mirror.example/debian/ trixie main\n"
            "deb http://mirror.example/sec/ stable-security main\n"
        )
        assert found.guest_options() == 'Acquire::Check-Valid-Until "false";\n'

    def test_the_hosts_proxy_stays_on_the_host(self, listing: str) -> None:
        options = {"Acquire::http::Proxy": "http://proxy.example:3128"}
        assert mirror.parse_mirror(listing, "trixie", options).guest_options() == ""

    def test_a_missing_security_suite_is_named(self, listing: str) -> None:
        with pytest.raises(HostError, match="trixie-security"):
            mirror.parse_mirror("\n".join(listing.splitlines()[:2]), "trixie", {})

    def test_lists_that_were_never_fetched_are_an_error(self, listing: str, tmp_path: Path) -> None:
        (tmp_path / "m_dists_trixie_InRelease").unlink()
        with pytest.raises(HostError, match="never fetched") as problem:
            mirror.parse_mirror(listing, "trixie", {})
        assert "apt-get update" in problem.value.hint

    def test_only_debian_lends_its_packages(self) -> None:
        assert mirror.parse_codename('ID=debian\n# x\nVERSION_CODENAME="trixie"\n') == "trixie"
        with pytest.raises(HostError, match="Some Linux 7"):
            mirror.parse_codename('ID=some\nPRETTY_NAME="Some Linux 7"\nVERSION_CODENAME=x\n')

    def test_options_come_from_apts_own_dump(self) -> None:
        dump = (
            'Acquire "";\nAcquire::Check-Date "false";\nAcquire::http::Proxy "";\n'
            'APT::Architecture "amd64";\nAcquire::https::Proxy "http://proxy.example:1/";\n'
        )
        assert mirror.parse_options(dump) == {
            "Acquire::Check-Date": "false",
            "Acquire::https::Proxy": "http://proxy.example:1/",
        }


class TestDisk:
    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        """A partition as write_disk makes it, without a boot loader."""
        tree = tmp_path / "tree"
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/hostname").write_text("old\n")
        (tree / "etc/motd").write_text("hello\n")
        raw = tmp_path / "raw"
        with raw.open("wb") as file:
            file.truncate(8 * 1024**2)
        output(
            *("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree)),
            *("-E", f"offset={disk.OFFSET}", str(raw), "7168k"),
        )
        return raw

    def read(self, raw: Path, path: str) -> str:
        return output("debugfs", "-R", f"cat {path}", f"{raw}?offset={disk.OFFSET}")

    def test_files_links_and_removals(self, raw: Path, tmp_path: Path) -> None:
        local = tmp_path / "with a space"
        local.write_text("new\n")
        local.chmod(0o755)
        disk.edit_disk(
            raw,
            Deadline(60, "test"),
            files={"/etc/hostname": local, "/srv/new/file": local},
            links={"/etc/link": "/dev/null"},
            remove=["/etc/motd"],
        )
        assert self.read(raw, "/etc/hostname") == "new\n"
        assert self.read(raw, "/srv/new/file") == "new\n"
        assert self.read(raw, "/etc/motd") == ""
        image_at = f"{raw}?offset={disk.OFFSET}"
        assert '"/dev/null"' in output("debugfs", "-R", "stat /etc/link", image_at)
        inode = output("debugfs", "-R", "stat /srv/new/file", image_at)
        assert "Mode:  0755" in inode
        assert "User:     0" in inode

    def test_a_full_disk_is_an_error_and_not_half_a_file(self, raw: Path, tmp_path: Path) -> None:
        local = tmp_path / "big"
        local.write_bytes(os.urandom(9 * 1024**2))
        with pytest.raises(HostError):
            disk.edit_disk(raw, Deadline(60, "test"), files={"/big": local}, links={}, remove=[])


class TestImageCache:
    def test_a_cached_image_is_not_built_again(self, tmp_path: Path) -> None:
        path = tmp_path / "images" / "web01-x.qcow2"
        with image.build_folder(path, print) as folder:
            assert folder is not None
            (folder / "qcow2").write_text("disk")
            image._publish(folder / "qcow2", path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        with image.build_folder(path, print) as folder:
            assert folder is None

    def test_what_a_killed_build_left_is_removed(self, tmp_path: Path) -> None:
        stale = tmp_path / "images" / "build-web01@killed" / "tree"
        stale.mkdir(parents=True)
        with image.build_folder(tmp_path / "images" / "web01-x.qcow2", print):
            assert not stale.exists()

    def test_images_of_several_variants_are_built_beside_each_other(self, tmp_path: Path) -> None:
        images = tmp_path / "images"
        with image.build_folder(images / "lab-x", print) as lab:
            assert lab is not None
            for name in ("lab-own-x", "web01-x.qcow2"):
                with image.build_folder(images / name, print) as folder:
                    assert folder is not None
            assert lab.is_dir()

    def test_a_failed_build_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "images" / "web01-x.qcow2"
        with pytest.raises(HostError), image.build_folder(path, print):
            raise HostError("mirror down")
        assert [entry.name for entry in path.parent.iterdir()] == [".web01.lock"]

    def test_the_key_is_made_once_and_private(self, tmp_path: Path) -> None:
        key = image.ensure_key(tmp_path)
        text = key.read_text()
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert image.ensure_key(tmp_path).read_text() == text

    @given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
    def test_different_inputs_never_share_an_image(self, one: list[str], other: list[str]) -> None:
        assert (image.digest(*one) == image.digest(*other)) == (one == other)


class TestGuest:
    def domain(self, name: str = "web01", disks: int = 1, kind: str = "qemu") -> ET.Element:
        return ET.fromstring(
            guest.domain_xml(
                name,
                disks=tuple(Path(f"/disks/{number}.qcow2") for number in range(disks)),
                base=Path("/images/base.qcow2"),
                mac="52:54:00:01:02:03",
                kind=kind,
                memory_mib=512,
                cpus=2,
            )
        )

    def test_every_disk_states_its_format(self) -> None:
        disks = self.domain(disks=2).findall("./devices/disk")
        assert [one.find("target").get("dev") for one in disks] == ["vda", "vdb"]  # type: ignore[union-attr]
        assert {one.find("driver").get("type") for one in disks} == {"qcow2"}  # type: ignore[union-attr]
        assert disks[0].find("./backingStore/format").get("type") == "qcow2"  # type: ignore[union-attr]

    def test_emulation_gets_a_small_translation_cache_and_kvm_the_hosts_processor(self) -> None:
        emulated, accelerated = self.domain(), self.domain(kind="kvm")
        assert emulated.findtext("./features/tcg/tb-cache") == "128"
        assert accelerated.find("./features/tcg") is None
        assert accelerated.find("cpu").get("mode") == "host-passthrough"  # type: ignore[union-attr]

    def test_its_only_network_is_its_own(self) -> None:
        sources = self.domain().findall("./devices/interface/source")
        assert [source.get("network") for source in sources] == [guest.NETWORK]
        network = ET.fromstring(guest.network_xml())
        assert network.find("forward") is None
        assert [ip.get("family") for ip in network.findall("ip")] == [None, "ipv6"]

    @given(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1))
    def test_a_name_cannot_become_xml(self, name: str) -> None:
        assert self.domain(name).findtext("name") == name

    def test_link_local_address_of_a_known_mac(self) -> None:
        assert guest.link_local("52:54:00:1f:94:fe") == "fe80::5054:ff:fe1f:94fe"

    @given(st.binary(min_size=6, max_size=6))
    def test_link_local_address_holds_the_mac(self, mac: bytes) -> None:
        address = IPv6Address(guest.link_local(":".join(f"{byte:02x}" for byte in mac)))
        host = address.packed[8:]
        assert address.is_link_local
        assert bytes([host[0] ^ 2]) + host[1:3] + host[5:] == mac

    def test_names_have_stable_addresses_of_their_own(self) -> None:
        assert guest.mac_address("web01") == guest.mac_address("web01")
        assert guest.mac_address("web01") != guest.mac_address("web02")

    def test_a_stranger_of_that_name_is_left_alone(self) -> None:
        class Domain:
            def name(self) -> str:
                return "web01"

            def XMLDesc(self, _flags: int) -> str:
                return "<domain><name>web01</name></domain>"

        class Connection:
            def listAllDomains(self) -> list[Domain]:
                return [Domain()]

        with pytest.raises(RequestError, match="web01"):
            guest._own_domain(Connection(), "web01")
        assert guest._own_domain(Connection(), "web02") is None


class TestAcceleration:
    def test_the_probe_reaches_long_mode(self) -> None:
        assert acceleration.probe("tcg", 60)

    def test_a_machine_that_hangs_is_no_acceleration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            acceleration, "boot_sector", lambda: b"\xfa\xf4".ljust(510, b"\0") + b"\x55\xaa"
        )
        assert not acceleration.probe("tcg", 2)

    def test_without_the_device_nothing_is_run(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(acceleration, "DEVICE", tmp_path / "kvm")
        monkeypatch.setattr(acceleration, "probe", lambda _kind: pytest.fail("probed"))
        assert acceleration.acceleration() == "tcg"

    def test_the_answer_is_remembered_until_the_next_boot(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        probes: list[str] = []

        def probe(kind: str) -> bool:
            probes.append(kind)
            return True

        monkeypatch.setattr(acceleration, "DEVICE", tmp_path)
        monkeypatch.setattr(acceleration, "CACHE", tmp_path / "run" / "acceleration")
        monkeypatch.setattr(acceleration, "BOOT_ID", tmp_path / "boot_id")
        monkeypatch.setattr(acceleration, "probe", probe)
        for boot in ("first", "first", "second"):
            (tmp_path / "boot_id").write_text(f"{boot}\n")
            assert acceleration.acceleration() == "kvm"
        assert probes == ["kvm", "kvm"]
