"""The ready pieces for CI: valid by their published schemas, and their lines are run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree

from tests.support.paths import ROOT
from tests.support.service.gate_world import GITHUB, Ci, ci

ACTION = ROOT / ".github/actions/upgrade-gate/action.yml"
GITLAB = ROOT / ".ci/gitlab/upgrade-gate.yml"
JENKINS = ROOT / ".ci/jenkins/Jenkinsfile"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
ODD = "$(touch injected) \"; touch injected; `touch injected` ' --local"


def program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def example(words: str) -> str:
    (found,) = [text for text in EXAMPLES if words in text]
    return found


def expanded(text: str, inputs: dict[str, str]) -> str:
    return re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: inputs[found[1]], text)


def steps() -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    return {step["name"]: step for step in found["runs"]["steps"]}


# -- as their publishers would have them ------------------------------------------------------


@pytest.mark.parametrize("schema", ["github-actions", "github-workflows", "gitlab-ci"])
def test_the_pieces_are_valid(schema: str, tmp_path: Path) -> None:
    workflow, including = tmp_path / "workflow.yml", tmp_path / ".gitlab-ci.yml"
    workflow.write_text(example("runs-on:"))
    including.write_text(example("extends: .upgrade-gate"))
    files = {
        "github-actions": [ACTION],
        "github-workflows": [workflow],
        "gitlab-ci": [GITLAB, including],
    }[schema]
    argv = [program("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yml"
    broken.write_text(files[0].read_text().replace("run", "runn").replace("script:", "script: 1 #"))
    done = subprocess.run([*argv[:3], broken], capture_output=True, text=True, check=False)
    assert done.returncode == 1  # it does look


def test_the_pieces_for_github_are_safe(tmp_path: Path) -> None:
    """By zizmor, which knows how workflows are attacked; nothing is fetched."""
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/gate.yml").write_text(example("runs-on:"))
    argv = [program("zizmor"), "--offline", "--no-progress", "--min-severity", "medium"]
    # What is not pinned is for whoever writes the workflow to decide: the example names no commit.
    (tmp_path / "zizmor.yml").write_text("rules: {unpinned-uses: {disable: true}}\n")
    argv += ["--config", tmp_path / "zizmor.yml"]
    done = subprocess.run(
        [*argv, ACTION, tmp_path / ".github/workflows"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hole = ACTION.read_text().replace('"$GATE_GUEST"', '"${{ inputs.guest }}"')
    (tmp_path / "hole").mkdir()
    (tmp_path / "hole/action.yml").write_text(hole)
    done = subprocess.run(
        [*argv, tmp_path / "hole/action.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "template-injection" in done.stdout


def test_no_value_is_put_into_a_script() -> None:
    assert all("${{" not in step["run"] for step in steps().values())
    scripts = jenkins_scripts()
    assert len(scripts) == 2
    assert JENKINS.read_text().count("sh '''") == JENKINS.read_text().count("sh ") == 2


# -- what they run, run ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def at() -> Iterator[Ci]:
    with ci() as one:
        bin_folder = one.folder / "bin"
        bin_folder.mkdir()
        sandbox = bin_folder / "sandbox"
        sandbox.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m workers.cli "$@"\n')
        sandbox.chmod(0o755)
        yield one


def path(at: Ci) -> str:
    return f"{at.folder / 'bin'}:{os.environ['PATH']}"


def github(at: Ci, step: dict[str, Any], run: str, **inputs: str) -> dict[str, str]:
    """The environment of a step of the action."""
    stated = yaml.safe_load(ACTION.read_text())["inputs"]
    given = {name: one.get("default", "") for name, one in stated.items()}
    given |= {"server": at.environment()["SANDBOX_SERVER"], "host": "xen1"}
    given |= {"token": at.environment()["SANDBOX_TOKEN"], **inputs}
    env = {name: expanded(value, given) for name, value in step.get("env", {}).items()}
    files = {name: str(at.folder / name) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    return {
        **GITHUB,
        "GITHUB_RUN_ID": run,
        "PATH": path(at),
        "RUNNER_TEMP": "/nonexistent",
        **files,
        **env,
    }


GITHUB_SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")


def test_the_action_rehearses_and_stops_the_job(at: Ci) -> None:
    install, gate, _cancel = steps().values()
    env = github(at, gate, "11", guest="web-fail")
    assert at.program(*GITHUB_SHELL, install["run"], **env).done().code == 0
    done = at.program(*GITHUB_SHELL, gate["run"], **env).done()
    assert done.code == 1, done
    assert "May I upgrade web-fail? No: " in (at.folder / "upgrade-gate.md").read_text()
    assert "May I upgrade web-fail? No: " in (at.folder / "GITHUB_STEP_SUMMARY").read_text()
    assert "verdict=fail\n" in (at.folder / "GITHUB_OUTPUT").read_text()
    assert etree.parse(at.folder / "upgrade-gate.xml").find(".//failure") is not None


def test_a_cancelled_job_of_githubs_cancels_the_rehearsal(at: Ci) -> None:
    """Its runner signals the shell of the step, and nobody else."""
    _install, gate, cancel = steps().values()
    env = github(at, gate, "12", guest="gh-cancelled", host="xen2")
    started = at.program(*GITHUB_SHELL, gate["run"], **env)
    run = at.until_there("gh-cancelled")
    assert started.signal(signal.SIGINT).code == 130
    assert at.run(run["id"])["state"] == "cancelled"
    env = github(at, cancel, "12", guest="gh-cancelled", host="xen2")
    assert at.program(*GITHUB_SHELL, cancel["run"], **env).done().code == 0
    assert len(at.runs_of("gh-cancelled")) == 1


def gitlab(at: Ci, **more: str) -> dict[str, str]:
    stated = yaml.safe_load(GITLAB.read_text())[".upgrade-gate"]["variables"]
    job = {"CI_SERVER_URL": "https://gitlab.example.org", "CI_JOB_ID": "21", "PATH": path(at)}
    return {**stated, **job, "GATE_HOST": "xen1", **more}


def test_the_template_rehearses_and_cancels(at: Ci) -> None:
    job = yaml.safe_load(GITLAB.read_text())[".upgrade-gate"]
    (script,), (after,) = job["script"], job["after_script"]
    done = at.program("sh", "-ec", script, **gitlab(at, GATE_GUEST="web-error")).done()
    assert done.code == 4, done
    junit = at.folder / job["artifacts"]["reports"]["junit"]
    assert etree.parse(junit).find(".//error") is not None
    for name in job["artifacts"]["paths"]:
        assert "No (error)" in (at.folder / name).read_text()
    env = gitlab(at, GATE_GUEST="gl-killed", GATE_HOST="xen2", CI_JOB_ID="22")
    started = at.program("sh", "-ec", script, **env)
    run = at.until_there("gl-killed")
    started.process.kill()
    assert at.program("sh", "-ec", after, **env, CI_JOB_STATUS="success").done().code == 0
    assert at.run(run["id"])["state"] == "queued"
    assert at.program("sh", "-ec", after, **env, CI_JOB_STATUS="canceled").done().code == 0
    assert at.run(run["id"])["state"] == "cancelled"


def jenkins_scripts() -> list[str]:
    """With Groovy's escapes resolved."""
    found = re.findall(r"sh '''(.*?)'''", JENKINS.read_text(), re.DOTALL)
    return [text.replace("\\\\", "\\") for text in found]


