"""The words of playbooks: what each takes, the module under steps/ that does it, and what is no value for a key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from commcli.fleet.record import nearest
from commcli.remote.onnode.condition import ConditionError, names, parse
from commcli.remote.onnode.step import Key
from commcli.remote.steps import (
    archive,
    block,
    command,
    directory,
    facts,
    fetch,
    file,
    group,
    line,
    link,
    package,
    require,
    script,
    service,
    sysctl,
    user,
    wait_for,
)

WORDS: Mapping[str, Mapping[str, Key]] = {
    "archive": archive.KEYS,
    "assert": require.KEYS,
    "block": block.KEYS,
    "command": command.KEYS,
    "copy": file.COPY_KEYS,
    "directory": directory.KEYS,
    "facts": facts.KEYS,
    "fetch": fetch.KEYS,
    "file": file.KEYS,
    "group": group.KEYS,
    "line": line.KEYS,
    "link": link.KEYS,
    "package": package.KEYS,
    "script": script.KEYS,
    "service": service.KEYS,
    "sysctl": sysctl.KEYS,
    "template": file.COPY_KEYS,
    "user": user.KEYS,
    "wait_for": wait_for.KEYS,
}
MODULES = {"assert": "require", "copy": "file", "template": "file"}
# The words whose content is sent along, and of what it may be given as (exactly one of them).
CONTENT = {
    "archive": ("source", "blob"),
    "copy": ("source",),
    "file": ("content", "source", "blob"),
    "script": ("source",),
    "template": ("source",),
}
# What any step may say besides its word, and what a group of steps may.
BESIDE = (
    "name", "when", "loop", "register", "notify", "tags", "retries", "delay_s", "until", "ignore_errors", "timeout_s",
)  # fmt: skip
BRANCHES = ("try", "rescue", "always")
OF_GROUPS = ("name", "when", "tags")
# The sets of variables that a play may use (remote/relayfiles.py), and what is in them.
USES: Mapping[str, frozenset[str]] = {
    "relay": frozenset(
        ("relay_json", "relay_pyz", "relay_version", "allowed_signers", "systemd", "peers_json", "keys_digest",
         "turn_secret", "openings", "has_tls", "tls_certificate", "tls_key")
    ),
}  # fmt: skip
# Every node has these; and a loop gives its steps these.
OF_NODES = ("base", "node_id")
OF_LOOPS = ("item", "loop_index")
# The kinds of which there may be several.
LISTS = ("texts", "paths", "conditions")
# The kinds that YAML has words of its own for.
PLAIN = ("flag", "number")
# What `changed_when` and `until` ask about: the members of the step's own result.
RESULT = frozenset(("status", "stdout", "stderr", "answer", "body", "port", "state", "changed"))
_MODE = re.compile(r"0?[0-7]{3,4}\Z")


def wrong(spec: Key, text: str) -> str:
    """Why a rendered text is no value for this key, "" if it is."""
    if spec.kind in ("path", "paths") and not text.startswith("/"):
        return "must be an absolute path on the node"
    if spec.kind == "mode" and not _MODE.match(text):
        return 'must be like "0644"'
    if spec.kind == "number" and not text.isdigit():
        return "must be a whole number"
    if spec.kind == "flag" and text.lower() not in ("true", "false"):
        return "must be true or false"
    if spec.kind == "pattern":
        try:
            re.compile(text)
        except re.error as error:
            return f"no regular expression: {error}"
    if spec.words and text not in spec.words:
        return f'unknown word "{text}"{nearest(text, spec.words)}'
    if spec.kind in ("condition", "conditions"):
        try:
            parse(text)
        except ConditionError as error:
            return str(error)
    return ""


def plain_path(path: str) -> str:
    """As everybody else calls it: `/x/` would be what a link `/x` points to. A `..` stays, it may come after a link."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def strangers(text: str, known: Collection[str]) -> list[str]:
    """The names that a condition asks about and nobody knows; none if it is no condition (`wrong` says so)."""
    try:
        return sorted(names(text) - set(known))
    except ConditionError:
        return []
