"""`make demo` as its audience sees it, from the first step to the last."""

from __future__ import annotations

import subprocess

from commcli.lab import ports, processes
from commcli.lab.story import STEPS
from tests.lab.conftest import Story


def test_the_story_is_true_and_leaves_nothing(story: Story) -> None:
    try:
        code = story.running.wait(timeout=150)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no end: {story.told()}") from None
    told = story.told()
    titles = [
        f"{number}  {title}" for number, title in enumerate([*(s.title for s in STEPS), "lab down"], start=1)
    ]
    assert code == 0, told
    assert [line.strip(" ─") for line in told.splitlines() if line.endswith("─")] == titles
    assert "Traceback" not in told and "NOT TRUE" not in told
    assert processes.find(story.folder) == []
    assert ports.in_use(f"{story.network}.{number}" for number in (*range(1, 17), 254)) == []
    assert not story.folder.exists()
