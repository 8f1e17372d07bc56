"""Loading the reloadable parts of a snapshot from the files that the configuration names."""

from __future__ import annotations

from edm.clients import ClientPrefixes, parse_prefix_file
from edm.config import Config
from edm.domains.dawg import Dawg, EmptyFileError
from edm.domains.table import DomainTable
from edm.session.cryptopan import Pseudonymiser, derive_key


def load_pseudonymiser(config: Config) -> Pseudonymiser:
    """Derive the Crypto-PAn key (Argon2id: some 100 ms and 64 MiB).

    Raises
    ------
    ConfigError
        The salt is too short.
    """
    secret = derive_key(config.cryptopan_key, config.cryptopan_key_salt)
    return Pseudonymiser(secret, config.cryptopan_address_entries)


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


def _build(dawg: Dawg, loaded: DomainTable | None) -> DomainTable:
    """Build the table of a list, or take ``loaded`` if it was made of the very same bytes."""
    if loaded is not None and loaded.digest == dawg.digest():
        return loaded
    return DomainTable.build(dawg)


def load_ignored_names(config: Config, loaded: DomainTable | None = None) -> DomainTable | None:
    """Read the ignored question names; ``None`` if the key is not set or the file holds none.

    ``loaded`` is returned if the file holds what that was made of.

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
    return _build(dawg, loaded) if dawg.words else None


def load_well_known(config: Config, loaded: DomainTable | None = None) -> DomainTable:
    """Read the well-known domains; ``loaded`` is returned if the file holds what that was made of.

    Raises
    ------
    ListFileError
        The file cannot be read, is empty, or is no valid DAWG file.
    """
    return _build(Dawg.open(config.well_known_domains_file, config.list_file_bytes), loaded)
