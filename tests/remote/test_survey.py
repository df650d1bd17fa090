from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from commcli.remote.outcome import Failed
from commcli.remote.survey import DRAIN_LOOK_EVERY_S, drained

BEGUN = {"ok": True, "drain": True, "drained": False, "draining": {"sessions": 0}, "allocations": 3}


class _Relay:
    """Answers `status` from a list; sleeping is counted and takes no time."""

    def __init__(self, *answers: dict[str, Any] | Failed) -> None:
        self.answers, self.slept = list(answers), 0.0

    async def status(self) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Failed):
            raise answer
        return {**BEGUN, "overlay": "much more", **answer}

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def wait(
        self, answer: dict[str, Any], *, stop: bool = False, told: Callable[[str], None] | None = None
    ) -> Awaitable[dict[str, Any]]:
        return drained(self.status, answer, stop=stop, told=told, sleep=self.sleep)


async def test_it_waits_until_the_relay_says_drained() -> None:
    relay, told = _Relay({"allocations": 2}, {"allocations": 0, "drained": True}), list[str]()
    assert await relay.wait(BEGUN, told=told.append) == {**BEGUN, "allocations": 0, "drained": True}
    assert told == ["3 allocations left", "2 allocations left"]
    assert relay.slept == 2 * DRAIN_LOOK_EVERY_S


async def test_what_is_drained_is_not_waited_for() -> None:
    relay = _Relay()
    assert (await relay.wait({**BEGUN, "drained": True}))["drained"] is True


async def test_with_stop_it_waits_until_nobody_answers() -> None:
    relay = _Relay({"drained": True, "allocations": 0}, Failed("relay: no such file"))
    answer = await relay.wait(BEGUN, stop=True)
    assert (answer["stopped"], answer["drained"], answer["allocations"]) == (True, True, 0)


async def test_a_relay_that_fails_or_was_undrained_meanwhile_is_not_drained() -> None:
    with pytest.raises(Failed, match="no python3"):
        await _Relay(Failed("no python3")).wait(BEGUN)
    with pytest.raises(Failed, match="took the drain back"):
        await _Relay({"drain": False}).wait(BEGUN)
