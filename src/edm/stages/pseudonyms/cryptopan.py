"""Crypto-PAn: prefix-preserving pseudonyms of IP addresses, made in bulk and kept in a cache per worker.

Jun Xu, Jinliang Fan, Mostafa Ammar, Sue Moon: Prefix-Preserving IP Address Anonymization: Measurement-based
Security Evaluation and a New Cryptography-based Scheme (ICNP 2002).

Bit ``i`` of a pseudonym is bit ``i`` of the address XOR the first bit of ``AES(first i bits | pad)``. The
blocks of one address do not depend on each other, nor do those of different addresses: all new addresses of a
batch are laid out, encrypted by one call into OpenSSL per buffer, and folded back.
"""

from __future__ import annotations

import itertools
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from edm.errors import ConfigError
from edm.kernel.columns import I64Array, U8Array, U32Array, U64Array
from edm.stages.pseudonyms import kernels as k
from edm.stages.pseudonyms import lookup as lk
from edm.stages.pseudonyms.contract import Counts
from edm.stages.pseudonyms.tables import rehash

SECRET_BYTES = 32
SALT_MIN_BYTES = 8

_FIRST_SLOTS = 1024
_CHUNK_BLOCKS = 8192  # 128 KiB of AES input and as much output: both stay in the L2 cache
_UNBOUNDED = 1 << 62

_identities = itertools.count(1)


def derive_key(key: str, salt: str) -> bytes:
    """Derive the 32-byte Crypto-PAn secret with Argon2id (RFC 9106).

    Parameters
    ----------
    key, salt : the configured ``cryptopan-key`` and ``cryptopan-key-salt``; their UTF-8 bytes are used

    Raises
    ------
    ConfigError
        The salt has fewer than 8 bytes.
    """
    salt_bytes = salt.encode()
    if len(salt_bytes) < SALT_MIN_BYTES:
        raise ConfigError(
            f"cryptopan-key-salt: {len(salt_bytes)} bytes, but Argon2id needs at least {SALT_MIN_BYTES}"
        )
    argon2 = Argon2id(salt=salt_bytes, length=SECRET_BYTES, iterations=1, lanes=4, memory_cost=64 * 1024)
    return argon2.derive(key.encode())


def _encrypt_in_ecb_mode(key: bytes) -> Cipher[modes.ECB]:
    # Crypto-PAn uses AES as a pseudorandom function on single blocks: no mode that chains them is wanted.
    return Cipher(algorithms.AES(key), modes.ECB())


class Pseudonymiser:
    """The key of the pseudonyms. Immutable; a snapshot holds it, and each worker makes its cache from it.

    It is the :class:`edm.stages.pseudonyms.contract.Pseudonyms` of this program, its cache the ``Maker``.
    A cache belongs to one pseudonymiser for good, so under a new key all caches are new.

    Parameters
    ----------
    secret : 32 bytes: the AES-128 key and the plain text of the pad
    entries : addresses that one worker's cache holds at most; 0 switches caching off

    Attributes
    ----------
    identity : a number that no other pseudonymiser of this process has
    entries : as given
    """

    __slots__ = ("_key", "_pad", "entries", "identity")

    def __init__(self, secret: bytes, entries: int) -> None:
        if len(secret) != SECRET_BYTES:
            raise ConfigError(f"Crypto-PAn secret: {len(secret)} bytes instead of {SECRET_BYTES}")
        if entries < 0:
            raise ConfigError(f"cryptopan-address-entries: {entries} is negative")
        self._key = secret[:16]
        self._pad = _encrypt_in_ecb_mode(self._key).encryptor().update(secret[16:])
        self.entries = entries
        self.identity = next(_identities)

    def __repr__(self) -> str:
        return f"Pseudonymiser(identity={self.identity}, entries={self.entries})"

    def new_cache(self) -> PseudonymCache:
        """Return an empty cache for the use of one worker."""
        return PseudonymCache(self, self._key, self._pad)


