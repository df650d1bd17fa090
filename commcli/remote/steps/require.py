"""`assert: {that, message}`: conditions over facts and earlier results that must hold. (`assert` is Python's.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode.condition import asked, holds
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict, later

KEYS = {"that": Key("conditions", required=True), "message": Key("text")}
VERIFY = False


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Fail with the first condition that does not hold."""
    for condition in args["that"]:
        if unknown := asked(condition) & place.untold:
            return Verdict(skipped=later(unknown))
        if not holds(condition, place.values):
            raise StepFailed(args.get("message") or f"does not hold: {condition}")
    return Verdict()
