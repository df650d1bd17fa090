from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.clients.tls import CIPHERS, Certificates, Session, TlsError, check, not_after_unix
from commcli.relay.config import BadFile
from tests.relay.stream_world import BINDING, TlsClient, World, tls_context, write_pair


class Lines:
    """A log that keeps (event, reason)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.lines.append((event, str(fields.get("reason", ""))))


@pytest.fixture
def log() -> Lines:
    return Lines()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def shaken(context: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Session, ssl.SSLObject]:
    """A session and its client after the handshake, no socket between them."""
    session = Session(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = client.wrap_bio(incoming, outgoing, server_hostname="relay.example")
    done = False
    for _ in range(5):
        try:
            other.do_handshake()
            finished = True
        except ssl.SSLWantReadError:
            finished = False
        data = outgoing.read()
        done = done or session.handshake(data)
        incoming.write(session.outgoing())
        if done and finished:
            return session, other
    raise AssertionError("no handshake")


def test_a_session_carries_both_ways(tmp_path: Path, log: Lines) -> None:
    chain, key = write_pair(tmp_path)
    certificates = Certificates(chain, key, log)
    assert certificates.context is not None
    session, _ = shaken(certificates.context, tls_context(ca=chain))
    assert session.agreed == ("TLSv1.3", None)
    assert session.receive() == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_forward_secrecy_and_authenticated_encryption(
    tmp_path: Path, log: Lines, version: ssl.TLSVersion
) -> None:
    context = Certificates(*write_pair(tmp_path), log).context
    assert context is not None
    _, client = shaken(context, tls_context(version))
    cipher = client.cipher()
    assert cipher is not None
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]
    assert client.compression() is None
    assert all(row["kea"] in ("kx-ecdhe", "kx-any") and row["aead"] for row in context.get_ciphers()), CIPHERS


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_older_than_tls_1_2_is_refused(tmp_path: Path, log: Lines) -> None:
    context = Certificates(*write_pair(tmp_path), log).context
    assert context is not None
    old = tls_context(ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(TlsError):
        shaken(context, old)


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        (None, None),
        (["stun.turn"], "stun.turn"),
        (["stun.nat-discovery"], "stun.nat-discovery"),
        (["h2", "stun.turn"], "stun.turn"),
        (["webrtc"], None),
    ],
)
def test_alpn_is_agreed_where_it_can_be_and_never_needed(
    tmp_path: Path, log: Lines, offered: list[str] | None, agreed: str | None
) -> None:
    context = Certificates(*write_pair(tmp_path), log).context
    assert context is not None
    session, _ = shaken(context, tls_context(alpn=offered))
    assert session.agreed == ("TLSv1.3", agreed)


@given(junk=st.binary(max_size=300))
def test_junk_gives_a_tls_error_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    session = Session(_any_context(tmp_path_factory))
    try:
        assert not session.handshake(junk)
        assert not session.handshake(junk)
    except TlsError:
        session.outgoing()


_contexts: list[ssl.SSLContext] = []


def _any_context(factory: pytest.TempPathFactory) -> ssl.SSLContext:
    if not _contexts:
        context = Certificates(*write_pair(factory.mktemp("pair")), Lines()).context
        assert context is not None
        _contexts.append(context)
    return _contexts[0]


# --- the files -----------------------------------------------------------------------------------------------------


def test_expiry_is_read_from_the_certificate(tmp_path: Path, log: Lines) -> None:
    for not_after in (
        datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),  # the last UTCTime
        datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC),  # the first GeneralizedTime
    ):
        certificates = Certificates(*write_pair(tmp_path, not_after=not_after), log)
        assert certificates.not_after_unix() == not_after.timestamp()


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_broken_certificate_has_no_expiry_or_some(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    if not _pem:
        chain, _ = write_pair(tmp_path_factory.mktemp("der"))
        _pem.append(ssl.PEM_cert_to_DER_cert(chain.read_text()))
    der = bytearray(_pem[0])
    der[at % len(der)] = byte
    found = not_after_unix(ssl.DER_cert_to_PEM_cert(bytes(der[: len(der) - at % 7])))
    assert found is None or isinstance(found, float)


_pem: list[bytes] = []


def test_text_without_a_certificate_has_no_expiry() -> None:
    assert not_after_unix("") is None
    assert not_after_unix("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----") is None


def test_the_pair_may_come_later(tmp_path: Path, log: Lines) -> None:
    certificates = Certificates(tmp_path / "tls" / "fullchain.pem", tmp_path / "tls" / "privkey.pem", log)
    assert (certificates.context, certificates.not_after_unix()) == (None, None)
    assert certificates.refused == "fullchain.pem: No such file or directory"
    assert not certificates.poll()
    assert not certificates.poll()
    write_pair(tmp_path / "tls")
    assert certificates.poll()
    assert certificates.context is not None
    assert certificates.refused is None
    # Said once, however often it is looked at.
    assert [event for event, _ in log.lines] == ["tls_refused", "tls_certificate"]


def test_an_unchanged_pair_is_not_read_again(tmp_path: Path, log: Lines) -> None:
    certificates = Certificates(*write_pair(tmp_path), log)
    context = certificates.context
    assert not certificates.poll()
    assert certificates.context is context
    assert certificates.reload()  # asked for by name, it is
    assert certificates.context is not context


def _wrong_pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Each time it goes on the files of the folder are another wrong pair."""
    chain, key = folder / "fullchain.pem", folder / "privkey.pem"
    good, other = key.read_bytes(), folder / "other"
    write_pair(other)
    key.write_bytes((other / "privkey.pem").read_bytes())
    yield "another's key", "key values mismatch"
    key.write_bytes(good)
    chain.write_bytes(b"junk")
    yield "junk", "fullchain.pem, privkey.pem: "
    chain.write_bytes(b"")
    yield "empty", "fullchain.pem, privkey.pem: "
    _, encrypted = write_pair(other, password=b"secret")
    chain.write_bytes((other / "fullchain.pem").read_bytes())
    key.write_bytes(encrypted.read_bytes())
    yield "encrypted", "the key is encrypted"
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    write_pair(folder, not_after=past)
    yield "expired", f"expired on {past:%Y-%m-%d}"
    key.unlink()
    yield "no key", "privkey.pem: No such file"
    os.mkfifo(key)
    yield "a pipe for a key", "privkey.pem: not a PEM file"


