"""Why a unit stopped running: the sentence, the package, and what ties them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.records import Autopsy, Facts, Package, UnitTrace, UpgradeStatus, Verdict
from sandbox.observe.diagnosis import examine, read
from sandbox.report import render
from sandbox.verdict.assessment import assess
from sandbox.verdict.causes import first_error, suspects, told_by_its_unit
from sandbox.verdict.decide import decide
from sandbox.verdict.diff import compare
from tests.support.fakes.sample_records import (
    BAD_NGINX,
    CHANGES,
    NEW_KERNEL,
    broken_nginx,
    no_boot,
    observation,
    upgrade,
)

UNIT = "nginx.service"
EMERG = '2026/11/26 02:33:33 [emerg] 794#794: unknown directive "x" in /etc/nginx/conf.d/a.conf:10'
LOG = (
    "Starting nginx.service - A high performance web server...",
    EMERG,
    "nginx: configuration file /etc/nginx/nginx.conf test failed",
    "nginx.service: Control process exited, code=exited, status=1/FAILURE",
    "nginx.service: Failed with result 'exit-code'.",
    "Failed to start nginx.service - A high performance web server.",
)
MARK = "%%0123456789abcdef%%"


def with_autopsy(owners: dict[str, str], trace: UnitTrace | None = None) -> Facts:
    """The sample in which a new nginx does not start, and what was found out about that."""
    trace = trace or UnitTrace(unit=UNIT, result="exit-code", status=1, log=LOG)
    autopsy = Autopsy(units=(trace,), owners=owners)
    return broken_nginx().facts.model_copy(update={"autopsy": autopsy})


def upgraded(*names: str) -> Facts:
    """The same after an upgrade of several packages."""
    facts = with_autopsy({})
    assert facts.before is not None
    assert facts.after is not None
    old = {f"{name}:amd64": Package(version="1") for name in names}
    new = {f"{name}:amd64": Package(version="2") for name in names}
    before = facts.before.model_copy(update={"packages": old})
    return facts.model_copy(
        update={"before": before, "after": facts.after.model_copy(update={"packages": new})}
    )


def packages_of(facts: Facts) -> list[str]:
    return [cause.package for cause in assess(facts).causes]


def test_the_reason_is_a_sentence_with_unit_package_and_error() -> None:
    decision = decide(with_autopsy({"/etc/nginx/conf.d/a.conf": "nginx"}))
    assert decision.verdict is Verdict.FAIL
    assert decision.reason == (
        "nginx.service does not run since nginx 1.22.1-9 -> 1.99: [emerg] unknown directive "
        '"x" in /etc/nginx/conf.d/a.conf:10 (6 checks that held before fail)'
    )
    assert decision.findings[0] == (
        "the likely cause is nginx: /etc/nginx/conf.d/a.conf in the error is its file"
    )
    assert len([f for f in decision.findings if "held before and fails after" in f]) == 6


def test_without_an_autopsy_the_checks_speak() -> None:
    facts = broken_nginx().facts
    assert assess(facts).causes == ()
    assert decide(facts).reason.startswith("6 checks that held before fail after nginx")


@pytest.mark.parametrize(
    ("path", "trace", "words"),
    [
        ("/etc/nginx/nginx.conf", {}, "in the log is its file"),
        ("/lib/systemd/system/nginx.service", {"files": ("/lib/systemd/system/nginx.service",)},
         "unit's file"),
        ("/usr/sbin/nginx", {"programs": ("/usr/sbin/nginx",)}, "the program /usr/sbin/nginx"),
        ("/usr/lib/x/libssl.so.3", {"libraries": ("/lib/x/libssl.so.3",)}, "brings the library"),
    ],
)  # fmt: skip
def test_what_ties_a_package_to_a_unit(
    path: str, trace: dict[str, tuple[str, ...]], words: str
) -> None:
    facts = upgraded("guilty", "other")
    found = UnitTrace(unit=UNIT, log=LOG).model_copy(update=trace)
    facts = facts.model_copy(
        update={"autopsy": Autopsy(units=(found,), owners={path: "guilty", "/else": "other"})}
    )
    (cause,) = assess(facts).causes
    assert (cause.package, cause.unit) == ("guilty", UNIT)
    assert words in cause.evidence[0]


def test_the_file_in_the_error_weighs_more_than_the_program_or_a_library() -> None:
    facts = upgraded("config", "program", "library", "fourth")
    trace = UnitTrace(
        unit=UNIT,
        programs=("/usr/sbin/nginx",),
        libraries=("/lib/libssl.so.3", "/lib/libz.so.1"),
        log=LOG,
    )
    owners = {
        "/lib/libz.so.1": "fourth",
        "/lib/libssl.so.3": "library",
        "/usr/sbin/nginx": "program",
        "/etc/nginx/conf.d/a.conf": "config",
    }
    facts = facts.model_copy(update={"autopsy": Autopsy(units=(trace,), owners=owners)})
    assert packages_of(facts)[:2] == ["config", "program"]
    assert len(assess(facts).causes) == 3


def test_a_file_that_did_not_change_is_not_accused_but_what_is_new_beside_it() -> None:
    facts = upgraded("complained-about", "new-beside-it", "other")
    assert facts.before is not None
    assert facts.after is not None
    error = EMERG.replace("unknown directive", "duplicate default server")
    autopsy = Autopsy(
        units=(UnitTrace(unit=UNIT, log=(error,)),),
        owners={
            "/etc/nginx/conf.d/a.conf": "complained-about",
            "/etc/nginx/conf.d/b.conf": "new-beside-it",
            "/etc/other/c.conf": "other",
        },
    )
    same = {"/etc/nginx/conf.d/a.conf": "1", "/etc/other/c.conf": "1"}
    fresh = {**same, "/etc/nginx/conf.d/b.conf": "2", "/etc/other/c.conf": "2"}
    facts = facts.model_copy(
        update={
            "before": facts.before.model_copy(update={"conffiles": same}),
            "after": facts.after.model_copy(update={"conffiles": fresh}),
            "autopsy": autopsy,
        }
    )
    first, second = assess(facts).causes
    assert (first.package, second.package) == ("new-beside-it", "complained-about")
    assert first.evidence == ("its new /etc/nginx/conf.d/b.conf is beside the file in the error",)


def test_packages_that_have_nothing_to_do_with_it_are_not_accused() -> None:
    facts = upgraded("tzdata", "base-files").model_copy(
        update={"autopsy": Autopsy(units=(UnitTrace(unit=UNIT, log=LOG),), owners={})}
    )
    (cause,) = assess(facts).causes
    assert (cause.package, cause.evidence) == ("", ("its log says so",))
    assert cause.text.startswith("nginx.service does not run any more: [emerg] unknown")
    assert packages_of(with_autopsy({})) == ["nginx"], "the only one that was upgraded"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (LOG, '[emerg] unknown directive "x" in /etc/nginx/conf.d/a.conf:10'),
        (("old error", "Starting x", "cannot bind to port", "bye"), "cannot bind to port"),
        (("Starting x", "cannot open a", "FATAL: no b"), "FATAL: no b"),
        (("Starting x", "hello", "good bye"), "good bye"),
        (("Starting x", "x.service: Failed with result 'signal'."), ""),
        (
            (
                "Starting x",
                "Traceback (most recent call last):",
                'File "/usr/lib/x/x.py", line 3, in <module>',
                "raise ValueError(f'no error: {x}')",
                "json.decoder.JSONDecodeError: Expecting value",
                "During handling of the above exception, another exception occurred:",
                "Traceback (most recent call last):",
                "PermissionError: [Errno 13] Permission denied: '/etc/x'",
            ),
            "json.decoder.JSONDecodeError: Expecting value",
        ),
        (
            ("Starting x", "/etc/a: line 1: Bad option: y", "terminating"),
            "/etc/a: line 1: Bad option: y",
        ),
        (("Starting x", "Traceback (most recent call last):", "File x, cut off"), ""),
        (
            (
                "Starting x",
                "hello",
                "x.service: Failed to locate executable /usr/bin/y: No such file or directory",
                "x.service: Failed at step EXEC spawning /usr/bin/y: No such file or directory",
                "x.service: Failed with result 'exit-code'.",
            ),
            "Failed to locate executable /usr/bin/y: No such file or directory",
        ),
        (
            (
                "Starting x",
                "x.service: Failed to determine user credentials: No such process",
                "x.service: Failed at step USER spawning /usr/bin/x: No such process",
            ),
            "Failed to determine user credentials: No such process",
        ),
        ((), ""),
    ],
)
def test_the_first_error_of_the_last_start(log: tuple[str, ...], error: str) -> None:
    assert first_error(log) == error


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        (
            "script failed: Job for nginx.service failed because the control process exited with "
            "error code.",
            'script failed: nginx.service does not start: [emerg] unknown directive "x" in '
            "/etc/nginx/conf.d/a.conf:10",
        ),
        ("A dependency job for late.service failed. See x.", "late.service does not start: bye"),
        ("Job for other.service failed.", "Job for other.service failed."),
        ("Job for mute.service failed.", "Job for mute.service failed."),
        ("it exited with 3", "it exited with 3"),
        ("", ""),
    ],
)
def test_what_a_unit_said_itself_stands_for_what_systemctl_said_of_it(
    heard: str, told: str
) -> None:
    late, mute = UnitTrace(unit="late.service", log=("bye",)), UnitTrace(unit="mute.service")
    autopsy = Autopsy(units=(mute, UnitTrace(unit=UNIT, log=LOG), late))
    assert told_by_its_unit(heard, autopsy) == told
    assert told_by_its_unit(heard, None) == heard


def test_a_failed_upgrade_tells_what_the_service_said() -> None:
    facts = upgraded("nginx").model_copy(
        update={"autopsy": Autopsy(units=(UnitTrace(unit=UNIT, log=LOG),))}
    )
    assert facts.upgrade is not None
    failed = facts.upgrade.model_copy(
        update={
            "status": UpgradeStatus.FAILED,
            "failed_package": "nginx",
            "error": f"Job for {UNIT} failed because a timeout was exceeded.",
        }
    )
    decision = decide(facts.model_copy(update={"upgrade": failed}))
    assert decision.verdict is Verdict.FAIL
    assert decision.reason.startswith(
        "the upgrade failed at nginx: nginx.service does not start: [emerg] unknown directive"
    )


def test_what_a_boot_needs_is_suspected_when_it_fails() -> None:
    facts = no_boot().facts
    found = assess(facts).causes
    assert [cause.package for cause in found] == [f"linux-image-{NEW_KERNEL}"]
    assert found[0].text.startswith(f"the guest does not boot since linux-image-{NEW_KERNEL} 6.1.1")
    decision = decide(facts)
    assert decision.reason.startswith("the guest did not come back after the upgrade: it stopped")
    assert decision.findings[0] == (
        f"the likely cause is linux-image-{NEW_KERNEL}: it brings the kernel that was to boot"
    )
    alone = facts.model_copy(update={"upgrade": upgrade(BAD_NGINX)})
    (cause,) = assess(alone).causes
    assert cause.evidence == ("nothing else was upgraded",)
    several = facts.model_copy(update={"upgrade": upgrade(CHANGES[:2])})
    assert assess(several).causes == (), "base-files and libssl3 are not accused"


@pytest.mark.parametrize(
    ("state", "log", "words"),
    [
        ("masked", ("Starting x", "an old error"), "it is masked"),
        ("not-found", (), "its unit is gone"),
        ("disabled", (), "it is disabled, so that no start of the guest starts it"),
        ("disabled", LOG, "[emerg] unknown directive"),
    ],
)
def test_a_unit_that_may_not_run_says_nothing_itself(
    state: str, log: tuple[str, ...], words: str
) -> None:
    facts = upgraded("tzdata", "base-files").model_copy(
        update={"autopsy": Autopsy(units=(UnitTrace(unit=UNIT, state=state, log=log),))}
    )
    (cause,) = assess(facts).causes
    assert cause.text.startswith(f"{UNIT} does not run any more: {words}")


def test_a_package_that_was_removed_took_its_unit_with_it() -> None:
    facts = upgraded("nginx", "other")
    assert facts.after is not None
    assert facts.before is not None
    left = {key: p for key, p in facts.after.packages.items() if key != "nginx:amd64"}
    trace = UnitTrace(unit=UNIT, state="not-found", log=("other began",))
    facts = facts.model_copy(
        update={
            "after": facts.after.model_copy(update={"packages": left}),
            "autopsy": Autopsy(units=(trace,)),
        }
    )
    assert assess(facts).causes[0].text == (
        "nginx.service does not run since nginx 1 (removed): its unit is gone"
    )


def test_a_module_in_python_is_known_by_its_packages_name() -> None:
    facts = upgraded("web-price", "other")
    trace = UnitTrace(unit=UNIT, log=("AttributeError: module 'web_price' has no attribute 'x'",))
    facts = facts.model_copy(update={"autopsy": Autopsy(units=(trace,))})
    assert packages_of(facts) == ["web-price"]


def test_suspects_are_what_ran_before_and_not_on_the_control() -> None:
    before, after = observation(), broken_nginx().facts.after
    assert after is not None
    assert suspects(before, after, None) == (UNIT,)
    assert suspects(before, after, before) == (UNIT,)
    assert suspects(before, after, after) == (), "it failed on the control, too"
    for state, stopped in (("activating/auto-restart", True), ("reloading/reload", False)):
        units = {**after.units, UNIT: state}
        again = after.model_copy(update={"units": units, "failed_units": ()})
        assert bool(suspects(before, again, None)) is stopped
    quiet = {"units": {**after.units, UNIT: "inactive/dead"}, "failed_units": ()}
    ended = after.model_copy(update=quiet)  # as what runs in a guest's first start only
    assert suspects(before, ended, before) == (UNIT,)
    assert suspects(before, ended, ended) == ()
    assert suspects(before, ended, ended.model_copy(update={"units": {}})) == (UNIT,)
    assert compare(before, after).packages[0].name == BAD_NGINX[0].name


ANSWER = f"""
{MARK} show {UNIT}
LoadState=loaded
UnitFileState=disabled
Result=exit-code
ExecMainStatus=1
FragmentPath=/lib/systemd/system/{UNIT}
DropInPaths=/etc/systemd/system/{UNIT}.d/a.conf /etc/systemd/system/{UNIT}.d/b.conf
ExecStartPre={{ path=/usr/sbin/nginx ; argv[]=/usr/sbin/nginx -t -q ; ignore_errors=no }}
ExecStart={{ path=/usr/sbin/nginx ; argv[]=/usr/sbin/nginx -g daemon on; ; ignore_errors=no }}

