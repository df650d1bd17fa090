"""Makes the modules that were sent importable, and runs the program; executed by the bootstrap (remote/program.py)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, BinaryIO


class Sources:
    """A finder and loader (PEP 451) of these modules: name -> source; what has others below it is a package."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._packages = {name.rpartition(".")[0] for name in sources}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self._sources:
            return None
        return ModuleSpec(name, self, origin=f"<{name}>", is_package=name in self._packages)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        exec(compile(self._sources[name], f"<{name}>", "exec"), module.__dict__)

    def get_source(self, name: str) -> str:
        return self._sources[name]


def run(sources: Mapping[str, str], stdin: BinaryIO, nonce: str) -> None:
    """Run the program that stdin describes, from these modules; does not come back."""
    sys.meta_path.insert(0, Sources(sources))
    from commcli.remote.onnode.channel import main

    main(stdin, nonce)