def test_a_wrong_pair_leaves_the_old_one_in_force(tmp_path: Path, log: Lines) -> None:
    certificates = Certificates(*write_pair(tmp_path), log)
    context, not_after = certificates.context, certificates.not_after_unix()
    for name, reason in _wrong_pairs(tmp_path):
        assert not certificates.poll(), name
        assert not certificates.reload(), name
        assert certificates.context is context, name
        assert certificates.not_after_unix() == not_after, name
        assert reason in (certificates.refused or ""), name
        assert log.lines[-1] == ("tls_refused", certificates.refused)
    (tmp_path / "privkey.pem").unlink()
    write_pair(tmp_path)
    assert certificates.poll()
    assert certificates.context is not context


def test_at_the_start_a_wrong_pair_is_told_by_its_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(*write_pair(tmp_path))
    chain, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    both = f"{chain}, {key}: "
    says = {
        "another's key": both + "key values mismatch",
        "junk": both + "not a certificate and its key",
        "empty": both + "not a certificate and its key",
        "encrypted": both + "the key is encrypted",
        "no key": f"{key}: No such file or directory",
        "a pipe for a key": f"{key}: not a PEM file",
    }
    for name, _ in _wrong_pairs(tmp_path):
        if name == "expired":  # better than none
            check(chain, key)
            continue
        with pytest.raises(BadFile) as caught:
            check(chain, key)
        assert str(caught.value) == says.pop(name)
    assert not says
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadFile, match=f"^{tmp_path}/typo: No such file or directory$"):
        check(Path("typo"), key)


def test_an_expired_pair_is_better_than_none(tmp_path: Path, log: Lines) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    assert Certificates(*write_pair(tmp_path, not_after=past), log).context is not None


def test_no_secret_is_logged(tmp_path: Path, log: Lines) -> None:
    chain, key = write_pair(tmp_path)
    Certificates(key, chain, log)  # the wrong way round
    assert log.lines
    assert "PRIVATE" not in str(log.lines)


def test_a_renewal_is_for_new_handshakes_and_old_connections_live_on(
    tmp_path: Path, log: Lines, world: World
) -> None:
    chain, key = write_pair(tmp_path)
    certificates = Certificates(chain, key, log)
    world.serve_tls(certificates)
    before = tls_context(ca=chain)
    old = TlsClient(world, world.connect(world.tls), before).shake()
    assert old.exchange(BINDING) == BINDING
    write_pair(tmp_path)
    assert certificates.poll()
    after = tls_context(ca=chain)
    new = TlsClient(world, world.connect(world.tls), after).shake()
    assert new.exchange(BINDING) == BINDING
    assert old.exchange(BINDING) == BINDING
    with pytest.raises(ssl.SSLCertVerificationError):
        TlsClient(world, world.connect(world.tls), before).shake()


def test_without_a_certificate_clients_are_turned_away_until_there_is_one(
    tmp_path: Path, log: Lines, world: World
) -> None:
    certificates = Certificates(tmp_path / "fullchain.pem", tmp_path / "privkey.pem", log)
    world.serve_tls(certificates)
    world.connect(world.tls)
    world.until(lambda: world.drops["tcp_no_certificate"] == 1)
    assert world.figure("open") == 0
    write_pair(tmp_path)
    certificates.poll()
    assert TlsClient(world, world.connect(world.tls)).shake().exchange(BINDING) == BINDING
