"""What one relay is told: its file `etc/relay.json`, or the words of `commcli relay serve`."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Literal, NamedTuple, Optional, Sequence, Tuple, Union

from commcli.relay.mesh import budget
from commcli.relay.mesh.budget import Budget
from commcli.relay.table.signature import NAMESPACE


class ConfigError(Exception):
    """The configuration can not be used; the text is one line."""


class BadFile(ConfigError):
    """A file that the configuration names can not be read or used; the text begins with its path."""


class NotAUser(ConfigError):
    """A text is no NAME:PASSWORD."""


class RelayConfig(NamedTuple):
    """One relay's configuration. `turn_port` is UDP and, with `tcp`, TCP; the fleet's ports are UDP, `tls_port` and
    `metrics_port` TCP. `base` None: a plain TURN server.

    `address6` is the second family of a relay whose `address` is IPv4. Behind 1:1 NAT these are the public addresses,
    by which everything is named, and `bind_address`, `bind_address6` those that the machine has.

    Quotas count allocations; `None` is no limit. `workers` 0 means one a core. `drain_sessions`: a drained relay counts
    as empty at that many allocations.

    `users` are name -> password in the clear and `secrets` the shared secrets of time-limited users
    (`EXPIRY:name`); both only ever come from 0600 files or the operator's own command line. `revoked` are user ids
    (what stands after the colon) that are refused whatever they know.
    """

    node: str
    address: str
    turn_port: int
    relay_ports: Tuple[int, int]
    realm: str
    base: Optional[Path] = None
    overlay_port: Optional[int] = None
    stamp_port: Optional[int] = None
    metrics_port: Optional[int] = None
    allow_peers: Tuple[str, ...] = ()
    users: Tuple[Tuple[str, str], ...] = ()
    secrets: Tuple[str, ...] = ()
    faults: bool = False
    log_json: bool = False
    principal: str = NAMESPACE  # in whose name tables are signed, as etc/allowed_signers has it
    address6: Optional[str] = None
    tcp: bool = True
    tls_port: Optional[int] = None
    tls_certificate: Optional[Path] = None
    tls_key: Optional[Path] = None
    user_quota: Optional[int] = None
    total_quota: Optional[int] = None
    session_kbit_s: Optional[int] = None
    node_mbit_s: Optional[int] = None
    drain_sessions: int = 0
    workers: int = 1
    password_algorithms: Literal["auto", "md5", "always"] = "auto"
    revoked: FrozenSet[str] = frozenset()
    metrics_address: Optional[str] = None  # None: this machine alone can read the metrics
    control: Optional[Path] = None  # the control socket of a relay without a base folder
    bind_address: Optional[str] = None
    bind_address6: Optional[str] = None
    mesh: Budget = budget.USUAL

    def path(self, name: str) -> Path:
        """A file or folder of this relay under its base folder."""
        if self.base is None:
            raise ConfigError(f"{name}: a relay without a base folder has no files")
        return self.base / name

    @property
    def control_socket(self) -> Optional[Path]:
        return self.control if self.base is None else self.base / "run" / "control.sock"

    @property
    def addresses(self) -> Tuple[str, ...]:
        """Where it listens and relays, as others know it: one address a family."""
        return (self.address,) if self.address6 is None else (self.address, self.address6)

    @property
    def bound(self) -> Dict[str, str]:
        """Of an address of these that is not the machine's own: the one that its sockets are bound to."""
        pairs = ((self.address, self.bind_address), (self.address6, self.bind_address6))
        return {known: own for known, own in pairs if known is not None and own not in (None, known)}

    @property
    def own_addresses(self) -> Tuple[str, ...]:
        """Every address that leads to this machine."""
        return (*self.addresses, *self.bound.values())

    def bind_to(self, address: str) -> str:
        """The address that a socket named by `address` is bound to."""
        return self.bound.get(address, address)


# What a running relay can take up; everything else was bound or divided up at the start. (The content of a
# certificate's files counts for itself; the listener looks at it, and at none by another name.)
LIVE = frozenset({
    "allow_peers", "users", "secrets", "revoked", "user_quota", "total_quota", "session_kbit_s", "node_mbit_s",
    "drain_sessions", "password_algorithms", "mesh",
})  # fmt: skip


def changes(old: RelayConfig, new: RelayConfig) -> List[str]:
    """The names of the fields that differ, in order."""
    return [name for name in RelayConfig._fields if getattr(old, name) != getattr(new, name)]


def needing_restart(old: RelayConfig, new: RelayConfig) -> List[str]:
    """Those of the changes that a running relay can not take up."""
    return [name for name in changes(old, new) if name not in LIVE]


def live(old: RelayConfig, new: RelayConfig) -> RelayConfig:
    """`old` with what a running relay can take up of `new`: what is in force until a restart."""
    return old._replace(**{name: getattr(new, name) for name in LIVE})


