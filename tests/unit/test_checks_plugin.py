"""The lines between the checks' process and the sandbox: believed only in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sandbox.checks import CheckSettings
from sandbox.checks.facts import CheckMemory
from sandbox.checks.job import Job
from sandbox.checks.protocol import (
    MAX_DETAIL,
    MAX_LINE,
    Channel,
    CheckEvent,
    Event,
    Garbled,
    SessionTranscript,
    clean,
    one_line,
)
from sandbox.core.records import CheckResult, Observation, Outcome

TOKEN = "t0ken"
NAMES = ("test_a.py::test_one", "test_a.py::test_two")


def passed(name: str, detail: str = "") -> CheckResult:
    return CheckResult(name=name, outcome=Outcome.PASSED, detail=detail)


def a_session() -> list[bytes]:
    """What a good session of two checks writes, line by line, through a real pipe."""
    reading, writing = os.pipe()
    channel = Channel(writing, TOKEN)
    channel.send(Event.COLLECTING, name="test_a.py")
    channel.send(Event.COLLECTED, names=NAMES)
    for name in NAMES:
        channel.send(Event.BEGIN, name=name)
        channel.send(Event.RESULT, name=name, result=passed(name))
    channel.send(Event.FINISH, status=0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.readlines()


GOOD = a_session()


def read(*chunks: bytes) -> SessionTranscript:
    transcript = SessionTranscript(TOKEN, lambda result: None)
    for chunk in chunks:
        transcript.feed(chunk)
    return transcript


def is_whole(transcript: SessionTranscript) -> bool:
    return transcript.status == 0 and not transcript.missing and len(transcript.results) == 2


@given(st.lists(st.integers(1, 40), max_size=200))
def test_a_session_reads_the_same_however_it_is_cut_into_chunks(sizes: list[int]) -> None:
    rest, chunks = b"".join(GOOD), []
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    transcript = read(*chunks, rest)
    assert is_whole(transcript)
    assert [result.name for result in transcript.results] == list(NAMES)


@given(st.integers(0, len(b"".join(GOOD)) - 1))
def test_a_session_cut_short_is_never_whole(length: int) -> None:
    assert not is_whole(read(b"".join(GOOD)[:length]))


@given(st.integers(0, len(GOOD)), st.binary(max_size=80).filter(lambda junk: b"\n" not in junk))
def test_a_foreign_line_anywhere_is_noticed(place: int, junk: bytes) -> None:
    with pytest.raises(Garbled):
        read(*GOOD[:place], junk + b"\n", *GOOD[place:])


@given(st.integers(0, len(b"".join(GOOD)) - 1), st.binary(min_size=1, max_size=8))
def test_bytes_within_the_lines_are_noticed_or_change_no_result(place: int, junk: bytes) -> None:
    data = b"".join(GOOD)
    try:
        transcript = read(data[:place] + junk + data[place:])
    except Garbled:
        return
    if transcript.status is not None:
        assert {result.name for result in transcript.results} == set(NAMES)


@pytest.mark.parametrize("dropped", range(len(GOOD) - 1))
def test_a_missing_line_is_noticed(dropped: int) -> None:
    with pytest.raises(Garbled, match="missing or doubled"):
        read(*GOOD[:dropped], *GOOD[dropped + 1 :])


@pytest.mark.parametrize("doubled", range(len(GOOD)))
def test_a_doubled_line_is_noticed(doubled: int) -> None:
    with pytest.raises(Garbled):
        read(*GOOD[: doubled + 1], *GOOD[doubled:])


def forged(*lines: CheckEvent) -> bytes:
    """Lines by somebody who knows the token and counts well."""
    return b"".join(
        line.model_copy(update={"token": TOKEN, "number": number}).model_dump_json().encode()
        + b"\n"
        for number, line in enumerate(lines)
    )


def line(event: Event, **fields: object) -> CheckEvent:
    return CheckEvent.model_validate({"token": "", "number": 0, "event": event, **fields})


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([line(Event.BEGIN, name="x")], "out of turn"),
        ([line(Event.COLLECTED, names=("x",)), line(Event.BEGIN, name="y")], "out of turn"),
        ([line(Event.COLLECTED, names=("x", "x"))], "same name"),
        ([line(Event.COLLECTED), line(Event.COLLECTED)], "listed twice"),
        ([line(Event.COLLECTED, names=("x",)), line(Event.RESULT, result=passed("x"))], "no check"),
        (
            [
                line(Event.COLLECTED, names=("x", "y")),
                line(Event.BEGIN, name="x"),
                line(Event.RESULT, result=passed("y")),
            ],
            "no check",
        ),
        (
            [
                line(Event.COLLECTED, names=("x",)),
                line(Event.BEGIN, name="x"),
                line(Event.RESULT, result=passed("x", "d" * (MAX_DETAIL + 1))),
            ],
            "malformed",
        ),
        ([line(Event.FINISH), line(Event.BROKEN)], "follows their end"),
    ],
)
def test_lines_that_make_no_sense_are_noticed(lines: list[CheckEvent], complaint: str) -> None:
    with pytest.raises(Garbled, match=complaint):
        read(forged(*lines))


def test_a_line_without_end_is_noticed() -> None:
    with pytest.raises(Garbled, match="never ends"):
        read(b"x" * (MAX_LINE + 1))


def test_the_largest_result_that_can_be_sent_can_be_read() -> None:
    name, worst = "test_a.py::test_one", clean("\x00\U0001f600" * MAX_DETAIL)
    lines = [
        line(Event.COLLECTED, names=(name,)),
        line(Event.BEGIN, name=name),
        line(Event.RESULT, result=passed(name, worst)),
    ]
    assert read(forged(*lines)).results[0].detail == worst


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=300), st.integers(60, 200))
def test_clean_text_is_sound_short_and_keeps_both_ends(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned) <= limit
    cleaned.encode("utf-8")
    if len(text) > limit:
        assert "characters left out" in cleaned


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=700))
def test_one_line_is_printable_bounded_and_stable(text: str) -> None:
    said = one_line(text)
    assert said.isprintable()
    assert len(said) <= 500
    assert one_line(said) == said


def test_facts_outlive_their_writer_and_a_spoilt_file_holds_none(tmp_path: Path) -> None:
    path = tmp_path / "check-facts.json"
    CheckMemory(path).note("state", "running")
    CheckMemory(path).note("http", {"http://127.0.0.1/": 200})
    assert CheckMemory(path).text("state") == "running"
    assert CheckMemory(path).statuses("http") == {"http://127.0.0.1/": 200}
    assert path.stat().st_mode & 0o777 == 0o600
    assert CheckMemory(path).statuses("state") is None
    path.write_text("[1")
    assert CheckMemory(path).statuses("http") is None
    assert CheckMemory(path).text("state") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"http": ["localhost"]},
        {"http": ["ftp://localhost/"]},
        {"http": ["http:///path"]},
        {"http": ["http://local host/"]},
        {"http": ["http://localhost:99999/"]},
        {"http": ["http://localhost/\r\nX: y"]},
        {"ignore_ports": [0]},
        {"ignore_ports": ["sctp/80"]},
        {"ignore_ports": [True]},
        {"ignore_kernel_log": ["("]},
        {"filesystems_max_percent": 0},
        {"filesystems_max_percent": 101},
        {"nonsense": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CheckSettings.model_validate(wrong)


def test_settings_survive_the_way_to_the_checks() -> None:
    settings = CheckSettings.model_validate(
        {
            "http": ["https://localhost:8443/health?deep=1"],
            "ignore_ports": [8080, "udp/5353"],
            "ignore_kernel_log": [r"^nvme\d+"],
            "ignore_units": ["apt-*"],
        }
    )
    assert settings.ignore_ports == ("8080", "udp/5353")
    assert CheckSettings.model_validate_json(settings.model_dump_json()) == settings


def test_names_do_not_depend_on_where_the_scenario_lies() -> None:
    def job(root: str) -> Job:
        return Job(
            token="",
            phase="before",
            root=root,
            own=(f"{root}/test_a.py",),
            shared=("/opt/shared/test_ports.py",),
            work_dir="/run/x",
            ssh_config="/run/x/c",
            host="clone",
            master_pid=1,
            baseline=Observation(boot_id="", kernel=""),
            current=Observation(boot_id="", kernel=""),
            settings=CheckSettings(),
            log="checks-before",
            seconds=1,
        )

    for root in ("/etc/scenarios/web", "/home/me/web"):
        assert job(root).name_of(Path(root, "deep/test_a.py")) == "deep/test_a.py"
        assert job(root).name_of(Path("/opt/shared/test_ports.py")) == "shared/test_ports.py"
