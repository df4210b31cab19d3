"""``chat.yaml``: which channels there are, and who may do what in each. Read strictly, as
scenarios are; secrets are in files of their own, which it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainValidator, ValidationError

from sandbox.core.config import scalars, strict_yaml
from sandbox.core.config.problems import Problem, problem_lines, shape_problems
from sandbox.core.config.section import Section
from sandbox.core.errors import RequestError
from sandbox.scenario import values
from workers.chat import roles, signatures
from workers.chat.values import Channel, Chat, Role
from workers.chat.wording import SCENARIO

SHORTEST_SECRET = 16  # characters: vendors make longer ones, people shorter ones
_LONGEST_SECRET = 4096
FORGES = ("github", "gitlab")
# Where a vendor's API is that has one address for all; the others say theirs.
ADDRESSES = {
    "slack": "https://slack.com/api/",
    "github": "https://api.github.com",
    "gitlab": "https://gitlab.com",
}
_NEEDS = {
    "slack": ("token",),
    "mattermost": ("token", "url"),
    "webhook": (),
    "github": ("token", "repositories"),
    "gitlab": ("token", "repositories"),
}
_KNOWS = {
    "slack": ("token", "url"),
    "mattermost": ("token", "url"),
    "webhook": ("url",),
    "github": ("token", "url", "repositories"),
    "gitlab": ("token", "url", "repositories"),
}
_OPTIONAL = ("token", "url", "repositories")


def _name(value: object) -> str:
    name = scalars.text(value)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ValueError(f"{scalars.shown(name)}: a-z, 0-9 and - are allowed, 40 at most")
    return name


def _file(value: object) -> str:
    path = Path(scalars.text(value))
    if not path.is_absolute():
        raise ValueError(f"{scalars.shown(str(path))} is not an absolute path: the secret's file")
    return str(path)


def _url(value: object) -> str:
    url = values.http_url(value)
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ValueError(f"{scalars.shown(url)} must be https: a token is sent there")
    if parts.query or parts.fragment:
        raise ValueError(f"{scalars.shown(url)} must not have a query or fragment")
    return url


def _link(value: object) -> str:
    link = scalars.text(value)
    values.http_url(link.replace("{run}", "run"))
    if link.count("{run}") != 1 or not re.fullmatch(r"[A-Za-z0-9:/?&=#%._~+{}-]+", link):
        raise ValueError(
            f"{scalars.shown(link)} is not like https://sandbox.example.org/runs/{{run}}"
        )
    return link


def _user(value: object) -> str:
    user = str(value) if type(value) is int else scalars.text(value)
    if user != roles.EVERYBODY and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,99}", user):
        raise ValueError(f"{scalars.shown(user)} is not a user's id as the vendor has it")
    return user


def _pattern(value: object) -> str:
    pattern = scalars.text(value)
    if len(pattern) > scalars.GUEST_NAME_LENGTH:
        raise ValueError(f"{scalars.shown(pattern)} is too long")
    return pattern


def _scenario(value: object) -> str:
    name = scalars.text(value)
    if not SCENARIO.fullmatch(name):
        raise ValueError(f"{scalars.shown(name)} is not the name of a scenario")
    return name


def _repository(value: object) -> str:
    path = scalars.text(value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+", path):
        raise ValueError(f"{scalars.shown(path)} is not OWNER/NAME")
    return path


Pattern = Annotated[str, PlainValidator(_pattern)]
SecretFile = Annotated[str, PlainValidator(_file)]


class RoleEntry(Section):
    """What some users may do."""

    users: Annotated[tuple[Annotated[str, PlainValidator(_user)], ...], Field(max_length=500)] = (
        Field(description="their ids as the vendor has them, or '*' who may read")
    )
    may: tuple[Literal["read", "submit", "cancel"], ...] = Field(
        description="of read, submit and cancel"
    )
    guests: Annotated[tuple[Pattern, ...], Field(max_length=500)] = Field(
        description="names or patterns: [web01, 'db*']"
    )
    scenarios: Annotated[tuple[Pattern, ...], Field(max_length=500)] = Field(
        description="names or patterns: [security, kernel]"
    )


class ChannelEntry(Section):
    """A place that commands come from, at /hooks/NAME."""

    name: Annotated[str, PlainValidator(_name)] = Field(description="of the address: /hooks/ops")
    kind: Literal["slack", "mattermost", "webhook", "github", "gitlab"] = Field(
        description="slack, mattermost, webhook, github or gitlab"
    )
    secret: SecretFile = Field(description="file with what requests are signed with")
    token: SecretFile | None = Field(default=None, description="file with what answers take")
    url: Annotated[str, PlainValidator(_url)] | None = Field(
        default=None, description="of the vendor's server, or where a webhook's updates go"
    )
    repositories: tuple[Annotated[str, PlainValidator(_repository)], ...] | None = Field(
        default=None, description="OWNER/NAME of those that may ask"
    )
    host: Annotated[str, PlainValidator(scalars.host_name)] | None = Field(
        default=None, description="of the guests; default: the scenario's"
    )
    user: Annotated[str, PlainValidator(values.user_name)] | None = Field(
        default=None, description="of the guests, to log in; default: the scenario's"
    )
    key: SecretFile | None = Field(
        default=None, description="private key that the guests accept; default: the scenario's"
    )
    scenario: Annotated[str, PlainValidator(_scenario)] = Field(
        default="security", description="that is meant where none is named"
    )
    roles: tuple[RoleEntry, ...] = Field(description="who may do what; all other users are refused")


class ChatFile(Section):
    """The file."""

    link: Annotated[str, PlainValidator(_link)] | None = Field(
        default=None, description="page of a run: https://sandbox.example.org/runs/{run}"
    )
    channels: tuple[ChannelEntry, ...] = Field(description="a list of channels")


def read_chat(path: Path) -> Chat:
    """The channels of a file, with their secrets; raises :class:`RequestError` with all that is
    wrong with it."""
    document = strict_yaml.load(path)
    problems = list(_rule_problems(document.data))
    parsed = None
    try:
        parsed = ChatFile.model_validate_json(json.dumps(document.data))
    except ValidationError as invalid:
        problems += shape_problems(invalid, ChatFile)
    channels = []
    for number, entry in enumerate(parsed.channels if parsed and not problems else ()):
        secrets: dict[str, str] = {}
        for key in ("secret", "token"):
            try:
                secrets[key] = _secret(entry, key)
            except ValueError as problem:
                problems.append(Problem(("channels", number, key), str(problem)))
        if entry.key and not Path(entry.key).is_file():
            problems.append(Problem(("channels", number, "key"), f"{entry.key} is no file here"))
        if len(secrets) == 2:
            channels.append(_channel(entry, secrets))
    if parsed is None or problems:
        lines = problem_lines(document, problems)
        head = f"{len(lines)} problems:\n" if len(lines) > 1 else ""
        raise RequestError(head + "\n".join(lines), "correct it; `sandbox chat check` looks again")
    return Chat(tuple(channels), parsed.link or "")


def _channel(entry: ChannelEntry, secrets: Mapping[str, str]) -> Channel:
    return Channel(
        name=entry.name,
        kind=entry.kind,
        secret=secrets["secret"],
        token=secrets["token"],
        url=entry.url or ADDRESSES.get(entry.kind, ""),
        repositories=tuple(one.lower() for one in entry.repositories or ()),
        host=entry.host,
        user=entry.user,
        key=Path(entry.key) if entry.key else None,
        scenario=entry.scenario,
        roles=tuple(Role(r.users, r.may, r.guests, r.scenarios) for r in entry.roles),
    )


def _secret(entry: ChannelEntry, key: str) -> str:
    """What its file holds, "" for a key that is not given; raises ValueError without telling it."""
    path = getattr(entry, key)
    if path is None:
        return ""
    try:
        with Path(path).open(encoding="ascii") as file:
            text = file.read(_LONGEST_SECRET + 1).strip()
    except OSError as problem:
        raise ValueError(f"{path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} holds no secret: it is not ASCII") from None
    if not SHORTEST_SECRET <= len(text) <= _LONGEST_SECRET or not text.isprintable():
        raise ValueError(
            f"{path} holds no secret: one line of at least {SHORTEST_SECRET} characters"
        )
    is_standard = text.startswith(signatures.STANDARD_PREFIX)
    if key == "secret" and (entry.kind == "webhook" or (entry.kind == "gitlab" and is_standard)):
        try:
            if is_standard and len(signatures.standard_key(text)) >= SHORTEST_SECRET:
                return text
        except ValueError as problem:
            raise ValueError(f"{path} {problem}") from None
        raise ValueError(f"{path} must hold whsec_ and at least {SHORTEST_SECRET} bytes in base64")
    return text


def _rule_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Entries that contradict themselves or one another; the types may still be wrong."""
    entries = data.get("channels")
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict):
            continue
        key = ("channels", number)
        first = seen.setdefault(str(entry.get("name")), number)
        if first != number:
            what = f"is given twice, first in channels.{first}: keep one"
            yield Problem((*key, "name"), what)
        yield from _kind_problems(key, entry)
        listed = entry.get("roles")
        for place, role in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(role, dict):
                yield from _role_problems((*key, "roles", place), role, str(entry.get("kind")))


def _kind_problems(key: tuple[str | int, ...], entry: Mapping[str, Any]) -> Iterator[Problem]:
    kind = str(entry.get("kind"))
    if kind not in _NEEDS:
        return
    for name in _OPTIONAL:
        if name in _NEEDS[kind] and entry.get(name) in (None, []):
            what = ChannelEntry.model_fields[name].description
            yield Problem((*key, name), f"is required by kind: {kind}: {what}")
        if name not in _KNOWS[kind] and entry.get(name) is not None:
            yield Problem((*key, name), f"is not for kind: {kind}")


def _role_problems(
    key: tuple[str | int, ...], role: Mapping[str, Any], kind: str
) -> Iterator[Problem]:
    users, may = (role.get(name) for name in ("users", "may"))
    users, may = (one if isinstance(one, list) else [] for one in (users, may))
    if roles.EVERYBODY in users and set(may) - {roles.READ}:
        yield Problem((*key, "users"), "'*' may only read: name those who may submit or cancel")
    for number, user in enumerate(users):
        if kind in FORGES and not re.fullmatch(r"[0-9]+", str(user)):
            # A user can give up a name, and another user can take it.
            what = f"{scalars.shown(user)} must be the user's number: names change hands"
            yield Problem((*key, "users", number), what)