_KEYS = {
    "schema", "node", "base", "address", "realm", "turn_port", "relay_ports", "overlay_port", "stamp_port",
    "metrics_port", "allow_peers", "faults", "log_json", "principal", "address6", "tcp", "tls_port", "tls_certificate",
    "tls_key", "user_quota", "total_quota", "session_kbit_s", "node_mbit_s", "drain_sessions", "workers",
    "password_algorithms", "metrics_address", "bind_address", "bind_address6",
    "mesh",
}  # fmt: skip
_REQUIRED = {"schema", "node", "base", "address", "realm", "turn_port", "relay_ports"}
PASSWORD_ALGORITHMS = ("auto", "md5", "always")
MOST_WORKERS = 256
LONGEST_REALM = 127  # RFC 8489 section 14.9


def load(path: Path) -> RelayConfig:
    """Read `etc/relay.json` and the users, secrets and revocations beside it. Raises ConfigError."""
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        config = _parse(raw)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    config = config._replace(
        users=_users(config.path("etc/turn.users")) or (),
        # One shared secret a line, so that an old and a new one hold at once during a rotation.
        secrets=read_lines(config.path("etc/turn.secret")),
        revoked=frozenset(read_lines(config.path("etc/turn.revoked"), absent=())),
    )
    return _usable(config)


def _parse(raw: Any) -> RelayConfig:
    if not isinstance(raw, dict):
        raise ConfigError("not a JSON object")
    unknown, missing = sorted(set(raw) - _KEYS), sorted(_REQUIRED - set(raw))
    if unknown or missing:
        raise ConfigError(
            "; ".join([f"unknown key {key!r}" for key in unknown] + [f"no {key!r}" for key in missing])
        )
    if raw["schema"] != 1:
        raise ConfigError(f"schema {raw['schema']!r} is not 1")
    return RelayConfig(
        node=str(raw["node"]),
        address=_address(raw["address"]),
        turn_port=_port(raw, "turn_port"),
        relay_ports=_port_range(raw["relay_ports"]),
        realm=_realm(raw["realm"]),
        base=None if raw["base"] is None else Path(raw["base"]),
        overlay_port=_optional_port(raw, "overlay_port"),
        stamp_port=_optional_port(raw, "stamp_port"),
        metrics_port=_optional_port(raw, "metrics_port"),
        allow_peers=_networks(raw.get("allow_peers", [])),
        faults=bool(raw.get("faults", False)),
        log_json=bool(raw.get("log_json", False)),
        principal=_principal(raw.get("principal", NAMESPACE)),
        metrics_address=None if raw.get("metrics_address") is None else _address(raw["metrics_address"]),
        mesh=_mesh(raw.get("mesh", {})),
        **_limits(raw),
        **_listeners(raw),
        **_bound(raw),
    )


def _limits(raw: Dict[str, Any]) -> Dict[str, Any]:
    """The numbers and words that may change while calls run, by field."""
    limits: Dict[str, Any] = {
        key: _count(raw, key, low=1)
        for key in ("user_quota", "total_quota", "session_kbit_s", "node_mbit_s")
        if raw.get(key) is not None
    }
    algorithms = raw.get("password_algorithms", "auto")
    if algorithms not in PASSWORD_ALGORITHMS:
        raise ConfigError(f"password_algorithms {algorithms!r} is none of {', '.join(PASSWORD_ALGORITHMS)}")
    workers = _count(raw, "workers", low=0) if "workers" in raw else 1
    if workers > MOST_WORKERS:
        raise ConfigError(f"workers {workers} are more than {MOST_WORKERS}")
    drain = _count(raw, "drain_sessions", low=0) if "drain_sessions" in raw else 0
    return {**limits, "password_algorithms": algorithms, "workers": workers, "drain_sessions": drain}


def _mesh(raw: Any) -> Budget:
    if not isinstance(raw, dict) or set(raw) - set(Budget._fields):
        raise ConfigError(f"mesh is not an object of {' and '.join(Budget._fields)}")
    most = budget.MOST._asdict()
    said = {word: _rate(f"mesh {word}", value, most[word]) for word, value in raw.items()}
    return budget.USUAL._replace(**said)


