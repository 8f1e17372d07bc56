from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edm.kernel.jit import JIT_DISABLED
from edm.stages.names import (
    ESCAPE_WIDTH,
    LOWER,
    label_starts,
    labels_of_text,
    put_label,
    split_name,
    text_to_wire,
    wire_to_text,
)
from oracles import dns_message

VECTORS = Path(__file__).parent.parent / "vectors" / "names.json"
EXAMPLES = 100 if JIT_DISABLED else 400

LABELS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=63), st.text(". '@;()\"\\a0~", min_size=1, max_size=9).map(str.encode)
    ),
    max_size=14,
).filter(lambda labels: sum(len(label) + 1 for label in labels) <= 254)
TEXTS = st.text(st.sampled_from(list("ab.\\ ;0129A~")), max_size=16)


@pytest.fixture(scope="module")
def vectors():
    return json.loads(VECTORS.read_text())


def test_vectors(vectors):
    for text, answer in vectors:
        assert (split_name(text) or None) == answer["split"], text
        assert label_starts(text) == answer["next"], text
        # What is a name's own presentation form passes every check for domain names.
        if text_to_wire(text) is not None:
            assert answer["ok"], text


def test_tables_hold_every_byte():
    for byte in range(256):
        text = dns_message.presentation([bytes([byte])])
        assert ESCAPE_WIDTH[byte] == len(text) - 1
        assert bytes([LOWER[byte]]) == bytes([byte]).lower()
        assert wire_to_text(bytes([1, byte, 0])) == text
        assert text_to_wire(text) == bytes([1, byte, 0])


@settings(max_examples=EXAMPLES, deadline=None)
@given(LABELS)
@example([])
@example([b"\xff" * 63, b"\x00" * 63, b"." * 63, b"\\" * 61])
def test_text_and_back(labels):
    wire = dns_message.wire_form(labels)
    text = wire_to_text(wire)
    assert text == dns_message.presentation(labels)
    assert text_to_wire(text) == wire
    assert split_name(text) == [dns_message.presentation([label])[:-1] for label in labels]


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(TEXTS)
def test_only_presentation_forms_have_a_wire_form(text):
    wire = text_to_wire(text)
    if wire is None:
        # The other way round: read leniently, the text is not what the name is written as.
        lenient = [
            re.sub(
                rb"\\(\d{3}|.)", lambda m: bytes([int(m[1]) & 255]) if len(m[1]) == 3 else m[1], part.encode()
            )
            for part in split_name(text)
        ]
        assume(all(0 < len(label) < 64 for label in lenient))
        assert dns_message.presentation(lenient) != text or (text != "." and not lenient)
    else:
        assert wire_to_text(wire) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "www.example.com",
        ".example.com.",
        "..",
        "a..b.",
        "\\",
        "a\\",
        "a\\.",
        "a\\\\",
        "\\097.",  # stands for "a", which is not escaped
        "\\032.",  # space has an escape of its own
        "\\256.",
        "\\999.",
        "\\12.",
        "\\a.",
        "a b.",
        "a;.",
        "a\x7f.",
        "ä.",
        "\u0661.",
        "\\\u0661\u0661\u0661.",
        "a\n.",
        "a.\n",
        "a" * 64 + ".",
        "\\000" * 64 + ".",
        ("a" * 63 + ".") * 3 + "a" * 62 + ".",
        ("\\000" * 63 + ".") * 3 + "\\000" * 62 + ".",
        "a." * 128,
    ],
)
def test_texts_without_a_wire_form(text):
    assert text_to_wire(text) is None


@pytest.mark.parametrize("char", ["a", "\\000", "\\."])
def test_longest_names_have_a_wire_form(char):
    text = (char * 63 + ".") * 3 + char * 61 + "."
    wire = text_to_wire(text)
    assert wire is not None
    assert len(wire) == 255
    assert wire_to_text(wire) == text


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (".", []),
        ("", []),
        ("com.", ["com"]),
        ("WWW.Example.com.", ["com", "Example", "WWW"]),
        ("www.example.com", ["com", "example", "www"]),
        (".example.net.", ["net", "example", ""]),
        ("a..b.", ["b", "", "a"]),
        ("a\\.b.c.", ["c", "a\\.b"]),
        ("a\\\\.b.", ["b", "a\\\\"]),
        ("\\255\\000e\\ f.", ["\\255\\000e\\ f"]),
        ("a.b\\.", ["b\\.", "a"]),
        ("1.2.3.4.5.6.7.8.9.10.", ["10", "9", "8", "7", "6", "5", "4", "3", "2", "1"]),
        ("A.B.C.D.E.F.G.H.I.J.K.M.", [*"MKJIHGFED", "C.B.A"]),
        (".1.2.3.4.5.6.7.8.9.10.", ["10", "9", "8", "7", "6", "5", "4", "3", "2", "1."]),
        ("x\\.y.A.B.C.D.E.F.G.H.I.J.", [*"JIHGFEDCB", "A.x\\.y"]),
    ],
)
def test_labels(text, labels):
    assert labels_of_text(text) == labels + [None] * (10 - len(labels))


@settings(max_examples=EXAMPLES, deadline=None)
@given(TEXTS)
def test_labels_join_to_the_name(text):
    labels = labels_of_text(text)
    assert len(labels) == 10
    used = [label for label in labels if label is not None]
    assert labels[: len(used)] == used
    assert ".".join(split_name(text)[::-1]) == ".".join(used)


def test_put_label_writes_only_the_label():
    buf = np.frombuffer(bytearray(b"xx.a\xffyy"), np.uint8)
    out = np.full(12, 0xEE, np.uint8)
    assert put_label(buf, 2, 3, out, 1) == 8
    assert out.tobytes() == b"\xee\\.a\\255" + b"\xee" * 4
