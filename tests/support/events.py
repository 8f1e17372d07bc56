"""Events to send, and the check of what arrived with an independent library."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import OKPKey

from edm.stages.new_qname.events import EventBlock


def payload(number: int, length: int = 0) -> bytes:
    """Return an event that can be told from all others; ``length`` makes its name longer."""
    name = f"host-{number}.{'x' * length}example.com."
    return (
        f'{{"flags":33152,"qclass":1,"qname":"{name}","qtype":1,'
        '"timestamp":"2023-11-14T22:13:00Z","type":"new_qname","version":0}'
    ).encode()


def payloads(first: int, stop: int) -> list[bytes]:
    return [payload(number) for number in range(first, stop)]


def block_of(events: Sequence[bytes]) -> EventBlock:
    return EventBlock(b"".join(events), np.cumsum([0, *map(len, events)], dtype=np.int64))


def verified(messages: Iterable[bytes], members: dict[str, str]) -> list[bytes]:
    """Return the payloads of signed messages, each verified with joserfc and a public key.

    Fails if the form is another than the Go daemon's.
    """
    public = {name: value for name, value in members.items() if name != "d"}
    key = OKPKey.import_key(public)
    result = []
    for message in messages:
        parsed: dict[str, Any] = json.loads(message)
        assert list(parsed) == ["payload", "protected", "signature"]
        assert message == json.dumps(parsed, separators=(",", ":")).encode()
        with warnings.catch_warnings():
            # The library finds EdDSA too unspecific a name (RFC 9864); it is the one that Core expects.
            warnings.simplefilter("ignore", SecurityWarning)
            checked = jws.deserialize_json(parsed, key, algorithms=["EdDSA"])  # type: ignore[arg-type]
        result.append(checked.payload)
    return result
