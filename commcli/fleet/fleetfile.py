"""fleet.yaml: the fleet's name, and what holds for all of it: SSH, signing, TLS, the mesh, where the secrets are."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TypedDict, cast, get_args

from commcli.fleet.countries import COUNTRIES
from commcli.fleet.model import (
    GEOIP_NETWORKS,
    LAST_MILE_DAYS,
    LAST_MILE_SAMPLES,
    PROBE_KBIT_S,
    GeoIp,
    LastMile,
    Media,
    Signing,
    SshDefaults,
)
from commcli.fleet.record import Record
from commcli.fleet.secrets import SecretRef
from commcli.fleet.yamlfile import YamlMap, kind_of
from commcli.relay.mesh.budget import MOST, SMALLEST, USUAL, Budget
from commcli.relay.table.prefixes import MAX_PREFIXES
from commcli.relay.table.shard import MAX_PROBE_KBIT_S

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WAYS = ("file", "env", "command")


class FleetSettings(TypedDict):
    """The part of Fleet that fleet.yaml holds."""

    name: str
    production: bool
    realm: str
    secrets: dict[str, SecretRef]
    signing: Signing
    ssh: SshDefaults
    tls_ca: Path | None
    mesh: Budget
    probe_kbit_s: int
    media: Media
    store_country: str | None
    geoip: GeoIp | None
    last_mile: LastMile | None


def read_fleet_file(record: Record, folder: Path) -> FleetSettings:
    """Relative paths in it are relative to `folder`, whoever calls from wherever; `~` is the caller's home."""
    name = record.text("name")
    return {
        "name": name,
        "production": record.flag_or("production", False),
        "realm": record.text_or("realm", name),
        "secrets": _secrets(record.section("secrets"), folder),
        "signing": _signing(record.section("signing"), folder),
        "ssh": _ssh(record.section("ssh"), folder),
        "tls_ca": _tls_ca(record.section("tls"), folder),
        "mesh": _mesh(record.section("mesh")),
        "probe_kbit_s": _probe_kbit_s(record.section("overlay")),
        "media": _media(record.section("routing")),
        "store_country": _store_country(record.section("store")),
        "geoip": _geoip(record.section("geoip"), folder) if record.has("geoip") else None,
        "last_mile": _last_mile(record.section("last_mile"), folder) if record.has("last_mile") else None,
    }


def _path(folder: Path, text: str) -> Path:
    # Path.expanduser raises where there is no such user; so the path stays, and is found to be missing.
    return (folder / os.path.expanduser(text)).absolute()  # noqa: PTH111


def _path_or_none(record: Record, key: str, folder: Path) -> Path | None:
    text = record.text_or(key, None)
    return None if text is None else _path(folder, text)


def _signing(record: Record, folder: Path) -> Signing:
    signing = Signing(
        signers=_path(folder, record.text("signers")),
        key=_path_or_none(record, "key", folder),
        agent=record.flag_or("agent", False),
        principal=record.text_or("principal", "commcli-table"),
    )
    record.finish()
    return signing


def _tls_ca(record: Record, folder: Path) -> Path | None:
    ca = _path_or_none(record, "ca", folder)
    record.finish()
    return ca


def _geoip(record: Record, folder: Path) -> GeoIp:
    networks = record.integer_or("networks", GEOIP_NETWORKS, 1, MAX_PREFIXES)
    geoip = GeoIp(_path(folder, record.text("database")), networks)
    record.finish()
    return geoip


def _last_mile(record: Record, folder: Path) -> LastMile:
    samples = record.integer_or("samples", LAST_MILE_SAMPLES, 1, 1_000_000)
    days = record.integer_or("days", LAST_MILE_DAYS, 1, 366)
    last_mile = LastMile(_path(folder, record.text("file")), samples, days)
    record.finish()
    return last_mile


def _probe_kbit_s(record: Record) -> int:
    rate = record.integer_or("probe_kbit_s", PROBE_KBIT_S, 0, MAX_PROBE_KBIT_S)
    record.finish()
    return rate


def _store_country(record: Record) -> str | None:
    country = record.word_or("country", None, COUNTRIES, "country")
    record.finish()
    return country


def _media(record: Record) -> Media:
    media = record.word_or("media", "audio", get_args(Media), "class of media")
    record.finish()
    return cast(Media, media)


def _mesh(record: Record) -> Budget:
    said = {
        word: record.number_or(word, usual, SMALLEST, most)
        for word, usual, most in zip(Budget._fields, USUAL, MOST, strict=True)
    }
    record.finish()
    return Budget(**said)


def _ssh(record: Record, folder: Path) -> SshDefaults:
    default = SshDefaults(known_hosts=_path(folder, record.text("known_hosts")))
    ssh = SshDefaults(
        known_hosts=default.known_hosts,
        identities=tuple(_path(folder, text) for text in record.texts("identities")),
        agent=record.flag_or("agent", default.agent),
        config=_path_or_none(record, "config", folder),
        connect_timeout_s=record.number_or("connect_timeout_s", default.connect_timeout_s, 0.1, 600),
        login_timeout_s=record.number_or("login_timeout_s", default.login_timeout_s, 0.1, 600),
        parallel=record.integer_or("parallel", default.parallel, 1, 10_000),
    )
    record.finish()
    return ssh


def _secrets(record: Record, folder: Path) -> dict[str, SecretRef]:
    return {key: _secret(record, key, value, line, folder) for key, value, line in record.items()}


def _secret(record: Record, key: str, value: object, line: int, folder: Path) -> SecretRef:
    # Nothing here quotes a value or an inner key: either may be the secret that should not have been written.
    if not isinstance(value, YamlMap):
        if isinstance(value, str | int | float):
            record.problem(
                f"{key} stands here in the clear; {_HOW}, and consider it known to others", line=line
            )
        else:
            record.problem(f"{key} must say where the secret is: {_HOW}", line=line)
        return SecretRef(name=key)
    way, place = next(iter(value.items()), ("", None))
    if len(value) != 1 or way not in _WAYS:
        record.problem(f"{key} must have exactly one key: {_HOW}", line=line)
        return SecretRef(name=key)
    if way == "command":
        return SecretRef(name=key, command=_command(record, key, place, line))
    if not isinstance(place, str) or not place.strip():
        record.problem(f"{key}: {way} must be text, not {kind_of(place)}", line=line)
        return SecretRef(name=key)
    if way == "file":
        return SecretRef(name=key, file=_path(folder, place))
    if not _ENV_NAME.match(place):
        record.problem(f"{key}: env must be the name of an environment variable", line=line)
    return SecretRef(name=key, env=place)


_HOW = "write {file: …}, {env: …} or {command: …}"


def _command(record: Record, key: str, value: object, line: int) -> tuple[str, ...]:
    """A list of arguments, or one line that is split like a shell would (but no shell will run it)."""
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError:
        record.problem(f"{key}: command has an open quote", line=line)
        return ()
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return tuple(words)
    record.problem(f"{key}: command must be a command line, or a list of texts", line=line)
    return ()