def test_the_pipeline_rehearses_and_cancels(at: Ci) -> None:
    rehearse, cancel = jenkins_scripts()
    stated = dict(re.findall(r"string\(name: '(\w+)', defaultValue: '(.*?)'", JENKINS.read_text()))
    job = {"JENKINS_URL": "https://jenkins.example.org/", "BUILD_TAG": "jenkins-shop-1"}
    env = {**stated, **job, "GATE_HOST": "xen1", "PATH": path(at)}
    done = at.program("sh", "-xec", rehearse, **env).done()
    assert (done.code, env["GATE_GUEST"]) == (0, "web01"), done
    for name in re.findall(r"(?:testResults|artifacts): '(.*?)'", JENKINS.read_text()):
        assert (at.folder / name).exists()
    assert at.program("sh", "-xec", cancel, **env).done().code == 0  # had ended: nothing to do


@pytest.mark.parametrize("which", ["action", "template", "pipeline"])
def test_what_is_put_in_is_no_program(at: Ci, which: str) -> None:
    odd = {"GATE_GUEST": ODD, "GATE_SCENARIO": "--local", "GATE_HOST": ODD, "GATE_UPGRADE": ODD}
    shell, env = ("sh", "-ec"), gitlab(at)
    match which:
        case "action":
            shell, env = GITHUB_SHELL, github(at, steps()["Rehearse"], "13")
            script = steps()["Rehearse"]["run"]
        case "template":
            (script,) = yaml.safe_load(GITLAB.read_text())[".upgrade-gate"]["script"]
        case _:
            script = jenkins_scripts()[0]
    done = at.program(
        *shell, script, **{**env, "GATE_JUNIT": "j", "GATE_MARKDOWN": "m", **odd}
    ).done()
    assert done.code == 2, done
    assert not (at.folder / "injected").exists()
