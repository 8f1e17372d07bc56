"""Writing values in TOML's syntax."""

from __future__ import annotations

import json

from edm.config.key import Value


def toml_value(value: Value) -> str:
    """Return ``value`` as TOML writes it. Bytes that were no UTF-8 (surrogates) become U+FFFD."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    # JSON's escapes are a subset of TOML's. What JSON leaves bare but does not print (DEL, which TOML
    # forbids, terminal controls, ...) is escaped too.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


__all__ = ["toml_value"]
