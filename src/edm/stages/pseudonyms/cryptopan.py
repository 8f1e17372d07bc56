"""Crypto-PAn: prefix-preserving pseudonyms of IP addresses, made in bulk and kept in a cache per worker.

Jun Xu, Jinliang Fan, Mostafa Ammar, Sue Moon: Prefix-Preserving IP Address Anonymization: Measurement-based
Security Evaluation and a New Cryptography-based Scheme (ICNP 2002).

Bit ``i`` of a pseudonym is bit ``i`` of the address XOR the first bit of ``AES(first i bits | pad)``. The
blocks of one address do not depend on each other, nor do those of different addresses: all new addresses of a
batch are laid out, encrypted by one call into OpenSSL per buffer, and folded back.
"""

from __future__ import annotations

import hmac
import itertools
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from edm.errors import ConfigError
from edm.kernel.columns import I64Array, U8Array, U32Array, U64Array
from edm.stages.pseudonyms import kernels as k
from edm.stages.pseudonyms import lookup as lk
from edm.stages.pseudonyms import tables as t
from edm.stages.pseudonyms.contract import Counts

SECRET_BYTES = 32
SALT_MIN_BYTES = 8

CACHE_BYTES = 160 << 20
"""Most bytes of one worker's cache if nothing else is said: 1.5 million IPv6 and 3 million IPv4 addresses."""
CACHE_BYTES_MIN = 64 << 10
"""Least bytes of a cache; its tables begin with 42 KiB."""

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


