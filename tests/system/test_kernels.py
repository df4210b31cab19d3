"""Which named packages are kernels, and that a guest with its host's kernel cannot try them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox.core import process
from sandbox.core.errors import RequestError, ToolMissing
from sandbox.managers import UpgradeRequest, kernels
from sandbox.managers.kernels import is_kernel, named_kernels
from sandbox.rehearsal.plan import make_plan
from tests.support.fakes.stage import GUEST, Stage
from tests.support.waiting import soon

KERNELS = """linux-image-amd64 linux-image-6.1.0-37-cloud-amd64 linux-image-6.1.0-37-amd64-unsigned
linux-image-generic linux-generic linux-generic-hwe-22.04 linux-virtual linux-aws
linux-signed-image-generic pve-kernel-6.2 proxmox-kernel-6.8.4-2-pve-signed kernel kernel-core"""
OTHERS = """nginx linux-base linux-headers-amd64 linux-libc-dev linux-perf linux-tools-generic
linux-image-6.1.0-37-amd64-dbg linux-image-6.1.0-37-amd64-dbgsym linux-doc kernel-tools
my-linux-image-amd64 initramfs-tools linux-firmware"""


@pytest.mark.parametrize("name", KERNELS.split())
def test_kernels(name: str) -> None:
    assert is_kernel(name)
    for spec in (name, f"{name}=6.1.140-1", f"{name}:amd64"):
        assert named_kernels(UpgradeRequest("packages", ("nginx", spec)), soon()) == (spec,)


@pytest.mark.parametrize("name", OTHERS.split())
def test_other_packages(name: str) -> None:
    assert not is_kernel(name)


def package(folder: Path, name: str, file: str) -> Path:
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\n"
        "Description: x\n"
    )
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, folder / file], check=True)
    return folder / file


def test_a_file_is_the_package_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = package(tmp_path, "linux-image-6.1.0-99-amd64", "new.deb")
    other = package(tmp_path, "nginx", "linux-image-x_1_all.deb")
    broken = tmp_path / "linux-image-y_1_amd64.deb"
    broken.write_text("no package")
    request = UpgradeRequest("packages", (), (), (kernel, other, broken))
    assert named_kernels(request, soon()) == ("new.deb", broken.name)

    def missing(*_: object, **__: object) -> process.Completed:
        raise ToolMissing("dpkg-deb is not installed on this host")

    monkeypatch.setattr(kernels, "run", missing)
    assert named_kernels(request, soon()) == (other.name, broken.name)


HOSTS_KERNEL = "<os><type machine='xenpv'>linux</type><kernel>/boot/vmlinuz-6.1</kernel></os>"


@pytest.mark.parametrize(
    ("upgrade", "words"),
    [
        ("{what: all}", "all updates would not be what runs"),
        ("{what: kernel}", "the kernel would not"),
        ("{what: packages, packages: [nginx, linux-image-amd64]}", "linux-image-amd64 would not"),
        ("{what: packages, files: [new.deb]}", "new.deb would not"),
        ("{what: packages, packages: [nginx]}", ""),
    ],
)
def test_a_guest_with_the_hosts_kernel_is_for_other_packages(
    stage: Stage, upgrade: str, words: str
) -> None:
    from sandbox.core.settings import shipped_scenarios
    from sandbox.scenario import load_scenario

    domain = stage.hypervisor.domains[GUEST]
    domain.xml = domain.xml.replace("<os><type>hvm</type></os>", HOSTS_KERNEL)
    domain.state, stage.hypervisor.kind = "running", "xen"
    folder = stage.settings.state / "own"
    folder.mkdir()
    (folder / "key").touch(mode=0o600)
    package(folder, "linux-image-6.1.0-99-amd64", "new.deb")
    (folder / "scenario.yaml").write_text(
        f"source: {{guest: {GUEST}}}\nlogin: {{key: key}}\nupgrade: {upgrade}\n"
    )
    scenario = load_scenario(folder, shared=shipped_scenarios() / "shared")
    if not words:
        assert make_plan(scenario, stage.hypervisor, stage.new_folder(), False, soon())
        return
    with pytest.raises(RequestError) as caught:
        make_plan(scenario, stage.hypervisor, stage.new_folder(), False, soon())
    assert words in caught.value.message
    assert "pvgrub" in caught.value.hint
