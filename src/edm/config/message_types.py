"""Names of dnstap's message types (dnstap.proto, ``Message.Type``), and the key that chooses among them."""

from __future__ import annotations

from edm.config.values import shorten

MESSAGE_TYPES = (
    "OTHER",  # none of the schema's
    "AUTH_QUERY",
    "AUTH_RESPONSE",
    "RESOLVER_QUERY",
    "RESOLVER_RESPONSE",
    "CLIENT_QUERY",
    "CLIENT_RESPONSE",
    "FORWARDER_QUERY",
    "FORWARDER_RESPONSE",
    "STUB_QUERY",
    "STUB_RESPONSE",
    "TOOL_QUERY",
    "TOOL_RESPONSE",
    "UPDATE_QUERY",
    "UPDATE_RESPONSE",
)
"""The name of each type by its number."""

ANSWERS = tuple(name for name in MESSAGE_TYPES if name.endswith("_RESPONSE"))


def parse_message_types(text: str) -> list[int]:
    """Return the numbers of the answers that ``text`` names, separated by commas; none if it is empty."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name.upper() not in ANSWERS:
            raise ValueError(
                f"must be {', '.join(ANSWERS)}, separated by commas, which {shorten(name)} is not"
            )
    return sorted({MESSAGE_TYPES.index(name.upper()) for name in names})


__all__ = ["ANSWERS", "MESSAGE_TYPES", "parse_message_types"]