def new_hash_key() -> U64Array:
    """Return a random key, uint64[3].

    The upper half of the first two words is odd: two addresses that differ in one half of one word only then never
    have the same sum, whatever the rest of the key.
    """
    key = np.frombuffer(os.urandom(24), np.uint64).copy()
    key[:2] |= np.uint64(1 << 32)
    return key


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
    cache_bytes : bytes that the tables of one worker's cache take at most, those in the making included

    Attributes
    ----------
    identity : a number that no other pseudonymiser of this process has
    fingerprint : 8 hexadecimal digits, an HMAC of a fixed text under the secret
    entries, cache_bytes : as given
    """

    __slots__ = ("_key", "_pad", "cache_bytes", "entries", "fingerprint", "identity")

    def __init__(self, secret: bytes, entries: int, cache_bytes: int = CACHE_BYTES) -> None:
        if len(secret) != SECRET_BYTES:
            raise ConfigError(f"Crypto-PAn secret: {len(secret)} bytes instead of {SECRET_BYTES}")
        if entries < 0:
            raise ConfigError(f"cryptopan-address-entries: {entries} is negative")
        if cache_bytes < CACHE_BYTES_MIN:
            raise ConfigError(f"cryptopan-cache-bytes: {cache_bytes} is less than {CACHE_BYTES_MIN}")
        self._key = secret[:16]
        self._pad = _encrypt_in_ecb_mode(self._key).encryptor().update(secret[16:])
        # Under the derived key: whoever wants to guess the secret by it has to derive the key for each guess.
        self.fingerprint = hmac.digest(secret, b"edm key fingerprint", "sha256")[:4].hex()
        self.entries = entries
        self.cache_bytes = cache_bytes
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
    last_slots : slots up to which the tables for addresses of 4 and of 16 bytes may grow
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
        self._sizes: I64Array = np.zeros(lk.N_LISTS, np.int64)
        self._state = np.zeros(t.N_STATE, np.int64)
        self._state[t.BOUND] = pseudonymiser.entries or _UNBOUNDED
        self.last_slots = _last_slots(pseudonymiser.cache_bytes)
        self._tables = t.Tables(
            small=t.Table(np.zeros(_FIRST_SLOTS, np.uint64), np.zeros(_FIRST_SLOTS, np.uint8)),
            large=t.Table(np.zeros((_FIRST_SLOTS, 4), np.uint64), np.zeros(_FIRST_SLOTS, np.uint8)),
            key=new_hash_key(),
            state=self._state,
        )
        self._tables_changed()
        self._make_lists(0)

    def _make_lists(self, rows: int) -> None:
        self._lists = k.Lists(
            fresh=np.empty((k.N_FRESH_FIELDS, 2 * rows), np.uint64),
            orders=np.empty((2, 2 * rows), np.uint32),
            waiting=np.empty((2, 2 * rows), np.uint32),
            keys=np.zeros((3, lk.WINDOW), np.uint64),
        )
        self._plain_lists: k.ListsArrays = (*self._lists,)
        self._rows: U32Array = np.empty((lk.N_LISTS, rows + 1), np.uint32)

    def __len__(self) -> int:
        return int(self._state[t.COUNT] + self._state[t.COUNT + 1])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tables take."""
        return sum(array.nbytes for table in (self._tables.small, self._tables.large) for array in table)

    def pseudonymise(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> Counts:
        """Pseudonymise addresses of pending rows: query_address to SOURCE_*, response_address to DEST_*.

        An absent address gets length 0; one of neither 4 nor 16 bytes gets its length and the value 0.

        Parameters
        ----------
        buf, u32, u64, fate : the block and the columns of a batch, see :mod:`edm.kernel.columns`
        n : rows of the batch
        """
        if 2 * n > self._lists.orders.shape[1]:
            self._make_lists(n)
        state = self._state
        state[t.HITS :] = 0
        lk.list_addresses(u32, u64, fate, n, self._rows, self._sizes, state)
        for number, size in enumerate(self._sizes.tolist()):
            if size:
                self._look_up(buf, u32, u64, number, size)
        if state[t.FRESH]:
            self._encrypt(0, int(state[t.FRESH_IPV4]), k.IPV4_BLOCKS)
            self._encrypt(1, int(state[t.FRESH_IPV6]), k.IPV6_BLOCKS)
            k.settle(u32, u64, self._plain_tables, self._plain_lists)
        counts = Counts(int(state[t.HITS]), int(state[t.EVICTIONS]), int(state[t.ODD_LENGTHS]))
        if self.pseudonymiser.entries == 0:
            # Within the batch the tables still spare the encryption of repeated addresses.
            self._tables.small.marks.fill(0)
            self._tables.large.marks.fill(0)
            state[t.COUNT] = state[t.COUNT + 1] = 0
            return Counts(0, 0, counts.odd_lengths)
        return counts

    def _look_up(self, buf: U8Array, u32: U32Array, u64: U64Array, number: int, size: int) -> None:
        side, is_ipv6 = divmod(number, 2)
        rows = self._rows[number]
        done = 0
        while True:
            cache = self._plain_tables
            own = cache[1] if is_ipv6 else cache[0]
            done = lk.look_up(buf, u32, u64, rows, done, size, side, own, cache, self._plain_lists)
            if done == size:
                break
            self._grow(self._tables.large if is_ipv6 else self._tables.small)

    def _encrypt(self, version: int, count: int, blocks: int) -> None:
        fresh, order = self._lists.fresh, self._lists.orders[version]
        chunk = _CHUNK_BLOCKS // blocks
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            used = (stop - start) * blocks
            k.lay_out(fresh, order, start, stop, blocks, self._keep, self._pad, self._plain)
            self._encryptor.update_into(self._plain[: 2 * used].view(np.uint8).data, self._cipher.data)
            k.fold(self._cipher, order, start, stop, blocks, fresh)

    def _tables_changed(self) -> None:
        small, large, key, state = self._tables
        self._plain_tables: t.TablesArrays = (*small,), (*large,), key, state
        # Three quarters full: beyond that probe sequences of linear probing get long quickly.
        for number, table in enumerate((self._tables.small, self._tables.large)):
            slots, last = len(table.marks), self.last_slots[number]
            self._state[t.LIMIT + number] = slots // 4 * 3 if slots < last else _UNBOUNDED
            self._state[t.MOST + number] = last // 4 * 3

    def _grow(self, table: t.Table) -> None:
        slots, marks = table
        wide = t.Table(
            np.zeros((2 * len(slots), *slots.shape[1:]), np.uint64), np.zeros(2 * len(marks), np.uint8)
        )
        t.rehash(table, self._tables.key, wide)
        if table is self._tables.small:
            self._tables = self._tables._replace(small=wide)
        else:
            self._tables = self._tables._replace(large=wide)
        self._tables_changed()


def _last_slots(cache_bytes: int) -> tuple[int, int]:
    """Return the slots up to which the small and the large table may grow within so many bytes.

    Neither takes room from the other, so that a flood of IPv6 addresses leaves the IPv4 clients theirs. While a table
    grows, that of half its size is still there.
    """
    small = large = _FIRST_SLOTS
    while True:
        # The one that takes less memory is the next to grow.
        in_order = [(2 * small, large), (small, 2 * large)]
        if small * t.SMALL_SLOT_BYTES > large * t.LARGE_SLOT_BYTES:
            in_order.reverse()
        fitting = [pair for pair in in_order if _peak_bytes(*pair) <= cache_bytes]
        if not fitting:
            return small, large
        small, large = fitting[0]


def _peak_bytes(small: int, large: int) -> int:
    sizes = small * t.SMALL_SLOT_BYTES, large * t.LARGE_SLOT_BYTES
    return sum(sizes) + max(sizes) // 2


__all__ = [
    "CACHE_BYTES",
    "CACHE_BYTES_MIN",
    "SALT_MIN_BYTES",
    "SECRET_BYTES",
    "Counts",
    "PseudonymCache",
    "Pseudonymiser",
    "derive_key",
    "new_hash_key",
]
