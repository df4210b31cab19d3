"""The `sandbox` command: thin. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox import __version__
from sandbox.cli.headings import write_commands
from sandbox.cli.lazy_group import LazyGroup
from sandbox.cli.options import (
    EXIT_CODES,
    FORMATS,
    IMAGE_FORMATS,
    completing,
    of_guest,
    on_host,
    to_rehearse,
)
from sandbox.cli.preflight import preflight
from sandbox.core.errors import RequestError, SandboxError
from sandbox.core.interruption import interruptible

if TYPE_CHECKING:
    from sandbox.core.records import RunRecord
    from sandbox.core.settings import Settings
    from sandbox.core.store import RunFolder


class Main(click.Group):
    """Shows our errors as a message and a hint, with the exit code of their verdict."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_commands(self, ctx, formatter)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SandboxError as problem:
            click.secho(f"sandbox: {problem.message}", fg="red", err=True)
            if problem.hint:
                click.echo(f"  {problem.hint}", err=True)
            ctx.exit(2 if isinstance(problem, RequestError) else 4)
        except KeyboardInterrupt:
            ctx.exit(130)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except OSError as problem:
            click.secho(f"sandbox: {problem}", fg="red", err=True)
            ctx.exit(4)
        except Exception as problem:
            # Python's own exit code would be that of `fail`.
            traceback.print_exc()
            said = f"a fault of this program: {type(problem).__name__}: {problem}"
            click.secho(f"sandbox: {said}", fg="red", err=True)
            click.echo("  please report it, with the lines above", err=True)
            ctx.exit(4)


@click.group(
    cls=Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="sandbox")
def main() -> None:
    """Rehearse an upgrade on a throwaway clone of the real guest, before production is touched.

    \b
    Examples:
      sandbox run security --guest web01
      sandbox run package --guest web01 --upgrade nginx=1.22.1-9+deb12u2
      sandbox run kernel --image /srv/web01.qcow2 --format qcow2 --key ~/.ssh/id_ed25519
      sandbox report latest --format html > report.html
    """


@main.command(epilog=EXIT_CODES)
@click.argument("scenario", shell_complete=completing("scenarios"))
@to_rehearse
@click.option(
    "--keep", is_flag=True, help="Leave the clone up, and say how to enter it and what it costs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON, nothing else.")
