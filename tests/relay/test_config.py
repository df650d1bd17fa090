from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.config import (
    LIVE,
    BadFile,
    ConfigError,
    RelayConfig,
    changes,
    live,
    load,
    needing_restart,
    standalone,
)

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
        ({"mesh": 5}, "mesh is not an object of packets_a_second and per_peer"),
        ({"mesh": {"packets": 5}}, "mesh is not an object of packets_a_second and per_peer"),
        ({"mesh": {"per_peer": True}}, "mesh per_peer True is not a number from 0.001 to 50"),
        ({"mesh": {"per_peer": 0}}, "mesh per_peer 0 is not a number from 0.001 to 50"),
        (
            {"mesh": {"packets_a_second": 1e9}},
            "mesh packets_a_second 1000000000.0 is not a number from 0.001 to 10000",
        ),
        ({"turn_port": 0}, "turn_port 0 is not a port"),
        ({"turn_port": "3478"}, "turn_port '3478' is not a port"),
        ({"relay_ports": [80, 90]}, "relay_ports 80-90"),
        ({"relay_ports": [42000, 40000]}, "relay_ports 42000-40000"),
        ({"allow_peers": ["10.0.0.1/8"]}, "host bits"),
        ({"turn_port": True}, "turn_port True is not a port"),
        ({"user_quota": 0}, "user_quota 0 is not a whole number from 1"),
        ({"total_quota": "10"}, "total_quota '10' is not a whole number"),
        ({"session_kbit_s": 1.5}, "session_kbit_s 1.5 is not"),
        ({"drain_sessions": -1}, "drain_sessions -1 is not a whole number from 0"),
        ({"workers": 1000}, "workers 1000 are more than 256"),
        ({"password_algorithms": "sha1"}, "password_algorithms 'sha1' is none of auto, md5, always"),
        ({"address6": "127.0.0.1"}, "address6 127.0.0.1 beside 127.77.0.3"),
        ({"address": "::1", "address6": "::2"}, "address6 ::2 beside ::1"),
        ({"tcp": "no"}, "tcp 'no' is neither true nor false"),
        ({"tls_port": 3478}, "tls_port 3478 is the TURN port"),
        ({"tls_port": 5349, "tls_key": "k"}, "one without the other"),
        ({"metrics_address": "localhost"}, "localhost"),
        ({"realm": ""}, "realm: not a text of 1 to 127 characters"),
        ({"realm": "x" * 128}, "realm: not a text of 1 to 127 characters"),
        ({"realm": 5}, "realm: not a text of 1 to 127 characters"),
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


def test_the_users_and_revocations_beside_it(tmp_path: Path) -> None:
    path = _written(tmp_path)
    assert load(path).revoked == frozenset()
    (tmp_path / "etc/turn.users").write_text("anna:p:q\r\n\nboris:x\u2028y\n", newline="")
    (tmp_path / "etc/turn.revoked").write_text("mallory\n")
    assert load(path).users == (("anna", "p:q"), ("boris", "x\u2028y"))
    assert load(path).revoked == {"mallory"}
    (tmp_path / "etc/turn.users").write_text("anna:p\n\nhunter2\n")
    with pytest.raises(BadFile, match=r"turn\.users:3: a user is NAME:PASSWORD") as caught:
        load(path)
    assert "hunter2" not in str(caught.value)


def test_a_relay_that_nobody_could_use_is_no_configuration(tmp_path: Path) -> None:
    path = _written(tmp_path)
    (tmp_path / "etc/turn.secret").write_text("\n")  # as a writer that broke off leaves it
    with pytest.raises(ConfigError, match="no user and no secret"):
        load(path)


def test_what_an_older_controller_wrote_means_what_it_meant(tmp_path: Path) -> None:
    config = load(_written(tmp_path))
    assert (config.tcp, config.tls_port, config.workers, config.password_algorithms) == (
        True,
        None,
        1,
        "auto",
    )
    assert (config.user_quota, config.total_quota, config.session_kbit_s, config.node_mbit_s) == (None,) * 4


