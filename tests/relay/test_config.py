from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.config import ConfigError, load, standalone

GOOD: dict[str, Any] = {
    "schema": 1, "node": "sg-1", "address": "127.77.0.3", "realm": "lab", "turn_port": 3478,
    "relay_ports": [40000, 42000], "overlay_port": 3479, "stamp_port": 3480, "metrics_port": None,
    "allow_peers": ["127.77.0.0/24"], "faults": True,
}  # fmt: skip


def _written(base: Path, **changes: Any) -> Path:
    (base / "etc").mkdir()
    (base / "etc/turn.secret").write_text("new\nold\n")
    path = base / "etc/relay.json"
    path.write_text(json.dumps({**GOOD, "base": str(base), **changes}))
    return path


def test_a_good_file_with_two_secrets(tmp_path: Path) -> None:
    config = load(_written(tmp_path))
    assert config.node == "sg-1"
    assert config.relay_ports == (40000, 42000)
    assert config.secrets == ("new", "old")
    assert config.metrics_port is None
    assert config.path("run/relay.pid") == tmp_path / "run/relay.pid"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"schema": 2}, "schema 2 is not 1"),
        ({"address": "nowhere"}, "nowhere"),
        ({"principal": ""}, "principal '' is not a name"),
        ({"principal": ["x"]}, "principal ['x'] is not a name"),
        ({"principal": "-O"}, "principal '-O' is not a name"),
        ({"address": "0.0.0.0"}, "0.0.0.0 is not the address of one machine"),
        ({"address": "::"}, ":: is not the address of one machine"),
        ({"address": "::ffff:127.0.0.1"}, "is not the address of one machine"),
        ({"turn_port": 0}, "turn_port 0 is not a port"),
        ({"turn_port": "3478"}, "turn_port '3478' is not a port"),
        ({"relay_ports": [80, 90]}, "relay_ports 80-90"),
        ({"relay_ports": [42000, 40000]}, "relay_ports 42000-40000"),
        ({"allow_peers": ["10.0.0.1/8"]}, "host bits"),
    ],
)
def test_a_wrong_value_is_one_line_naming_the_file(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_written(tmp_path, **changes))
    assert says in str(caught.value)
    assert "relay.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_json_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "etc/relay.json")
    path = _written(tmp_path)
    (tmp_path / "etc/turn.secret").unlink()
    with pytest.raises(ConfigError, match=r"turn\.secret"):
        load(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"relay\.json"):
        load(path)


def test_a_secret_that_is_no_text_is_not_quoted(tmp_path: Path) -> None:
    path = _written(tmp_path)
    (tmp_path / "etc/turn.secret").write_bytes(b"hunter2 \xff")
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        load(path)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_an_endless_nest_is_one_line(tmp_path: Path) -> None:
    path = _written(tmp_path)
    path.write_text("[" * 60_000)
    with pytest.raises(ConfigError, match=r"relay\.json"):
        load(path)


def _standalone(**changes: Any) -> Any:
    words: dict[str, Any] = {
        "listen": "127.0.0.1:3478", "relay_ports": "40000-42000", "users": ["u:p:q"], "secrets": [],
        "realm": "lab", "allow_peers": ["127.0.0.0/8"],
    }  # fmt: skip
    return standalone(**{**words, **changes})


def test_standalone_words() -> None:
    config = _standalone()
    assert (config.address, config.turn_port, config.base) == ("127.0.0.1", 3478, None)
    assert config.users == (("u", "p:q"),)
    assert _standalone(listen="[::1]:3478").address == "::1"


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": "localhost:1"}, {"listen": "127.0.0.1"}, {"relay_ports": "5"}, {"users": ["nobody"]},
        {"users": []}, {"allow_peers": ["x"]}, {"listen": "0.0.0.0:3478"}, {"listen": "[::]:3478"},
    ],
)  # fmt: skip
def test_wrong_standalone_words_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        _standalone(**changes)
