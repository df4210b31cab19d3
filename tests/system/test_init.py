"""init: what it writes can be loaded and run, it never overwrites, and it leaves no clone."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from testinfra.modules.socket import parse_socketspec

from sandbox.core.errors import GuestUnreachable, RequestError
from sandbox.core.records import Observation, Port
from sandbox.core.settings import read_settings
from sandbox.rehearsal import first_scenario
from sandbox.rehearsal.first_checks import checks_text, own_services, own_sockets
from sandbox.scenario import Scenario, load_scenario
from sandbox.scenario.request import Request
from tests.support.fakes.run_world import World
from tests.support.fakes.sample_records import observation


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with no key of the user's in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    return path


@pytest.fixture
def guest(world: World, image: Path) -> str:
    """A guest with a disk, a network card and a device of the host."""
    root = etree.Element("domain", type="test")
    etree.SubElement(root, "name").text = "shop01"
    etree.SubElement(root, "memory", unit="MiB").text = "768"
    etree.SubElement(root, "vcpu").text = "3"
    etree.SubElement(etree.SubElement(root, "os"), "type").text = "hvm"
    devices = etree.SubElement(root, "devices")
    disk = etree.SubElement(devices, "disk", type="file", device="disk")
    etree.SubElement(disk, "driver", name="qemu", type="qcow2")
    etree.SubElement(disk, "source", file=str(image))
    etree.SubElement(disk, "target", dev="vda", bus="virtio")
    shared = etree.SubElement(devices, "filesystem", type="mount")
    etree.SubElement(shared, "source", dir="/srv")
    etree.SubElement(shared, "target", dir="data")
    world.hypervisor._connection.defineXML(etree.tostring(root).decode())
    return "shop01"


def scenario(home: Path, name: str) -> Scenario:
    return load_scenario(home / "scenarios" / name, shared=read_settings().shared_checks)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- without a clone ---------------------------------------------------------------------------


def test_a_guest_is_described_and_the_scenario_loads(world: World, home: Path, guest: str) -> None:
    told = world.invoke("init", "shop01-security", "--guest", guest, "--no-boot")
    assert told.exit_code == 0, told.output
    read = scenario(home, "shop01-security")
    assert read.source is not None
    assert read.source.guest == guest
    assert read.upgrade.what == "security"
    assert [check.name for check in read.own_checks] == ["test_shop01_security.py"]
    text = read.path.read_text()
    for fact in ("stopped guest shop01", "3 processors", "768.0 MiB", "vda (qcow2, 64.0 MiB)"):
        assert fact in text
    assert "not in its clone: <filesystem type='mount'>" in text
    assert all(len(line) <= 110 for line in text.splitlines())
    assert "scenarios/shop01-security/scenario.yaml" in told.stdout
    assert "  sandbox run scenarios/shop01-security\n" in told.stdout
    checked = world.invoke("scenario", "check", "scenarios/shop01-security")
    assert (checked.exit_code, checked.stderr) == (0, "")


def test_an_image(world: World, home: Path, image: Path) -> None:
    arguments = ("--image", image.name, "--format", "qcow2", "--user", "admin", "--no-boot")
    told = world.invoke("init", "legacy", *arguments)
    assert told.exit_code == 0, told.output
    read = scenario(home, "legacy")
    assert read.source is not None
    assert read.source.image is not None
    assert read.source.image.path == image
    assert read.login.user == "admin"
    assert 'host.user("admin").exists' in read.own_checks[0].read_text()


def test_a_key_is_kept_as_an_absolute_path(world: World, home: Path, guest: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "id"], check=True)
    world.invoke("init", "a", "--guest", guest, "--key", "id", "--no-boot")
    assert scenario(home, "a").login.key == home / "id"


def test_it_is_written_into_the_first_scenarios_folder_below(
    world: World, home: Path, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "deploy" / "rehearsals").mkdir(parents=True)
    monkeypatch.setenv("SANDBOX_SCENARIOS", "deploy/rehearsals")
    request = Request("a", guest=guest)
    first_scenario.write_scenario(request, world.hypervisor, read_settings(), boot=False)
    assert files(home / "deploy") == ["rehearsals/a/scenario.yaml", "rehearsals/a/test_a.py"]
    assert not (home / "scenarios").exists()


@pytest.mark.parametrize("content", [(), ("test_own.py",)])
def test_it_never_overwrites(world: World, home: Path, guest: str, content: Sequence[str]) -> None:
    place = home / "scenarios" / "mine"
    place.mkdir(parents=True)
    for name in content:
        (place / name).write_text("mine")
    told = world.invoke("init", "mine", "--guest", guest, "--no-boot")
    assert told.exit_code == 2
    assert "scenarios/mine is there already" in told.stderr
    assert files(place) == list(content)
    assert [path.name for path in place.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "name",
    ["", "..", "a/b", "../up", "/abs", ".hidden", "-x", "a b", "a\n", "ä", "x" * 65, "shared"],
)
def test_bad_names(world: World, home: Path, guest: str, name: str) -> None:
    told = world.invoke("init", "--guest", guest, "--no-boot", "--", name)
    assert told.exit_code == 2
    assert "name" in told.stderr
    assert not (home / "scenarios").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --guest NAME (shop01, test)"),
        (("--guest", "shop1"), "did you mean 'shop01'?"),
        (("--guest", "shop01", "--image", "disk.qcow2"), "one of them"),
        (("--image", "disk.qcow2"), "format"),
        (("--image", "none.raw", "--format", "raw"), "none.raw"),
        (("--guest", "shop01", "--key", "nokey"), "there is no key nokey"),
        (("--guest", "a'b"), "guest name"),
        (("--guest", "test"), "disk vda is missing"),
    ],
)
@pytest.mark.usefixtures("guest")
def test_what_cannot_be_written(
    world: World, home: Path, arguments: Sequence[str], words: str
) -> None:
    told = world.invoke("init", "a", *arguments, "--no-boot")
    assert told.exit_code == 2, told.output
    assert words in told.stderr
    assert "Traceback" not in told.output
    assert not (home / "scenarios").exists(), "nothing is left half-made"


def test_a_folder_that_cannot_be_written(
    world: World, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")
    told = world.invoke("init", "a", "--guest", guest, "--no-boot")
    assert told.exit_code == 2
    assert "cannot write in /proc/scenarios" in told.stderr


# --- with a clone ------------------------------------------------------------------------------


def test_booting_needs_a_key(world: World, home: Path, guest: str) -> None:
    told = world.invoke("init", "a", "--guest", guest)
    assert told.exit_code == 2
    assert "no private key" in told.stderr
    assert "--no-boot" in told.stderr
    assert files(home) == ["disk.qcow2"]


@pytest.mark.usefixtures("key")
def test_what_was_seen_is_written(
    world: World, home: Path, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = first_scenario.RunningServices(observation(), "apt")
    monkeypatch.setattr(first_scenario, "_boot_and_look", lambda *_: seen)
    told = world.invoke("init", "a", "--guest", guest)
    assert told.exit_code == 0, told.output
    read = scenario(home, "a")
    text = read.path.read_text()
    for fact in ("Services that run now: cron, nginx, ssh", "listen now: 22, 80"):
        assert fact in text
    for fact in (seen.observation.kernel, "package manager apt", "booted in 21 s"):
        assert fact in text
    assert '"nginx",' in read.own_checks[0].read_text()


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (GuestUnreachable("the guest refuses 'root'", refused=True), 2),
        (GuestUnreachable("the guest did not boot: the kernel panicked"), 4),
        (RequestError("no"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_look_that_fails_leaves_nothing(
    world: World,
    home: Path,
    guest: str,
    monkeypatch: pytest.MonkeyPatch,
    problem: BaseException,
    status: int,
) -> None:
    def fail(_plan: object, _hypervisor: object, folder: object) -> first_scenario.RunningServices:
        world.start_clone(folder)  # type: ignore[arg-type]
        raise problem

    monkeypatch.setattr(first_scenario, "_boot_and_look", fail)
    told = world.invoke("init", "a", "--guest", guest)
    assert told.exit_code == status, told.output
    assert world.clones() == []
    assert world.store.clone_ids() == ()
    assert list(world.settings.runs.iterdir()) == []
    assert not (home / "scenarios").exists()
    assert "the clone is removed again" in told.stderr
    if isinstance(problem, GuestUnreachable):
        assert problem.message in told.stderr
        assert "--no-boot" in told.stderr


@pytest.mark.usefixtures("key")
def test_a_clone_that_cannot_be_removed_is_told(
    world: World, home: Path, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_plan: object, _hypervisor: object, folder: object) -> first_scenario.RunningServices:
        folder.note(source="test")  # type: ignore[attr-defined]
        return first_scenario.RunningServices(observation(), "apt")

    monkeypatch.setattr(first_scenario, "_boot_and_look", look)
    told = world.invoke("init", "a", "--guest", guest)
    assert "not removed: ending the export of 'test'" in told.stderr
    assert "sandbox reap" in told.stderr
    assert len(world.store.clone_ids()) == 1, "what a later reap needs"


@pytest.fixture
def key(home: Path) -> Path:
    """The user's usual key."""
    (home / ".ssh").mkdir()
    path = home / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


