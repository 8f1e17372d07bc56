"""Certificates and keys in PEM: loaded exactly as they were read, or refused."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from edm.errors import KeyFileError
from edm.files.pem import PEM_MAX, EncryptedKeyError, load_pair, read_pem
from support.pki import Authority, Pair, key_pem


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.client()


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def contents(pair: Pair) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return tuple((str(path), read_pem("a-key", str(path))) for path in (pair.cert, pair.key))  # type: ignore[return-value]


def test_a_chain_that_was_cut_off_is_refused(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """Its first certificate is whole, so the libraries would take it for the whole chain."""
    whole = pair.cert.read_bytes() + authority.ca.read_bytes()
    path = tmp_path / "chain.pem"
    path.write_bytes(whole)
    assert read_pem("a-key", str(path)) == whole
    beginning = len(pair.cert.read_bytes()) + len("-----BEGIN ")
    for cut in (beginning, beginning + 100, len(whole) - 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(KeyFileError, match=rf"^a-key: {path}: .*ends within a block$"):
            read_pem("a-key", str(path))


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.pem"
    with path.open("wb") as file:
        file.truncate(PEM_MAX + 1)
    with pytest.raises(KeyFileError, match=r"^a-key: .*large\.pem: 4,194,305 bytes are more than"):
        read_pem("a-key", str(path))


def test_what_is_used_is_what_was_read(authority: Authority, pair: Pair) -> None:
    chain, key = contents(pair)
    pair.cert.unlink()
    os.mkfifo(pair.cert)  # which would be waited for
    pair.key.write_bytes(b"")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    load_pair(context(), chain, key)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_without_proc_the_files_themselves_are_used(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, key = contents(pair)
    monkeypatch.setattr("edm.files.pem.os.access", lambda path, mode: False)
    load_pair(context(), chain, key)
    pair.key.unlink()
    with pytest.raises(FileNotFoundError):
        load_pair(context(), chain, key)


def test_a_key_that_does_not_fit(authority: Authority, pair: Pair) -> None:
    chain, _ = contents(pair)
    _, other = contents(authority.client())
    with pytest.raises(ssl.SSLError, match=r"KEY_VALUES_MISMATCH|key values mismatch"):
        load_pair(context(), chain, other)


def test_an_encrypted_key_asks_nobody(pair: Pair) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    chain, (path, _) = contents(pair)
    with pytest.raises(EncryptedKeyError):
        load_pair(
            context(), chain, (path, key_pem(ec.generate_private_key(ec.SECP256R1()), password=b"secret"))
        )
