"""Loading the reloadable parts of a snapshot from the files that the configuration names."""

from __future__ import annotations

from typing import NamedTuple

from edm.config import Config
from edm.stages.clients import ClientPrefixes, parse_prefix_file
from edm.stages.domains.dawg.dawg import Dawg, EmptyFileError
from edm.stages.domains.table.table import DomainTable
from edm.stages.pseudonyms.contract import Pseudonyms
from edm.stages.pseudonyms.cryptopan import Pseudonymiser, derive_key


class Parts(NamedTuple):
    """What a snapshot needs from files and keys before the data directory is touched."""

    pseudonyms: Pseudonyms
    clients: ClientPrefixes
    ignored_names: DomainTable | None


def load_parts(config: Config) -> Parts:
    """Load what the first snapshot needs, and what can be wrong in it before anything is written.

    Raises
    ------
    EdmError
        A key or a list file cannot be used.
    """
    return Parts(load_pseudonyms(config), load_clients(config), make_table(open_ignored_names(config)))


def load_pseudonyms(config: Config) -> Pseudonyms:
    """Make the pseudonyms: derive the Crypto-PAn key (Argon2id: some 100 ms and 64 MiB).

    Raises
    ------
    ConfigError
        The salt is too short.
    """
    return make_pseudonyms(config, derive_key(config.cryptopan_key, config.cryptopan_key_salt))


def make_pseudonyms(config: Config, secret: bytes) -> Pseudonyms:
    """Make the pseudonyms that a configuration asks for, with a derived key of 32 bytes.

    Another pseudonymisation is chosen here, see docs/seams/pseudonyms.md. Start-up tries it on made-up frames with a
    made-up key.
    """
    return Pseudonymiser(secret, config.cryptopan_address_entries, config.cryptopan_cache_bytes)


def load_clients(config: Config) -> ClientPrefixes:
    """Read the ignored client prefixes; none if the key is not set or the file holds none.

    Raises
    ------
    ListFileError
        The file cannot be read, or a line of it is no prefix.
    """
    if not config.ignored_client_ips_file:
        return ClientPrefixes.none()
    return parse_prefix_file(config.ignored_client_ips_file, config.list_file_bytes)


def open_ignored_names(config: Config) -> Dawg | None:
    """Read and check the list of ignored question names; ``None`` if the key is not set or the file holds none.

    Raises
    ------
    ListFileError
        The file cannot be read or is no valid DAWG file.
    """
    if not config.ignored_question_names_file:
        return None
    try:
        dawg = Dawg.open(config.ignored_question_names_file, config.list_file_bytes)
    except EmptyFileError:
        return None
    return dawg if dawg.words else None


def open_well_known(config: Config) -> Dawg:
    """Read and check the list of well-known domains.

    Raises
    ------
    ListFileError
        The file cannot be read, is empty, or is no valid DAWG file.
    """
    return Dawg.open(config.well_known_domains_file, config.list_file_bytes)


def make_table(dawg: Dawg | None) -> DomainTable | None:
    """Build the table of a list.

    Raises
    ------
    ListFileError
        It has too many words for a table.
    """
    return DomainTable.build(dawg) if dawg is not None else None


def pseudonyms_key(config: Config) -> tuple[object, ...]:
    """Return what of a configuration the pseudonyms are made from: they are made again only if it changes."""
    return config.cryptopan_key, config.cryptopan_key_salt


__all__ = [
    "Parts",
    "load_clients",
    "load_parts",
    "load_pseudonyms",
    "make_pseudonyms",
    "make_table",
    "open_ignored_names",
    "open_well_known",
    "pseudonyms_key",
]