class PseudonymCache:
    """The pseudonyms that one worker has made under one key. Not for use by two threads at once.

    Attributes
    ----------
    pseudonymiser : the :class:`Pseudonymiser` whose key is used
    """

    def __init__(self, pseudonymiser: Pseudonymiser, key: bytes, pad: bytes) -> None:
        self.pseudonymiser = pseudonymiser
        self._encryptor = _encrypt_in_ecb_mode(key).encryptor()
        bits = np.arange(128)
        kept = np.packbits(bits[None, :] < bits[:, None], axis=1)
        self._keep: U64Array = kept.view(np.uint64).reshape(-1).copy()
        self._pad: U64Array = (~kept & np.frombuffer(pad, np.uint8)).view(np.uint64).reshape(-1).copy()
        self._plain: U64Array = np.empty(2 * _CHUNK_BLOCKS, np.uint64)
        # update_into wants room for one block more than it writes.
        self._cipher: U8Array = np.empty(16 * _CHUNK_BLOCKS + 16, np.uint8)
        self._seed: U64Array = np.frombuffer(os.urandom(24), np.uint64) | np.array([0, 1, 1], np.uint64)
        self._keys: U64Array = np.zeros((3, lk.WINDOW), np.uint64)
        self._sizes: I64Array = np.zeros(lk.N_LISTS, np.int64)
        self._state = np.zeros(k.N_STATE, np.int64)
        self._state[k.BOUND] = pseudonymiser.entries or _UNBOUNDED
        self._small: U64Array = np.zeros((_FIRST_SLOTS, 1), np.uint64)
        self._small_marks: U8Array = np.zeros(_FIRST_SLOTS, np.uint8)
        self._large: U64Array = np.zeros((_FIRST_SLOTS, 4), np.uint64)
        self._large_marks: U8Array = np.zeros(_FIRST_SLOTS, np.uint8)
        self._set_limits()
        self._make_lists(0)

    def _make_lists(self, rows: int) -> None:
        self._fresh: U64Array = np.empty((k.N_FRESH_FIELDS, 2 * rows), np.uint64)
        self._orders: U32Array = np.empty((2, 2 * rows), np.uint32)
        self._waiting: U32Array = np.empty((2, 2 * rows), np.uint32)
        self._lists: U32Array = np.empty((lk.N_LISTS, rows + 1), np.uint32)

    def __len__(self) -> int:
        return int(self._state[k.SMALL_COUNT] + self._state[k.LARGE_COUNT])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tables take."""
        tables = (self._small, self._small_marks, self._large, self._large_marks)
        return sum(table.nbytes for table in tables)

    def pseudonymise(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> Counts:
        """Pseudonymise addresses of pending rows: query_address to SOURCE_*, response_address to DEST_*.

        An absent address gets length 0; one of neither 4 nor 16 bytes gets its length and the value 0.

        Parameters
        ----------
        buf, u32, u64, fate : the block and the columns of a batch, see :mod:`edm.kernel.columns`
        n : rows of the batch
        """
        if 2 * n > self._orders.shape[1]:
            self._make_lists(n)
        state = self._state
        state[k.HITS :] = 0
        lk.list_addresses(u32, u64, fate, n, self._lists, self._sizes, state)
        for number, size in enumerate(self._sizes.tolist()):
            if size:
                self._look_up(buf, u32, u64, number, size)
        if state[k.FRESH]:
            self._encrypt(0, int(state[k.FRESH_IPV4]), k.IPV4_BLOCKS)
            self._encrypt(1, int(state[k.FRESH_IPV6]), k.IPV6_BLOCKS)
            k.settle(
                u32, u64, self._small, self._small_marks, self._large, self._large_marks,
                self._seed, state, self._fresh, self._waiting,
            )  # fmt: skip
        counts = Counts(int(state[k.HITS]), int(state[k.EVICTIONS]), int(state[k.ODD_LENGTHS]))
        if self.pseudonymiser.entries == 0:
            # Within the batch the tables still spare the encryption of repeated addresses.
            self._small_marks.fill(0)
            self._large_marks.fill(0)
            state[k.SMALL_COUNT] = state[k.LARGE_COUNT] = 0
            return Counts(0, 0, counts.odd_lengths)
        return counts

    def _look_up(self, buf: U8Array, u32: U32Array, u64: U64Array, number: int, size: int) -> None:
        side, is_ipv6 = divmod(number, 2)
        look_up = lk.look_up_ipv6 if is_ipv6 else lk.look_up_ipv4
        done = 0
        while True:
            done = look_up(
                buf, u32, u64, self._lists[number], done, size, side, self._small, self._small_marks,
                self._large, self._large_marks, self._seed, self._state, self._fresh, self._orders,
                self._waiting, self._keys,
            )  # fmt: skip
            if done == size:
                break
            self._grow()

    def _encrypt(self, version: int, count: int, blocks: int) -> None:
        order = self._orders[version]
        chunk = _CHUNK_BLOCKS // blocks
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            used = (stop - start) * blocks
            k.lay_out(self._fresh, order, start, stop, blocks, self._keep, self._pad, self._plain)
            self._encryptor.update_into(self._plain[: 2 * used].view(np.uint8).data, self._cipher.data)
            k.fold(self._cipher, order, start, stop, blocks, self._fresh)

    def _set_limits(self) -> None:
        # Three quarters full: beyond that probe sequences of linear probing get long quickly.
        self._state[k.SMALL_LIMIT] = self._small_marks.shape[0] // 4 * 3
        self._state[k.LARGE_LIMIT] = self._large_marks.shape[0] // 4 * 3

    def _grow(self) -> None:
        state = self._state
        if state[k.SMALL_COUNT] + 1 > state[k.SMALL_LIMIT]:
            self._small, self._small_marks = self._doubled(self._small, self._small_marks)
        if state[k.LARGE_COUNT] + 1 > state[k.LARGE_LIMIT]:
            self._large, self._large_marks = self._doubled(self._large, self._large_marks)
        self._set_limits()

    def _doubled(self, slots: U64Array, marks: U8Array) -> tuple[U64Array, U8Array]:
        wide_slots = np.zeros((2 * slots.shape[0], slots.shape[1]), np.uint64)
        wide_marks = np.zeros(2 * marks.shape[0], np.uint8)
        rehash(slots, marks, self._seed, wide_slots, wide_marks)
        return wide_slots, wide_marks
