"""docs/overlay.md names every metric of the overlay, and no other."""

from __future__ import annotations

import re

from commcli.relay.process import metrics
from tests.architecture.test_overlay_document import section
from tests.architecture.test_turn_document import rows, words
from tests.relay.test_metrics import figures, overlay


def test_metrics_are_the_documented_ones() -> None:
    page = metrics.render(figures(overlay=overlay()))
    found = set(re.findall(r"^# TYPE commcli_relay_(overlay_\w+) ", page, flags=re.M))
    told = {word for cells in rows(section("Watching it")) for word in words(cells[0])}
    assert {word for word in told if word.startswith("overlay_")} == found
