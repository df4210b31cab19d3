"""GitLab: a comment `/rehearse GUEST [SCENARIO]` on a merge request. Back come a commit status and
a comment that is edited. The token needs the scope `api` and the role Developer.

The secret is a signing token (`whsec_…`), with which GitLab signs as Standard Webhooks say; or a
secret token, which is only a word in a header: a reader of one request can forge others.
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
    Place,
    Telling,
    TryLater,
)
from workers.chat.vendors import comments
from workers.chat.wire import SECONDS, answer, wait_of
from workers.database.states import RunState

if TYPE_CHECKING:
    from gitlab import Gitlab
    from requests import Response

CONCLUSIONS: Mapping[str, str] = {
    RunState.QUEUED: "pending",
    RunState.RUNNING: "running",
    RunState.CANCELLING: "running",
    RunState.CANCELLED: "canceled",
    Verdict.PASS: "success",
    Verdict.FAIL: "failed",
    Verdict.INCONCLUSIVE: "failed",
    Verdict.REJECTED: "failed",
    Verdict.ERROR: "failed",
}
LONGEST = 250  # characters of a status


def hear(
    channel: Channel, headers: Mapping[str, str], body: bytes, now: float
) -> ChatRequest | ChatReply:
    if channel.secret.startswith(signatures.STANDARD_PREFIX):
        signatures.standard(channel.secret, headers, body, now)
    else:
        signatures.token(channel.secret, headers.get("x-gitlab-token", ""))
    said = forms.mapping(body)
    note = forms.part(said, "object_attributes")
    is_comment = said.get("object_kind") == "note" and note.get("noteable_type") == "MergeRequest"
    if not is_comment or note.get("action") not in (None, "create"):  # old ones do not say
        return ChatReply()
    words = comments.words_of(forms.text(note, "note"))
    if words is None:
        return ChatReply()
    path = forms.text(forms.part(said, "project"), "path_with_namespace")
    repository = comments.known_repository(channel, path)
    comments.must_be_young(forms.moment(note, "created_at"), now)
    request = forms.part(said, "merge_request")
    return ChatRequest(
        user=forms.identity(forms.part(said, "user"), "id"),
        text=words,
        delivery=f"comment {repository} {forms.number(note, 'id')}",
        place={
            "repository": repository,
            "number": forms.number(request, "iid"),
            "commit": forms.identity(forms.part(request, "last_commit"), "id"),
        },
        seen=False,
        urgent=True,
        strangers=False,
    )


def say(lines: Lines) -> ChatReply:
    """GitLab stores it with the delivery, where the owner of the hook reads it."""
    return answer({"text": markup.plain(lines)})


class GitlabMessages:
    """Those of one channel of chat.yaml."""

    def __init__(self, channel: Channel) -> None:
        import requests
        from gitlab import Gitlab

        session = requests.Session()
        session.max_redirects = 0
        session.hooks["response"].append(_heed_limits)
        self._gitlab: Gitlab = Gitlab(
            channel.url,
            private_token=channel.token,
            timeout=SECONDS,
            session=session,
            retry_transient_errors=False,
            keep_base_url=True,
        )

    def send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        from gitlab.exceptions import GitlabHttpError, GitlabOperationError

        try:
            return self._send(place, known, telling)
        except (GitlabHttpError, GitlabOperationError) as problem:
            if problem.response_code == 404 and "note" in known:
                raise Gone("GitLab's comment is not there any more", "a new one is made") from None
            raise

    def _send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        """The status first: should the comment fail, it is sent again, which changes nothing."""
        project = self._gitlab.projects.get(str(place["repository"]), lazy=True)
        state = CONCLUSIONS.get(telling.word, "")
        if state and known.get("state") != state:
            self._set(project.commits.get(str(place["commit"]), lazy=True), state, telling)
        notes = project.mergerequests.get(int(place["number"]), lazy=True).notes
        text = markup.markdown(telling.lines)
        if "note" in known:
            notes.update(int(known["note"]), {"body": text})
            return {**known, "state": state}
        return {"note": int(notes.create({"body": text}).get_id() or 0), "state": state}

    @staticmethod
    def _set(commit: Any, state: str, telling: Telling) -> None:
        from gitlab.exceptions import GitlabCreateError

        words = {"target_url": telling.link} if telling.link else {}
        description = comments.short(telling, LONGEST)
        name = comments.context_of(telling)
        try:
            commit.statuses.create(
                {"state": state, "name": name, "description": description, **words}
            )
        except GitlabCreateError as problem:
            # It has this state already: who sent it last could not note that any more.
            if problem.response_code != 400 or "Cannot transition status" not in str(problem):
                raise


def _heed_limits(response: Response, *_arguments: Any, **_more: Any) -> None:
    if response.status_code == 429:
        raise TryLater(wait_of(response.headers))
