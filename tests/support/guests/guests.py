"""Real guests under QEMU: one image, one running production, an archive of our own.

Fixtures for tests/vm and tests/faults.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.progress import Silent
from sandbox.core.records import Phase, RunRecord
from sandbox.core.settings import Settings, shipped_scenarios
from sandbox.core.store import Store
from sandbox.demo.guest import Production, start_production, stop_production
from sandbox.demo.image import DemoImage, build_image, derive_image
from sandbox.hosts.drivers import Hypervisor, driver_for
from sandbox.hosts.drivers.acceleration import acceleration
from sandbox.rehearsal.recipe import rehearse
from sandbox.scenario.request import Request, prepare
from tests.support.guests import archive as archives
from tests.support.guests import certificates, leftovers
from tests.support.guests.saved import ResumingQemu

# A phase's own deadline is what a test may be about; without one it may take what a machine with
# much else to do needs.
PATIENT = (
    "deadlines: {clone: 10m, boot: 20m, baseline: 20m, upgrade: 40m, reboot: 20m, verify: 20m}\n"
)
# Sessions of pytest at the same time on one machine need a production each: name another one.
PRODUCTION = os.environ.get("TEST_PRODUCTION", "sbtest01")


@pytest.fixture(scope="session")
def base_image() -> DemoImage:
    return build_image(print)


@pytest.fixture(scope="session")
def image(base_image: DemoImage) -> DemoImage:
    """web01 whose only package source is the tests' own archive, with a server's certificate."""
    files = {
        "/etc/apt/sources.list": archives.SOURCES_LIST,
        certificates.PATH: certificates.BEFORE,
    }
    return derive_image(base_image, "vmtest", print, files=files)


@pytest.fixture(scope="session")
def production(image: DemoImage) -> Iterator[Production]:
    """A running production guest; its image names the tests' own archive, too."""
    try:
        yield start_production(PRODUCTION, image=image)
    finally:
        stop_production(PRODUCTION)


@pytest.fixture(scope="session")
def archive() -> Iterator[archives.Archive]:
    with archives.serving() as served:
        yield served


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    driver = driver_for("qemu:///system", Deadline(20, "connecting"))
    yield driver
    driver.close()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where booted guests are kept: of all parts of a run of the tests, or of this session."""
    return Path(os.environ.get("TEST_SAVED_BOOTS") or tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="session")
def resuming(saved: Path) -> Iterator[ResumingQemu]:
    driver = ResumingQemu.connect("qemu:///system", Deadline(20, "connecting"))
    driver.saved = saved
    yield driver
    driver.close()


@contextmanager
def new_state() -> Iterator[Path]:
    """A state folder of the test's own: short, since sockets live beneath it."""
    folder = Path(tempfile.mkdtemp(prefix="sbvm-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def state() -> Iterator[Path]:
    with new_state() as folder:
        yield folder


def settings_for(state: Path, archive: archives.Archive) -> Settings:
    """All that is fetched comes from the tests' own archive."""
    return Settings(
        state=state,
        cache=state / "cache",
        scenarios=(shipped_scenarios(),),
        upstream_proxy=archive.url,
        proxy_allow=(archives.SOURCE,),
        control="never",  # guests are slow here: what is about controls asks for them
        watch=0.0,
    )


@pytest.fixture
def settings(state: Path, archive: archives.Archive) -> Settings:
    return settings_for(state, archive)


@dataclass
class Lab:
    """Rehearse in-process, as the command does; remembers the last run's folder.

    Clones of images go on from a saved boot where there is a driver for that, but for tests that
    are about the boot.
    """

    settings: Settings
    hypervisor: Hypervisor
    image: DemoImage
    folder: Path
    resuming: ResumingQemu | None = None  # for clones of images
    progress: Silent = field(default_factory=Silent)

    def scenario(self, text: str, **files: str) -> Path:
        """A scenario folder; a check file is given as ``test_x="..."``."""
        folder = self.folder / f"scenario{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        own = text if "deadlines:" in text else PATIENT + text
        (folder / "scenario.yaml").write_text(own)
        for name, content in files.items():
            (folder / f"{name}.py").write_text(content)
        return folder

    def run(
        self,
        scenario: Path | str,
        *,
        guest: str | None = None,
        upgrade: str | None = None,
        image: Path | None = None,
        key: Path | None = None,
        keep: bool = False,
        boots: bool = False,
    ) -> RunRecord:
        request = Request(
            str(scenario),
            guest=guest,
            image=None if guest else image or self.image.path,
            format=None if guest else "qcow2",
            upgrade=upgrade,
            key=key or self.image.key,
        )
        hypervisor = self.hypervisor
        if self.resuming is not None and request.image is not None and not boots:
            hypervisor = self.resuming
            self.resuming.image = str(request.image)
        return self._rehearse(request, keep, hypervisor)

    def run_as_stated(self, scenario: Path) -> RunRecord:
        """Everything as the scenario says it."""
        return self._rehearse(Request(str(scenario)), False, self.hypervisor)

    def _rehearse(self, request: Request, keep: bool, hypervisor: Hypervisor) -> RunRecord:
        return rehearse(
            prepare(request, self.settings),
            hypervisor,
            Store(self.settings).create(),
            self.settings,
            self.progress,
            accelerated=acceleration() == "kvm",
            keep=keep,
        )

    def artifacts(self, record: RunRecord) -> Path:
        return self.settings.runs / record.id


@pytest.fixture
def lab(
    settings: Settings,
    hypervisor: Hypervisor,
    resuming: ResumingQemu,
    image: DemoImage,
    tmp_path: Path,
) -> Iterator[Lab]:
    before = leftovers.count(settings.state)
    yield Lab(settings, hypervisor, image, tmp_path, resuming)
    assert leftovers.count(settings.state) == before, "a run left something behind"


@pytest.fixture
def when() -> Callable[[Phase, Callable[[], None]], Silent]:
    """A progress that does something once a phase has begun."""

    def make(phase: Phase, action: Callable[[], None]) -> Silent:
        class Watching(Silent):
            def phase_started(self, started: Phase, deadline: float) -> None:
                if started is phase:
                    action()

        return Watching()

    return make
