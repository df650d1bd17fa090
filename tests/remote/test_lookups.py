"""Threads for lookups: used again when they are idle, waited for by nobody."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from commcli.remote.lookups import Lookups


def test_an_idle_thread_is_used_again_and_one_that_hangs_is_in_nobodys_way() -> None:
    before = set(threading.enumerate())
    lookups, hang = Lookups(), threading.Event()
    stuck = lookups.submit(hang.wait)
    used: set[int] = set()
    # It is idle a moment after its result is here.
    while (served := lookups.submit(threading.get_ident).result(10)) not in used:
        used.add(served)
    assert not stuck.done()
    lookups.shutdown(wait=True)
    hang.set()
    assert stuck.result(10)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) <= before, "threads that are idle end with the loop they are for"


def test_what_a_call_raises_is_its_result() -> None:
    with pytest.raises(ZeroDivisionError):
        Lookups().submit(lambda: 1 // 0).result(10)


def test_what_is_made_at_once_is_made_here() -> None:
    lookups = Lookups(at_once=Here)
    assert lookups.submit(partial(Here, 1)).result(0).thread == threading.get_ident()
    assert lookups.submit(partial(dict, a=1)).result(10) == {"a": 1}


class Here:
    """Knows where it was made."""

    def __init__(self, _argument: int) -> None:
        self.thread = threading.get_ident()
