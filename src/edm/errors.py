"""The exceptions that an operator's input can cause: each message names the thing and the reason."""

from __future__ import annotations

from edm.masking import mask_passwords


class EdmError(Exception):
    """Base of all errors that end in one clear line for the operator, never in a traceback and without passwords."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(mask_passwords(a) if isinstance(a, str) else a for a in arguments))


class ConfigError(EdmError):
    """The configuration cannot be used. ``violations`` holds one line for each thing that is wrong."""

    def __init__(self, *violations: str) -> None:
        super().__init__("; ".join(violations))
        self.violations = tuple(map(mask_passwords, violations))


class ListFileError(EdmError):
    """A list file (domain list, ignored names, ignored clients) cannot be used."""


class KeyFileError(EdmError):
    """A key or certificate file cannot be used."""


class StoreError(EdmError):
    """The store of seen names cannot be opened or is damaged beyond repair."""


class InputError(EdmError):
    """An input (socket, capture file) cannot be opened or read."""


class ProtocolError(EdmError):
    """A peer broke the Frame Streams protocol; its connection is closed."""


class OutputError(EdmError):
    """An output file or directory cannot be written."""