# --- the first checks --------------------------------------------------------------------------


UNIT_NAMES = st.text(max_size=20).map(lambda name: f"{name}.service")


def constants(text: str) -> dict[str, object]:
    """The constants that a module assigns, read without running it."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def test_the_checks_name_what_was_seen() -> None:
    said = constants(checks_text("web01", "root", observation()))
    assert said == {
        "SERVICES": ("cron", "nginx", "ssh"),
        "SOCKETS": ("tcp://0.0.0.0:22", "tcp://0.0.0.0:80"),
    }


def test_parts_of_the_system_are_not_the_guests_purpose() -> None:
    units = {
        **{f"{name}.service": "active/running" for name in ("nginx", "postgresql@15-main")},
        **{f"systemd-{name}.service": "active/running" for name in ("journald", "udevd")},
        "serial-getty@ttyS0.service": "active/running",
        "user@0.service": "active/running",
        "networking.service": "active/exited",
        "cron.service": "inactive/dead",
        "web.socket": "active/running",
    }
    seen = observation().model_copy(update={"units": units})
    assert own_services(seen) == ("nginx", "postgresql@15-main")


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (Port(protocol="tcp", address="*", port=80), ("tcp://:::80",)),
        (Port(protocol="tcp", address="[::1]", port=25), ("tcp://::1:25",)),
        (Port(protocol="udp", address="127.0.0.53%lo", port=53), ("udp://127.0.0.53:53",)),
        (Port(protocol="udp", address="0.0.0.0", port=68), ()),
        (Port(protocol="tcp", address="198.18.4.20", port=22), ()),
        (Port(protocol="tcp", address="fe80::1%eth0", port=22), ()),
        (Port(protocol="tcp", address="nonsense", port=22), ()),
        (Port(protocol="tcp", address="0.0.0.0", port=40000, process="rpc.statd"), ()),
    ],
)
def test_sockets_that_every_clone_has(port: Port, expected: tuple[str, ...]) -> None:
    assert own_sockets([port]) == expected


@given(
    subject=st.text(max_size=80),
    units=st.dictionaries(UNIT_NAMES, st.just("active/running")),
    ports=st.lists(
        st.builds(
            Port,
            protocol=st.sampled_from(("tcp", "udp", "sctp")),
            address=st.one_of(st.text(max_size=12), st.ip_addresses().map(str), st.just("*")),
            port=st.integers(1, 65535),
            process=st.text(max_size=5),
        ),
        max_size=8,
    ),
)
def test_whatever_a_guest_says_the_module_is_python(
    subject: str, units: dict[str, str], ports: list[Port]
) -> None:
    """Names from the guest become constants, never code; testinfra understands the sockets."""
    seen = Observation(boot_id="x", kernel="6.1", units=units, ports=tuple(ports))
    text = checks_text(subject, "root", seen)
    compile(text, "test_x.py", "exec")
    tree = ast.parse(text)
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef)
    assert all(isinstance(node, allowed) for node in tree.body)
    assert ast.get_docstring(tree)
    said = constants(text)
    assert said.get("SERVICES", ()) == own_services(seen)
    for socket in said.get("SOCKETS", ()):  # type: ignore[attr-defined]
        assert parse_socketspec(socket)[2] in {port.port for port in ports}
