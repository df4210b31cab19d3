"""Records in which every text a guest could influence, and every other one, is hostile."""

from __future__ import annotations

import types
from enum import Enum
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from sandbox.core.records import Artifact, Outcome, RunRecord, UpgradeStatus, Verdict

PAYLOADS = {
    "script": "<script>alert(1)</script>",
    "attribute": '" onload="alert(1)" x=\'',
    "single": "' autofocus onfocus='alert(1)",
    "close": "</title></style></pre></code></td></table></details><img src=x onerror=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}{# #}",
    "cdata": "]]><x>&lt;b&gt;&#60;i&#62;<!-- --> <![CDATA[",
    "svg": "</text></svg><svg onload=alert(1)><foreignObject><a href='javascript:alert(1)'>x</a>",
    "url": "javascript:alert(1) https://evil.example/ www.evil.example mail@evil.example",
    "markdown": "``` \n# head\n[x](javascript:alert(1)) ![i](http://evil.example/i.png) **b** "
    "| `c` @octocat #12 !34 ~label &5 $6 %7 GH-8 org/repo#9 :smile: <!-- ~~s~~ \\",
    "lists": "1. one\n- two\n> three\n    four\n---\n| a | b |\n| --- | --- |\n| c | d |",
    "backslash": "\\| \\\\| \\` \\",
    "terminal": "\x1b[2J\x1b[1;1H\x1b]0;owned\x07\x1b]52;c;ZWNobw==\x1b\\\x9b31m"
    "\x1bc\r\x08\x00\x7fred",
    "bidi": "a\u202egnp.exe\u202c \u2066x\u2069 \u200bzero\ufeff \U000e0041tag",
    "xml": "nul\x00 bell\x07 lone\ud800 nonchar\uffff form\x0cfeed",
    "long": "Z" * 30_000,
    "rich": "[bold red]x[/bold red] [link=https://evil.example]y[/link] :boom:",
}


def hostile(payload: str, verdict: Verdict = Verdict.FAIL) -> RunRecord:
    """A whole record with ``payload`` in every field of type text, at any depth."""
    record = _fill(RunRecord, payload)
    assert isinstance(record, RunRecord)
    facts = record.facts
    after = _fill(type(facts.after), payload + "2") if facts.after else None
    failed = {"outcome": Outcome.FAILED}
    before, later = facts.checks_before, facts.checks_after
    assert before is not None
    assert later is not None
    assert facts.upgrade is not None
    assert record.decision is not None
    return record.model_copy(
        update={
            "decision": record.decision.model_copy(update={"verdict": verdict}),
            "artifacts": (*record.artifacts, Artifact(name="console.log", title=payload)),
            "facts": facts.model_copy(
                update={
                    "after": after,
                    "upgrade": facts.upgrade.model_copy(update={"status": UpgradeStatus.FAILED}),
                    "checks_after": later.model_copy(
                        update={
                            "results": tuple(r.model_copy(update=failed) for r in later.results)
                        }
                    ),
                }
            ),
        }
    )


def without_after(record: RunRecord) -> RunRecord:
    """The same record, as of a guest that did not come back: the console is shown."""
    facts = record.facts.model_copy(update={"after": None, "checks_after": None})
    return record.model_copy(update={"facts": facts})


def texts(value: Any) -> list[str]:
    """Every text in a dumped record."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return []


def _fill(kind: Any, payload: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _fill(next(a for a in arguments if a is not type(None)), payload)
    if origin is tuple:
        return (_fill(arguments[0], payload),)
    if origin is dict:
        return {_fill(arguments[0], payload): _fill(arguments[1], payload)}
    if issubclass(kind, BaseModel):
        # Constructed without validation: a guest's lone surrogate must not stop a report.
        return kind.model_construct(
            **{name: _fill(f.annotation, payload) for name, f in kind.model_fields.items()}
        )
    if issubclass(kind, Enum):
        return next(iter(kind))
    if kind is str:
        return payload
    return {int: 7, float: 1.5, bool: True}[kind]
