"""GitHub: a comment `/rehearse GUEST [SCENARIO]` on a pull request. Back come a commit status,
which a branch may be made to need, and a comment that is edited.

Statuses, not check runs: those take a GitHub App, these work with a fine-grained token as well
(`Commit statuses` and `Pull requests`: read and write).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sandbox.core.records import Verdict
from workers.chat import forms, markup, signatures
from workers.chat.values import (
    Channel,
    ChatReply,
    ChatRequest,
    Gone,
    Lines,
    NotAMessage,
    Place,
    Telling,
    TryLater,
)
from workers.chat.vendors import comments
from workers.chat.wire import SECONDS, answer, wait_of
from workers.database.states import RunState

if TYPE_CHECKING:
    from github import Github
    from github.GithubException import GithubException

# Only `success` lets a merge pass where the status is required.
CONCLUSIONS: Mapping[str, str] = {
    RunState.QUEUED: "pending",
    RunState.RUNNING: "pending",
    RunState.CANCELLING: "pending",
    RunState.CANCELLED: "error",
    Verdict.PASS: "success",
    Verdict.FAIL: "failure",
    Verdict.INCONCLUSIVE: "error",
    Verdict.REJECTED: "error",
    Verdict.ERROR: "error",
}
LONGEST = 140  # characters of a status


def hear(
    channel: Channel, headers: Mapping[str, str], body: bytes, now: float
) -> ChatRequest | ChatReply:
    signatures.github(channel.secret, headers, body)
    if not headers.get("x-github-delivery"):
        raise NotAMessage("the request has no X-GitHub-Delivery", "send it as GitHub does")
    said = forms.mapping(body)
    event, action = headers.get("x-github-event"), said.get("action")
    comment, issue = forms.part(said, "comment"), forms.part(said, "issue")
    if event != "issue_comment" or action != "created" or not issue.get("pull_request"):
        return ChatReply()
    words = comments.words_of(forms.text(comment, "body"))
    if words is None:
        return ChatReply()
    repository = comments.known_repository(
        channel, forms.text(forms.part(said, "repository"), "full_name")
    )
    comments.must_be_young(forms.moment(comment, "created_at"), now)
    return ChatRequest(
        user=forms.identity(forms.part(comment, "user"), "id"),
        text=words,
        # The header with the delivery's id is not signed; this is, and is the same in each.
        delivery=f"comment {repository} {forms.number(comment, 'id')}",
        place={"repository": repository, "number": forms.number(issue, "number")},
        seen=False,
        urgent=True,
        strangers=False,
    )


def say(lines: Lines) -> ChatReply:
    """GitHub stores it with the delivery, where the owner of the hook reads it."""
    return answer({"text": markup.plain(lines)})


class GithubMessages:
    """Those of one channel of chat.yaml."""

    def __init__(self, channel: Channel) -> None:
        from github import Auth, Github

        self._github: Github = Github(
            auth=Auth.Token(channel.token),
            base_url=channel.url.rstrip("/"),
            timeout=SECONDS,
            retry=None,
            seconds_between_requests=0,
            seconds_between_writes=0,
            lazy=True,
        )

    def send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        from github.GithubException import GithubException

        try:
            return self._send(place, known, telling)
        except GithubException as problem:
            if _is_limit(problem):
                raise TryLater(wait_of(problem.headers or {})) from None
            if problem.status == 404 and "comment" in known:
                raise Gone("GitHub's comment is not there any more", "a new one is made") from None
            raise

    def _send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        """The status first: should the comment fail, it is sent again, which changes nothing."""
        repository = self._github.get_repo(str(place["repository"]))
        pull = repository.get_pull(int(place["number"]))
        commit = str(known.get("commit") or pull.head.sha)
        if telling.word and known.get("word") != telling.word:
            self._set(f"/repos/{place['repository']}/statuses/{commit}", telling)
        text = markup.markdown(telling.lines)
        if "comment" in known:
            pull.get_issue_comment(int(known["comment"])).edit(text)
            number = int(known["comment"])
        else:
            number = pull.create_issue_comment(text).id
        return {"commit": commit, "comment": number, "word": telling.word}

    def _set(self, path: str, telling: Telling) -> None:
        """Not by the library's commit: that is read first, which takes one more permission."""
        status = {
            "state": CONCLUSIONS[telling.word],
            "description": comments.short(telling, LONGEST),
            "context": comments.context_of(telling),
        }
        status |= {"target_url": telling.link} if telling.link else {}
        self._github.requester.requestJsonAndCheck("POST", path, input=status)


def _is_limit(problem: GithubException) -> bool:
    headers = {name.lower(): value for name, value in (problem.headers or {}).items()}
    spent = headers.get("x-ratelimit-remaining") == "0" or "retry-after" in headers
    return problem.status == 429 or (problem.status == 403 and spent)
