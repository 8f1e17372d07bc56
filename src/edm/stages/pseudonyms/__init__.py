"""Pseudonyms of addresses: Crypto-PAn and its cache."""
