"""What one relay is told: its file `etc/relay.json`, or the words of `commcli relay serve`."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from commcli.relay.signature import NAMESPACE


class ConfigError(Exception):
    """The configuration can not be used; the text is one line."""


class RelayConfig(NamedTuple):
    """One relay's configuration. Ports are UDP, `metrics_port` TCP. `base` None: a plain TURN server.

    `users` are name -> password in the clear and `secrets` the shared secrets of time-limited users
    (`EXPIRY:name`); both only ever come from 0600 files or the operator's own command line.
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

    def path(self, name: str) -> Path:
        """A file or folder of this relay under its base folder."""
        if self.base is None:
            raise ConfigError(f"{name}: a relay without a base folder has no files")
        return self.base / name

    @property
    def control_socket(self) -> Optional[Path]:
        return None if self.base is None else self.base / "run" / "control.sock"


_KEYS = {
    "schema", "node", "base", "address", "realm", "turn_port", "relay_ports", "overlay_port", "stamp_port",
    "metrics_port", "allow_peers", "faults", "log_json", "principal",
}  # fmt: skip
_REQUIRED = {"schema", "node", "base", "address", "realm", "turn_port", "relay_ports"}


def load(path: Path) -> RelayConfig:
    """Read `etc/relay.json` and the TURN secrets beside it. Raises ConfigError."""
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        config = _parse(raw)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return config._replace(secrets=_read_secrets(config.path("etc/turn.secret")))


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
        realm=str(raw["realm"]),
        base=Path(raw["base"]),
        overlay_port=_optional_port(raw, "overlay_port"),
        stamp_port=_optional_port(raw, "stamp_port"),
        metrics_port=_optional_port(raw, "metrics_port"),
        allow_peers=_networks(raw.get("allow_peers", [])),
        faults=bool(raw.get("faults", False)),
        log_json=bool(raw.get("log_json", False)),
        principal=_principal(raw.get("principal", NAMESPACE)),
    )


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
    if not isinstance(value, int) or not 0 < value < 65536:
        raise ConfigError(f"{key} {value!r} is not a port")
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


def _read_secrets(path: Path) -> Tuple[str, ...]:
    """One shared secret a line, so that an old and a new one hold at once during a rotation."""
    try:
        return tuple(line for line in path.read_text("utf-8").split("\n") if line.strip())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None  # the error itself would quote the secret


def standalone(
    *,
    listen: str,
    relay_ports: str,
    users: List[str],
    secrets: List[str],
    realm: str,
    allow_peers: List[str],
    log_json: bool = False,
) -> RelayConfig:
    """A plain TURN server: `listen` ADDRESS:PORT, `relay_ports` LOW-HIGH, `users` NAME:PASSWORD.

    Raises ConfigError.
    """
    address, _, port = listen.rpartition(":")
    try:
        low, _, high = relay_ports.partition("-")
        config = RelayConfig(
            node="standalone",
            address=_address(address.strip("[]")),
            turn_port=_port({"port": int(port)}, "port"),
            relay_ports=_port_range((int(low), int(high))),
            realm=realm,
            allow_peers=_networks(allow_peers),
            users=tuple(_user(text) for text in users),
            secrets=tuple(secrets),
            log_json=log_json,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not config.users and not config.secrets:
        raise ConfigError("no user and no secret: nobody could use this relay")
    return config


def _user(text: str) -> Tuple[str, str]:
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise ConfigError("a user is NAME:PASSWORD")
    return name, password