def test_the_certificate_of_a_fleet_relay_has_its_place(tmp_path: Path) -> None:
    config = load(_written(tmp_path, tls_port=5349))
    assert config.tls_certificate == tmp_path / "etc/tls/fullchain.pem"
    assert config.tls_key == tmp_path / "etc/tls/privkey.pem"


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
    config = _standalone(realm="x" * 127)
    assert len(config.realm) == 127
    assert _standalone(relay_ports="3479-4000").relay_ports == (3479, 4000)
    assert (config.address, config.turn_port, config.base) == ("127.0.0.1", 3478, None)
    assert config.users == (("u", "p:q"),)
    assert _standalone(listen="[::1]:3478").address == "::1"


def test_standalone_takes_one_address_a_family_in_any_order() -> None:
    config = _standalone(listen=["[::1]:3478", "127.0.0.1:3478"])
    assert config.addresses == ("127.0.0.1", "::1")


def test_standalone_limits_and_listeners(tmp_path: Path) -> None:
    config = _standalone(
        tcp=False,
        tls_port=5349,
        tls_certificate=tmp_path / "c",
        tls_key=tmp_path / "k",
        user_quota=4,
        total_quota=None,
        workers=0,
        metrics="9478",
        control=tmp_path / "control.sock",
    )
    assert (config.tcp, config.tls_port, config.user_quota, config.total_quota) == (False, 5349, 4, None)
    assert (config.workers, config.metrics_address, config.metrics_port) == (0, "127.0.0.1", 9478)
    assert config.control_socket == tmp_path / "control.sock"
    assert _standalone(metrics="192.0.2.1:9478").metrics_address == "192.0.2.1"


def test_standalone_reads_its_files_each_time(tmp_path: Path) -> None:
    users, revoked = tmp_path / "users", tmp_path / "revoked"
    users.write_text("a:1\n")
    revoked.write_text("")
    words = {"users": [], "users_file": users, "revoked_file": revoked}
    assert _standalone(**words).users == (("a", "1"),)
    users.write_text("a:2\n")
    revoked.write_text("b\n")
    assert _standalone(**words).users == (("a", "2"),)
    assert _standalone(**words).revoked == {"b"}
    users.write_bytes(b"a:\xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        _standalone(**words)


@pytest.mark.parametrize(
    ("option", "content", "says"),
    [
        ("users_file", None, "{}: No such file or directory"),
        ("users_file", b"a:1\r\n \n\nhunter2\n", "{}:4: a user is NAME:PASSWORD"),
        ("users_file", b"a:\xff\n", "{}: is not UTF-8 text"),
        ("users_file", b"\n", "{}: no user and no secret: nobody could use this relay"),
        ("secret_file", None, "{}: No such file or directory"),
        ("secret_file", b"\n", "{}: no user and no secret: nobody could use this relay"),
        ("revoked_file", None, "{}: No such file or directory"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_from_wrong_words(
    tmp_path: Path, option: str, content: bytes | None, says: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadFile) as caught:
        _standalone(users=["u:p"] if option == "revoked_file" else [], **{option: file})
    assert str(caught.value) == says.format(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": ["127.0.0.1:1", "127.0.0.2:1"]}, {"listen": ["127.0.0.1:1", "[::1]:2"]}, {"listen": []},
        {"listen": "127.0.0.1:70000"}, {"tls_port": 5349}, {"metrics": "x"}, {"metrics": "0"}, {"colour": "red"},
        {"listen": "localhost:1"}, {"listen": "127.0.0.1"}, {"relay_ports": "5"}, {"users": ["nobody"]},
        {"users": []}, {"allow_peers": ["x"]}, {"listen": "0.0.0.0:3478"}, {"listen": "[::]:3478"},
        {"realm": ""}, {"relay_ports": "3478-4000"}, {"relay_ports": "3000-3478"}, {"tls_key": Path("k")},
        {"tls_certificate": Path("c"), "tls_key": Path("k")},
    ],
)  # fmt: skip
def test_wrong_standalone_words_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        _standalone(**changes)
    assert not isinstance(caught.value, BadFile)


def test_what_a_running_relay_takes_up_and_what_waits() -> None:
    assert set(RelayConfig._fields) > LIVE
    old = _standalone()
    new = _standalone(users=["u:new"], user_quota=3, listen="127.0.0.1:9999")
    assert changes(old, new) == ["turn_port", "users", "user_quota"]
    assert needing_restart(old, new) == ["turn_port"]
    assert changes(old, live(old, new)) == ["users", "user_quota"]
    assert live(old, new).users == (("u", "new"),)
    assert "mesh" in LIVE
