"""Local packages: web01's own site, the version that breaks nginx, and what else a test needs.

A rehearsal is only believable when it finds a real fault, so the demo has one: version 2.0 of
``web01-site`` uses a directive that no nginx of the release knows. The package installs
without an error, as such packages do, and the web server stays down.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.process import run

DATA = Path(__file__).parent / "data"
SITE_PACKAGE = "web01-site"
SITE_CONFIG = "/etc/nginx/conf.d/web01.conf"
SITE_PAGE = "/usr/share/web01-site/index.html"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "triggers", "config")


def build_deb(
    name: str,
    version: str,
    *,
    out: Path,
    files: Mapping[str, str | bytes] | None = None,
    executable: Sequence[str] = (),
    conffiles: Sequence[str] = (),
    postinst: str | None = None,
    scripts: Mapping[str, str] | None = None,
    depends: str = "",
    architecture: str = "all",
    description: str = "local package",
    fields: Mapping[str, str] | None = None,
) -> Path:
    """Build ``out/name_version_architecture.deb`` with dpkg-deb and return its path.

    ``files`` maps absolute paths in the guest to their contents; those in ``executable`` get
    mode 0755, the others 0644. ``scripts`` maps maintainer script names (``preinst``,
    ``prerm`` …) to their texts; ``postinst`` is short for the one that most packages have.
    ``fields`` are further lines of the control file (``Breaks``, ``Section`` …).
    Raises :class:`ValueError` for a path that is not absolute or a script that dpkg does not
    know, and :class:`~sandbox.core.errors.CommandFailed` when dpkg-deb refuses the package.
    """
    maintainer_scripts = dict(scripts or {})
    if postinst is not None:
        maintainer_scripts["postinst"] = postinst
    unknown = sorted(set(maintainer_scripts) - set(SCRIPTS))
    if unknown:
        raise ValueError(f"dpkg knows no maintainer script {unknown[0]!r}; use one of {SCRIPTS}")
    control = {
        "Package": name,
        "Version": version,
        "Architecture": architecture,
        "Maintainer": "Upgrade Sandbox <root@localhost>",
        "Depends": depends,
        "Description": description,
    } | dict(fields or {})
    out.mkdir(parents=True, exist_ok=True)
    # The colon of an epoch stays out of the file's name, as Debian's own tools do it.
    package = out / f"{name}_{version.rpartition(':')[2]}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="deb-") as folder:
        tree = Path(folder) / "tree"
        # dpkg-deb packs the modes it finds: they must not depend on the caller's umask.
        for path, content in (files or {}).items():
            _put(tree, path, content, 0o755 if path in executable else 0o644)
        _put(tree, "/DEBIAN/control", "".join(f"{k}: {v}\n" for k, v in control.items() if v))
        if conffiles:
            _put(tree, "/DEBIAN/conffiles", "".join(f"{path}\n" for path in conffiles))
        for script, text in maintainer_scripts.items():
            _put(tree, f"/DEBIAN/{script}", text, 0o755)
        for inside in [tree, *tree.rglob("*")]:
            if inside.is_dir():
                inside.chmod(0o755)
        built = Path(folder) / package.name
        run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, built],
            Deadline(60, f"building the package {name}"),
        )
        shutil.move(built, package)
    return package


def build_site(version: str, out: Path) -> Path:
    """Build web01's site package: ``1.0``, which works, or ``2.0``, which nginx refuses."""
    return build_deb(
        SITE_PACKAGE,
        version,
        out=out,
        files={
            SITE_CONFIG: (DATA / f"site-{version}.conf").read_text(),
            SITE_PAGE: (DATA / "index.html").read_text(),
        },
        conffiles=[SITE_CONFIG],
        postinst=(DATA / "site-postinst.sh").read_text(),
        depends="nginx",
        description="web01's own web site",
    )


def build_broken_site(out: Path) -> Path:
    """The upgrade of the demo's second half: installs cleanly, and nginx does not start again."""
    return build_site("2.0", out)


def _put(tree: Path, path: str, content: str | bytes, mode: int = 0o644) -> None:
    if not path.startswith("/") or ".." in Path(path).parts:
        raise ValueError(f"{path!r} is not an absolute path inside the guest")
    target = tree / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    target.chmod(mode)
