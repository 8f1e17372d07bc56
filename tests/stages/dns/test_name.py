from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.jit import JIT_DISABLED, kernel
from edm.stages.dns.name import (
    begin_message,
    new_memo,
    plain_length,
    skip_lone_name,
    skip_name,
    spell_name,
)
from oracles import dns_message


@kernel
def length_of_plain(buf, pos, end):
    return plain_length(buf, pos, end)


MEMO = new_memo()


def skips(buf, *place):
    """Return what is found by walking and by remembering; if a name is asked for again, that must not change."""
    found = {skip_lone_name(buf, *place)}
    for steps in (1, 0):
        begin_message(MEMO, steps)
        found |= {skip_name(buf, *place, MEMO) for _ in range(1 + 2 * (-1 not in found))}
    return found


EXAMPLES = 100 if JIT_DISABLED else 500
PIECES = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"\0", b"\1a", b"\1B\0", b"\xc0\0", b"\xc0\2", b"\xc0\5", b"\x3f" + b"x" * 63]),
    st.integers(0, 120).map(lambda target: (0xC000 | target).to_bytes(2, "big")),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=5), st.lists(PIECES, max_size=12).map(b"".join), st.binary(max_size=5), st.data())
def test_names_anywhere(before, data, after, draw):
    """Names read from a message inside a block: nothing before or behind the message is looked at."""
    buf = np.frombuffer(bytearray(before + data + after), np.uint8)
    base = len(before)
    offset = draw.draw(st.integers(0, len(data)))
    try:
        labels, following = dns_message.read_labels(data, offset)
    except dns_message.RejectedError:
        assert skips(buf, base, base + offset, base + len(data)) == {-1}
        assert length_of_plain(buf, base + offset, base + len(data)) == 0
        return
    assert skips(buf, base, base + offset, base + len(data)) == {base + following}
    out = np.full(300, 0xEE, np.uint8)
    wire = dns_message.wire_form(labels)
    assert spell_name(buf, base, base + offset, out, 3) == len(wire)
    assert out.tobytes() == b"\xee" * 3 + wire + b"\xee" * (297 - len(wire))
    plain = data[offset : offset + len(wire)] == wire
    assert length_of_plain(buf, base + offset, base + len(data)) == (len(wire) if plain else 0)


@pytest.mark.parametrize(("labels", "length"), [(127, 255), (128, 0)])
def test_longest_plain_name(labels, length):
    buf = np.frombuffer(bytearray(b"\1a" * labels + b"\0"), np.uint8)
    assert length_of_plain(buf, 0, len(buf)) == length
    assert length_of_plain(buf, 0, len(buf) - 1) == 0