{MARK} log {UNIT}
{EMERG}

{MARK} libraries {UNIT}
/lib/x86_64-linux-gnu/libssl.so.3

{MARK} owners
nginx, nginx-common: /usr/sbin/nginx
libssl3:amd64: /usr/lib/x86_64-linux-gnu/libssl.so.3
diversion by dash from: /bin/sh
{MARK} end
"""


def test_the_guests_answer_is_read() -> None:
    autopsy = read(ANSWER, MARK, [UNIT])
    (trace,) = autopsy.units
    assert (trace.result, trace.status, trace.state) == ("exit-code", 1, "disabled")
    for state in ("masked", "not-found"):
        other = read(ANSWER.replace("LoadState=loaded", f"LoadState={state}"), MARK, [UNIT])
        assert other.units[0].state == state
    enabled = read(ANSWER.replace("=disabled", "=enabled"), MARK, [UNIT])
    assert enabled.units[0].state == ""
    assert trace.files[0] == f"/lib/systemd/system/{UNIT}"
    assert len(trace.files) == 3
    assert trace.programs == ("/usr/sbin/nginx",)
    assert trace.libraries == ("/lib/x86_64-linux-gnu/libssl.so.3",)
    assert trace.log == (EMERG,)
    assert autopsy.owners["/usr/sbin/nginx"] == "nginx"
    assert autopsy.owners["/usr/lib/x86_64-linux-gnu/libssl.so.3"] == "libssl3"


@given(st.text(max_size=400) | st.text(alphabet=f"{MARK} showlgunitbries=/\n{{}};[]", max_size=400))
def test_a_hostile_guest_can_answer_anything(text: str) -> None:
    autopsy = read(text, MARK, [UNIT])
    facts = broken_nginx().facts.model_copy(update={"autopsy": autopsy})
    assert decide(facts).verdict is Verdict.FAIL
    assert "\n" not in decide(facts).reason


def test_every_report_tells_the_cause(tmp_path: Path) -> None:
    record = broken_nginx()
    facts = with_autopsy({"/etc/nginx/conf.d/a.conf": "nginx"})
    record = record.model_copy(update={"facts": facts, "decision": decide(facts)})
    for format in ("text", "json", "junit", "markdown", "html"):
        assert "the likely cause is nginx" in str(render(record, tmp_path, format))


def test_nothing_is_asked_where_nothing_stopped() -> None:
    class Deaf:
        """A shell that must not be used."""

    assert examine(Deaf(), [], Deadline(1, "test")) == Autopsy()  # type: ignore[arg-type]
