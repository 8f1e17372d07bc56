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
    """The parts of a snapshot that are made from files and keys before the data directory is opened."""

    pseudonyms: Pseudonyms
    clients: ClientPrefixes
    ignored_names: DomainTable | None


def load_parts(config: Config) -> Parts:
    """Load these parts for the first snapshot, so that errors in them are found before anything is written.

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

    To use another pseudonymisation, choose it here, see docs/seams/pseudonyms.md. Start-up tries it on made-up frames
    with a made-up key.
    """
    return Pseudonymiser(secret, config.cryptopan_address_entries, config.cryptopan_cache_bytes)


def load_clients(config: Config) -> ClientPrefixes:
    """Read the ignored client prefixes; an empty set if the setting is empty or the file holds none.

    Raises
    ------
    ListFileError
        The file cannot be read, or a line is not a prefix.
    """
    if not config.ignored_client_ips_file:
        return ClientPrefixes.none()
    return parse_prefix_file(config.ignored_client_ips_file, config.list_file_bytes)


def open_ignored_names(config: Config) -> Dawg | None:
    """Read and check the list of ignored question names; ``None`` if the setting is empty or the file holds none.

    Raises
    ------
    ListFileError
        The file cannot be read or is not a valid DAWG file.
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
        The file cannot be read, is empty, or is not a valid DAWG file.
    """
    return Dawg.open(config.well_known_domains_file, config.list_file_bytes)


def make_table(dawg: Dawg | None) -> DomainTable | None:
    """Build the table of a list; ``None`` without a list.

    Raises
    ------
    ListFileError
        The list has too many words for a table.
    """
    return DomainTable.build(dawg) if dawg is not None else None


def pseudonyms_key(config: Config) -> tuple[object, ...]:
    """Return the settings that the pseudonyms are made from; a reload makes them again only if these change."""
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