@click.option(
    "--picture", type=click.Path(path_type=Path), help="Save the terminal's picture (SVG) there."
)
def run(
    scenario: str,
    guest: str | None,
    host: str | None,
    image: Path | None,
    image_format: str | None,
    upgrade: str | None,
    user: str | None,
    key: Path | None,
    keep: bool,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Rehearse SCENARIO on a clone and give the verdict. It is a name or a folder.

    \b
    Examples:
      sandbox run security --guest web01
      sandbox run everything --guest web01 --host xen1 --keep
      sandbox run ./my-scenario --json | jq -r .decision.reason
    """
    from sandbox.cli.foreground import rehearse_in_terminal
    from sandbox.core.settings import read_settings
    from sandbox.scenario.request import Request

    if guest is not None and image is not None:
        raise RequestError("--guest and --image exclude each other", "give one of them")
    request = Request(scenario, guest, image, image_format, upgrade, user, key, host)
    with interruptible():
        verdict = rehearse_in_terminal(
            request, read_settings(), keep=keep, as_json=as_json, picture=picture
        )
    sys.exit(verdict.exit_code)


main.add_command(preflight)


@main.command()
@click.argument("run_id", metavar="RUN", shell_complete=completing("run_ids"))
@click.option("--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write there instead of printing.")
def report(run_id: str, format_: str, output: Path | None) -> None:
    """Show the report of RUN. RUN is an id, the beginning or end of one, or `latest`.

    \b
    Examples:
      sandbox report latest
      sandbox report latest --format junit --output junit.xml
    """
    from sandbox.rehearsal.recovery import told
    from sandbox.report import render

    folder, read = _load(run_id)
    record = told(folder, read)
    colour = format_ == "text" and output is None and sys.stdout.isatty()
    text = render(record, folder.artifacts, format_, colour=colour)
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text)
    except OSError as problem:
        raise RequestError(f"cannot write {output}: {problem.strerror}") from problem
    click.echo(f"written to {output}", err=True)


main.add_command(
    LazyGroup(
        "lab",
        module="sandbox.demo.lab.commands",
        help="A Xen host inside QEMU, to try rehearsals on Xen.",
        epilog="sandbox lab up builds and starts it (ten minutes the first time under emulation).",
    )
)


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Newest so many."
)
def list_runs(as_json: bool, limit: int) -> None:
    """List the runs, newest first.

    \b
    Examples:
      sandbox list --limit 5
      sandbox list --json | jq -r 'select(.verdict == "fail") | .reason'
    """
    from sandbox.cli.listing import print_runs

    print_runs(_settings(), as_json=as_json, limit=limit)


@main.command()
@click.argument("run_id", metavar="RUN", shell_complete=completing("run_ids"))
@click.option("--json", "as_json", is_flag=True, help="The whole record.")
def show(run_id: str, as_json: bool) -> None:
    """Show one run: its verdict, phases and where its files are.

    \b
    Examples:
      sandbox show latest
    """
    from sandbox.cli.listing import print_run

    folder, record = _load(run_id)
    print_run(record, folder, as_json=as_json)


@main.command()
@click.argument("run_id", metavar="RUN", shell_complete=completing("run_ids"))
@click.option("--record", is_flag=True, help="Remove the record and its artifacts, too.")
@on_host("Ask this host instead of the one that the run noted.")
def rm(run_id: str, record: bool, host: str | None) -> None:
    """Remove the clone of RUN that was kept. With --record: all of the run.

    \b
    Examples:
      sandbox rm latest
      sandbox rm --record 3fa2b1
    """
    from sandbox.cli.removal import remove

    remove(_settings(), run_id, with_record=record, host=host)


@main.command()
@on_host("Only there (default: on every host that is known).")
def reap(host: str | None) -> None:
    """Remove what killed runs left. Live and kept clones are not touched.

    \b
    Examples:
      sandbox reap
      sandbox reap --host xen1
    """
    from sandbox.cli.removal import print_reaped

    sys.exit(print_reaped(_settings(), host))


@main.command()
@on_host()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(host: str | None, as_json: bool) -> None:
    """Check a host: what works, what does not, what to do about it.

    \b
    Examples:
      sandbox doctor
      sandbox doctor --host xen+ssh://root@xen1.example.org/system
    """
    from sandbox.doctor.examine import print_checks

    sys.exit(print_checks(_settings(), host, as_json=as_json))


@main.command()
@on_host("Only of this host (default: of all in hosts.yaml).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--import", "imported", metavar="NAME", help="Show a guest of xl's as libvirt's XML.")
@click.option("--config", help="Its file on the host (default: /etc/xen/NAME.cfg).")
@click.option("--define", is_flag=True, help="Make it known to libvirt as well.")
def guests(
    host: str | None, as_json: bool, imported: str | None, config: str | None, define: bool
) -> None:
    """The guests of all hosts, and whether each can be rehearsed.

    \b
    Examples:
      sandbox guests --host xen1
      sandbox guests --host xen1 --import db01 --config /etc/xen/db01.cfg
    """
    from sandbox.cli.guests import import_guest, print_guests

    if imported is not None:
        import_guest(_settings(), host, imported, config, define=define)
    elif config is not None or define:
        raise RequestError("--config and --define are for --import NAME", "name the guest")
    else:
        sys.exit(print_guests(_settings(), host, as_json=as_json))


@main.command()
@click.argument("name")
@of_guest("Guest (libvirt domain) to inspect.")
@on_host()
@click.option("--image", type=click.Path(path_type=Path), help="Disk image to inspect instead.")
@click.option("--format", "image_format", type=click.Choice(IMAGE_FORMATS), help="Of the image.")
@click.option("--user", default="root", show_default=True, help="User to log in as.")
@click.option("--key", type=click.Path(path_type=Path), help="Private key that it accepts.")
@click.option("--boot/--no-boot", default=True, help="Boot a clone to see what runs in it.")
def init(
    name: str,
    guest: str | None,
    host: str | None,
    image: Path | None,
    image_format: str | None,
    user: str,
    key: Path | None,
    boot: bool,
) -> None:
    """Inspect a guest and write a scenario for it, scenarios/NAME.

    \b
    Examples:
      sandbox init web01-security --guest web01
      sandbox init legacy --image /srv/old.vmdk --format vmdk --no-boot
    """
    from sandbox.hosts.inventory import connected, find_host
    from sandbox.rehearsal.first_scenario import write_scenario
    from sandbox.scenario.request import Request

    request = Request(name, guest, image, image_format, None, user, key, host)
    known = find_host(host, _settings())
    with interruptible(), connected(known) as hypervisor:
        write_scenario(request, hypervisor, _settings(), boot=boot, limits=known.limits)


@main.group()
def scenario() -> None:
    """Check scenarios, and their JSON Schema for editors."""


@scenario.command("check")
@click.argument("path", type=click.Path(path_type=Path))
def scenario_check(path: Path) -> None:
    """Read the scenario at PATH strictly; every problem is named with its line.

    \b
    Examples:
      sandbox scenario check scenarios/web01-nightly
    """
    from sandbox.scenario import load_scenario

    read = load_scenario(path, shared=_settings().shared_checks)
    checks = len(read.own_checks) + len(read.shared_checks)
    click.echo(f"{read.path}: ok ({read.upgrade.what}, {checks} files of checks)")


@scenario.command("list")
def scenario_list() -> None:
    """The scenarios that can be run by name."""
    from sandbox.cli.listing import print_scenarios

    print_scenarios(_settings())


@scenario.command("schema")
def scenario_schema() -> None:
    """Print the JSON Schema of scenario.yaml."""
    import json

    from sandbox.scenario import scenario_json_schema

    click.echo(json.dumps(scenario_json_schema(_settings().shared_checks), indent=2))


main.add_command(
    LazyGroup("demo", module="sandbox.demo.commands", help="A production guest to try it on.")
)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the shell completion script. It completes commands, runs, scenarios, guests and hosts.

    \b
    Examples:
      eval "$(sandbox completion bash)"
      sandbox completion fish > ~/.config/fish/completions/sandbox.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "sandbox", "_SANDBOX_COMPLETE").source())


def _settings() -> Settings:
    from sandbox.core.settings import read_settings

    return read_settings()


def _load(run_id: str) -> tuple[RunFolder, RunRecord]:
    from sandbox.core.store import Store

    store = Store(_settings())
    folder = store.find(run_id)
    return folder, store.load(folder)
