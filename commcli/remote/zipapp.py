"""The relay as one file: `relay.pyz`, standard library only, the same bytes for the same sources."""

from __future__ import annotations

import io
import pkgutil
import zipfile
from functools import lru_cache

from commcli import relay
from commcli.remote.bundle import source_of

MAX_BYTES = 300_000
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
# Read before anything of ours is imported: an old python must get a reason, not a syntax error.
_MAIN = """\
import sys
if sys.version_info < (3, 9):
    sys.exit("commcli-relay: needs python 3.9 or newer, this is %d.%d" % sys.version_info[:2])
from commcli.relay.__main__ import main
sys.exit(main())
"""


@lru_cache(maxsize=1)
def build() -> bytes:
    """The zipapp. Raises ValueError when it has grown over 300 KB."""
    names = ["commcli", "commcli.relay"]
    modules = list(pkgutil.walk_packages(relay.__path__, "commcli.relay."))
    names += [module.name for module in modules]
    packages = {"commcli", "commcli.relay", *(module.name for module in modules if module.ispkg)}
    files = {_path(name, name in packages): source_of(name) for name in names}
    data = _zip({"__main__.py": _MAIN, **files})
    if len(data) > MAX_BYTES:
        raise ValueError(f"relay.pyz has {len(data)} bytes, over {MAX_BYTES}")
    return data


def _path(name: str, is_package: bool) -> str:
    path = name.replace(".", "/")
    return f"{path}/__init__.py" if is_package else f"{path}.py"


def _zip(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[path])
    return buffer.getvalue()