def _rate(key: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not budget.SMALLEST <= value <= most:
        raise ConfigError(f"{key} {value!r} is not a number from {budget.SMALLEST:g} to {most:g}")
    return float(value)


def _listeners(raw: Dict[str, Any]) -> Dict[str, Any]:
    """The second address, TCP and TLS, by field. Under a base folder the certificate has a place by itself."""
    address6 = None if raw.get("address6") is None else _address(raw["address6"])
    if address6 is not None and (":" not in address6 or ":" in raw["address"]):
        raise ConfigError(f"address6 {address6} beside {raw['address']}: not one IPv4 and one IPv6 address")
    tls_port = _optional_port(raw, "tls_port")
    if tls_port == raw["turn_port"]:
        raise ConfigError(f"tls_port {tls_port} is the TURN port")
    pair: Dict[str, Optional[Path]] = {
        key: None if raw.get(key) is None else Path(raw[key]) for key in ("tls_certificate", "tls_key")
    }
    if (pair["tls_certificate"] is None) != (pair["tls_key"] is None):
        raise ConfigError("tls_certificate and tls_key: one without the other")
    if tls_port is not None and pair["tls_key"] is None:
        if raw.get("base") is None:
            raise ConfigError("a TLS port needs a certificate and its key")
        folder = Path(raw["base"]) / "etc" / "tls"
        pair = {"tls_certificate": folder / "fullchain.pem", "tls_key": folder / "privkey.pem"}
    if tls_port is None and pair["tls_key"] is not None and raw.get("base") is None:
        raise ConfigError("a certificate and its key without a TLS port")
    return {"address6": address6, "tcp": _flag(raw, "tcp", True), "tls_port": tls_port, **pair}


def _bound(raw: Dict[str, Any]) -> Dict[str, Any]:
    """What is bound in place of the address and of the second one, by field."""
    found: Dict[str, Any] = {}
    for key in ("address", "address6"):
        own = None if raw.get(f"bind_{key}") is None else _address(raw[f"bind_{key}"])
        if own is not None and raw.get(key) is None:
            raise ConfigError(f"bind_{key} {own} without {key}")
        if own is not None and (":" in own) != (":" in raw[key]):
            raise ConfigError(f"bind_{key} {own} is not of the family of {raw[key]}")
        found[f"bind_{key}"] = own
    return found


def _usable(config: RelayConfig, files: Sequence[Path] = ()) -> RelayConfig:
    """`files`: where users and secrets might have stood."""
    if not config.users and not config.secrets:
        nobody = "no user and no secret: nobody could use this relay"
        raise BadFile(f"{', '.join(map(str, files))}: {nobody}") if files else ConfigError(nobody)
    return config


def _realm(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_REALM:
        raise ConfigError(f"realm: not a text of 1 to {LONGEST_REALM} characters")
    return value


def _principal(value: Any) -> str:
    if not isinstance(value, str) or not value or value.startswith("-") or not value.isprintable():
        raise ConfigError(f"principal {value!r} is not a name")
    return value


def _address(text: Any) -> str:
    """One address of this machine: it stands in every answer, and the own services behind it are guarded by it."""
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast or (address.version == 6 and address.ipv4_mapped):
        raise ConfigError(f"{address} is not the address of one machine")
    return str(address)


def _port(raw: Dict[str, Any], key: str) -> int:
    value = raw[key]
    if type(value) is not int or not 0 < value < 65536:  # True is an int, and no port
        raise ConfigError(f"{key} {value!r} is not a port")
    return value


def _count(raw: Dict[str, Any], key: str, *, low: int) -> int:
    value = raw[key]
    if type(value) is not int or value < low:
        raise ConfigError(f"{key} {value!r} is not a whole number from {low}")
    return value


def _flag(raw: Dict[str, Any], key: str, otherwise: bool) -> bool:
    value = raw.get(key, otherwise)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} {value!r} is neither true nor false")
    return value


def _optional_port(raw: Dict[str, Any], key: str) -> Optional[int]:
    return None if raw.get(key) is None else _port(raw, key)


def _port_range(value: Any) -> Tuple[int, int]:
    low, high = value
    if not 1024 <= low <= high < 65536:
        raise ConfigError(f"relay_ports {low}-{high}: not a range of ports above 1023")
    return int(low), int(high)


def _networks(values: List[str]) -> Tuple[str, ...]:
    return tuple(str(ipaddress.ip_network(value)) for value in values)


def read_lines(path: Path, absent: Optional[Tuple[str, ...]] = None) -> Tuple[str, ...]:
    """The lines of a file that are not empty; `absent` is what it means that there is no such file.

    Raises BadFile, whose text never quotes a line.
    """
    lines = _numbered(path)
    if lines is None:
        if absent is not None:
            return absent
        raise BadFile(f"{path}: {os.strerror(errno.ENOENT)}")
    return tuple(line for _, line in lines)


def _numbered(path: Path) -> Optional[List[Tuple[int, str]]]:
    """The lines that are not empty with their numbers, from 1; None if there is no such file. Raises BadFile."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadFile(f"{path}: is not UTF-8 text") from None  # the error itself would quote the secret
    # Not splitlines: a password may hold what Unicode takes for the end of a line.
    lines = enumerate(text.split("\n"), 1)
    return [(number, line.rstrip("\r")) for number, line in lines if line.strip()]


def _users(path: Path) -> Optional[Tuple[Tuple[str, str], ...]]:
    """One NAME:PASSWORD a line; None if there is no such file. Raises BadFile, which quotes none of them."""
    lines, found = _numbered(path), []
    if lines is None:
        return None
    for number, line in lines:
        try:
            found.append(_user(line))
        except NotAUser as error:
            raise BadFile(f"{path}:{number}: {error}") from None
    return tuple(found)


def standalone(
    *,
    listen: "Union[str, Sequence[str]]",
    external: Sequence[str] = (),
    relay_ports: str,
    users: Sequence[str] = (),
    secrets: Sequence[str] = (),
    realm: str,
    allow_peers: Sequence[str] = (),
    log_json: bool = False,
    users_file: Optional[Path] = None,
    secret_file: Optional[Path] = None,
    revoked_file: Optional[Path] = None,
    metrics: Optional[str] = None,
    control: Optional[Path] = None,
    **fields: Any,
) -> RelayConfig:
    """A plain TURN server: `listen` ADDRESS:PORT (or one a family), `relay_ports` LOW-HIGH, `users` NAME:PASSWORD.

    `external` are the addresses by which others know it, where they are not those of `listen` (1:1 NAT).
    `metrics` is [ADDRESS:]PORT. `fields` are further keys of relay.json, None as good as absent: `tcp`, `tls_port`,
    `tls_certificate`, `tls_key`, quotas, `workers`, `drain_sessions`, `password_algorithms`. Call it again to read
    the files again. Raises ConfigError, and of that BadFile for what stands in a file.
    """
    metrics_address, metrics_port = _metrics(metrics)
    raw = {
        "schema": 1, "node": "standalone", "base": None, "realm": realm, "relay_ports": _range_text(relay_ports),
        "allow_peers": allow_peers, "log_json": log_json, "metrics_port": metrics_port,
        "metrics_address": metrics_address, **_listening([listen] if isinstance(listen, str) else listen, external),
        **{key: value for key, value in fields.items() if value is not None},
    }  # fmt: skip
    try:
        config = _parse(raw)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    low, high = config.relay_ports
    if low <= config.turn_port <= high:
        raise ConfigError(f"relay_ports {low}-{high} contain the TURN port {config.turn_port}")
    config = config._replace(
        users=(*(_user(text) for text in users), *_users_of(users_file)),
        secrets=(*secrets, *_lines_of(secret_file)),
        revoked=frozenset(_lines_of(revoked_file)),
        control=control,
    )
    return _usable(config, [file for file in (users_file, secret_file) if file is not None])


def _users_of(path: Optional[Path]) -> Tuple[Tuple[str, str], ...]:
    found = () if path is None else _users(path)
    if found is None:
        raise BadFile(f"{path}: {os.strerror(errno.ENOENT)}")
    return found


def _lines_of(path: Optional[Path]) -> Tuple[str, ...]:
    return () if path is None else read_lines(path)


def _listening(listen: Sequence[str], external: Sequence[str]) -> Dict[str, Any]:
    """Addresses and `turn_port` of one or two ADDRESS:PORT, the second of the other family."""
    ends = sorted((_end(text) for text in listen), key=lambda end: ":" in end[0])
    if not 1 <= len(ends) <= 2:
        raise ConfigError("listen: one address a family")
    if len({port for _, port in ends}) > 1:
        raise ConfigError("listen: both addresses have the same port")
    found: Dict[str, Any] = {"turn_port": ends[0][1]}
    keys: Dict[bool, str] = {}  # by "is IPv6"
    for key, (address, _) in zip(("address", "address6"), ends):
        found[key] = address
        keys[":" in address] = key
    for known in map(_plain_address, external):
        if (":" in known) not in keys:
            raise ConfigError(f"external {known}: no listen address of its family is left for it")
        key = keys.pop(":" in known)
        found[f"bind_{key}"], found[key] = found[key], known
    return found


def _plain_address(text: str) -> str:
    try:
        return _address(text.strip("[]"))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _end(text: str) -> Tuple[str, int]:
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        raise ConfigError(f"{text!r} is not ADDRESS:PORT")
    return _plain_address(address), int(port)


def _metrics(text: Optional[str]) -> Tuple[Optional[str], Optional[int]]:
    """Of [ADDRESS:]PORT; without an address this machine alone can read them."""
    if text is None:
        return None, None
    return _end(f"127.0.0.1:{text}" if text.isdecimal() else text)


def _range_text(text: str) -> Tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal()):
        raise ConfigError(f"{text!r} is not LOW-HIGH")
    return int(low), int(high)


def _user(text: str) -> Tuple[str, str]:
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise NotAUser("a user is NAME:PASSWORD")
    return name, password
