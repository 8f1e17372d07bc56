from __future__ import annotations

import re
from random import Random

import dns.message
import dns.rrset
import pytest

from edm.kernel.jit import JIT_DISABLED
from edm.stages.dns import rdata
from oracles import dns_generator as made
from oracles import dns_message
from oracles.dns_generator import QUESTION, header, record


def with_rdata(rrtype: int, data: bytes) -> bytes:
    return header(1, 1) + QUESTION + record(rrtype, data)


@pytest.mark.parametrize("rrtype", made.TYPES)
def test_every_type_whole_cut_and_extended(agree, rrtype):
    rng = Random(rrtype)
    for _ in range(1 if JIT_DISABLED else 12):
        data = made.rdata(rng, rrtype)
        assert agree([with_rdata(rrtype, data)]) == 1
        agree([with_rdata(rrtype, data[:cut]) for cut in range(len(data))])
        agree([with_rdata(rrtype, data + more) for more in (b"\0", b"\1", b"\0\1", b"\xc0\x0c", b"x" * 40)])
        agree([with_rdata(rrtype, made.damaged(rng, data or b"?")) for _ in range(20)])


@pytest.mark.parametrize("rrtype", made.TYPES)
def test_empty_rdata_is_fine_for_every_type(agree, rrtype):
    assert agree([with_rdata(rrtype, b"")]) == 1


def test_all_type_numbers_with_short_rdata(agree):
    numbers = (
        range(0, 65536, 997) if JIT_DISABLED else (*range(600), *range(600, 65536, 97), 32768, 32769, 32770)
    )
    for data in (b"\0", b"\xff", b"\0\0", b"\0\1\2\3", b"\5\4\3\2\1\0", bytes(16)):
        agree([with_rdata(number, data) for number in numbers])


def test_one_more_type_is_one_more_line_whatever_its_number_and_length():
    for number in (300, 4095, 4096, 40000, 65535):
        table, far = rdata._grammar({**rdata._FIELDS, number: "1!1" * 11 + "r"})
        near = len(table) - len(far)
        row = number if number < near else near + far.tolist().index(number)
        assert table[row].tolist() == [1, 1 | rdata.REQUIRED] * 11 + [rdata.REST, rdata.END]
        assert len(table) < 4096 + 4
        same = [*range(262)]
        assert (table[same, : rdata.GRAMMAR.shape[1]] == rdata.GRAMMAR[same]).all()
        assert (table[near + far.tolist().index(32768)] == table[43]).all()


N = b"\1n\0"
P = b"\xc0\x0c"
# Spelt out by hand, so that no mistake shared by generator and oracle hides here: type, accepted, rejected.
CASES = [
    (1, [b"abcd"], [b"abc", b"abcde"]),
    (28, [bytes(16)], [bytes(15), bytes(17)]),
    (5, [N, P, b"\0"], [N + b"\0", b"\xc0", b"\1n", b"\x40"]),
    (6, [N, N + P, N + P + bytes(4), N + P + bytes(20)], [N + P + bytes(3), N + P + bytes(21)]),
    (13, [b"\0", b"\1a", b"\1a\0", b"\1a\2bc"], [b"\2a", b"\1a\2b", b"\1a\0\0"]),
    (15, [b"\0\1", b"\0\1" + N], [b"\0", b"\0\1\1", b"\0\1" + N + b"x"]),
    (16, [b"\0", b"\1a", b"\0\0\1a", b"\xff" + bytes(255)], [b"\1", b"\1a\1", b"\xff" + bytes(254)]),
    (
        24,
        [bytes(2), bytes(18), bytes(18) + N, bytes(18) + N + b"sig"],
        [b"\0", bytes(17), bytes(18) + b"\1n"],
    ),
    (29, [bytes(1), bytes(4), bytes(8), bytes(16)], [bytes(5), bytes(17)]),
    (33, [bytes(6), bytes(6) + P], [bytes(5), bytes(6) + P + b"\0"]),
    (35, [bytes(2), bytes(4), bytes(5), bytes(7), bytes(8)], [bytes(3), bytes(9), bytes(4) + b"\1"]),
    (42, [b"\0\1\x20\4\1\2\3\4", b"\0\1\0\0", b"\0\1\x18\x83\1\2\3\0\2\x80\x10" + b"\1" * 16], []),
    (42, [], [b"\0\1\x21\0", b"\0\3\0\0", b"\0\0\0\0", b"\0\1\0", b"\0\1\0\1\0", b"\0\1\0\5" + b"\1" * 5]),
    (42, [b"\0\2\x80\0"], [b"\0\2\x81\0", b"\0\2\0\x11" + b"\1" * 17, b"\0\1\0\2\1", b"\1\1\0\0"]),
    (43, [bytes(2), bytes(4), bytes(40)], [b"\0"]),
    (45, [b"1", b"1\1", b"1\1\2", b"1\1\2abcd", b"1\1\2abcdkey", b"1\0\2key", b"1\x09\2k"], [b"1\1\2abc"]),
    (45, [b"1\3\2" + N, b"1\3\2" + P + b"key", b"1\2\2" + bytes(16)], [b"1\2\2" + bytes(15), b"1\3\2\1n"]),
    (47, [N, N + b"\0\1\0", N + b"\0\1\xff\1\x20" + bytes(32)], [N + b"\0", N + b"\0\0", N + b"\0\1"]),
    (47, [N + b"\xff\1a"], [N + b"\1\1a\1\1a", N + b"\1\1a\0\1a", N + b"\0\x21" + bytes(33)]),
    (50, [b"\1", b"\1\0", b"\1\0\0\1", b"\1\0\0\1\5", b"\1\0\0\1\0\0", b"\1\0\0\1\0\5"], [b"\1\0\0"]),
    (
        50,
        [b"\1\0\0\1\2sa\1h", b"\1\0\0\1\2sa\1h\0\1\x40"],
        [b"\1\0\0\1\2sa", b"\1\0\0\1\2s", b"\1\0\0\1\0\2h"],
    ),
    (50, [b"\1\0\0\1\0\0\0\1\x40"], [b"\1\0\0\1\0\0\0\0", b"\1\0\0\1\0\0x"]),
    (
        51,
        [b"\1\0\0\1\0", b"\1\0\0\1\5", b"\1\0\0\1\2sa"],
        [b"\1\0\0\1\2s", b"\1\0\0\1\0\0", b"\1\0\0\1\2sal"],
    ),
    (55, [b"\5", b"\5\2", b"\5\2\0\3", b"\2\2\0\1hhk", b"\2\2\0\1hhk" + N + P], [b"\5\2\0", b"\5\2\0\3h"]),
    (55, [b"\0\2\0\0" + N], [b"\2\2\0\1hh", b"\2\2\0\1hhk\1", b"\2\2\xff\xffhhk"]),
    (62, [bytes(4), bytes(6), bytes(6) + b"\0\1\1"], [bytes(3), bytes(5), bytes(6) + b"\0"]),
    (
        64,
        [b"\0\1", b"\0\1" + N, b"\0\0" + N + b"\0\3\0\2\1\xbb"],
        [b"\0", b"\0\1" + N + b"\0", b"\0\1" + N + b"\0\3\0"],
    ),
    (128, [], [b"\0", b"abcd"]),
    (249, [N, N + bytes(8), N + bytes(12), N + bytes(12) + b"\0\2", N + bytes(12) + b"\0\2ke\0\0"], []),
    (249, [N + bytes(12) + b"\0\0\0\1o", N + bytes(12) + b"\0\0\0\1"], [N + bytes(12) + b"\0\2ke"]),
    (249, [], [N + bytes(12) + b"\0", N + bytes(12) + b"\0\2k", N + bytes(12) + b"\0\0\0\1oo"]),
    (250, [N, N + bytes(6), N + bytes(8), N + bytes(8) + b"\0\2", N + bytes(8) + b"\0\1m\0\0"], []),
    (
        250,
        [N + bytes(14), N + bytes(16)],
        [N + bytes(8) + b"\0\1m", N + bytes(8) + b"\0\1m\0", N + bytes(17)],
    ),
    (255, [], [b"\0"]),
    (257, [b"\0", b"\0\0", b"\0\5issue", b"\0\0value"], [b"\0\5issu"]),
    (
        260,
        [b"1", b"1\1", b"1\0", b"1\1abcd", b"1\2" + bytes(16), b"1\3" + P, b"1\x81"],
        [b"1\x81abcd", b"1\0x"],
    ),
    (260, [], [b"1\1abc", b"1\1abcde", b"1\3" + N + b"\0", b"1\4\0"]),
    (32768, [bytes(2), bytes(4), bytes(9)], [b"\0"]),
    (32769, [bytes(3)], [b"\0"]),
    (32770, [b"\0"], []),
    (32767, [b"\0"], []),
    (38, [b"\xff"], []),
    (65535, [b"\xff"], []),
]


@pytest.mark.parametrize(("rrtype", "good", "bad"), CASES)
def test_cases(walk, rrtype, good, bad):
    results = walk([with_rdata(rrtype, data) for data in (*good, *bad)])
    assert [result is not None for result in results] == [True] * len(good) + [False] * len(bad)


def options(*items: tuple[int, bytes]) -> bytes:
    return b"".join(code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for code, data in items)


OPTIONS = [
    (1, [18, 19], [0, 17]),
    (2, [4, 8], [0, 3, 5, 7, 9]),
    (9, [0, 4, 5], [1, 2, 3]),
    (11, [0, 2], [1, 3]),
    (15, [2, 60], [0, 1]),
    (19, [2, 9], [0, 1]),
    *((code, [0, 1, 7], []) for code in (0, 3, 4, 5, 6, 7, 10, 12, 13, 14, 16, 17, 20, 65001)),
]


@pytest.mark.parametrize(("code", "good", "bad"), OPTIONS)
def test_option_lengths(walk, code, good, bad):
    messages = [
        with_rdata(41, options((3, b""), (code, b"\xff" * size), (10, b"c"))) for size in (*good, *bad)
    ]
    results = [result is not None for result in walk(messages)]
    assert results == [True] * len(good) + [False] * len(bad)


@pytest.mark.parametrize(
    ("data", "accepted"),
    [
        (b"\0\1\x20\x20", True),
        (b"\0\1\x18\0" + b"x" * 30, True),
        (b"\0\1\x21\0", False),
        (b"\0\1\0\x21", False),
        (b"\0\2\x80\x80", True),
        (b"\0\2\x81\0", False),
        (b"\0\2\0\x81", False),
        (b"\0\0\0\xffrest", True),
        (b"\0\0\1\0", False),
        (b"\0\3\0\0", False),
        (b"\1\1\0\0", False),
        (b"\0\1\0", False),
    ],
)
def test_client_subnet(agree, data, accepted):
    assert agree([with_rdata(41, options((8, data)))]) == accepted


@pytest.mark.parametrize(
    ("data", "accepted"),
    [
        (b"\0", True),
        (N, True),
        (N + b"rest", True),
        (b"\1a\xc0\4\0", True),  # pointers count from the option's data
        (b"\xc0\2\0", True),
        (b"\xc0\0", False),
        (b"\xc0\x0c", False),
        (b"", False),
        (b"\1a", False),
    ],
)
def test_report_channel(agree, data, accepted):
    assert agree([with_rdata(41, options((18, data), (3, b"\0\0")))]) == accepted


def test_options_must_fill_the_record(agree):
    for data in (b"\0", b"\0\3", b"\0\3\0", b"\0\3\0\1", b"\0\3\xff\xff", options((3, b"x")) + b"\0\3\0"):
        assert agree([with_rdata(41, data)]) == 0


PARAMETERS = [
    (0, [b"", b"ab", b"abcd"], [b"a", b"abc"]),
    (1, [b"", b"\0", b"\2h2", b"\2h2\0\2h3"], [b"\1", b"\3h2", b"\2h2\1"]),
    (2, [b""], [b"a"]),
    (3, [b"ab"], [b"", b"a", b"abc"]),
    (4, [bytes(4), bytes(8)], [b"", bytes(3), bytes(6)]),
    (5, [b"", b"a"], []),
    (6, [bytes(16), bytes(32), bytes(10) + b"\xff\xfe" + bytes(4)], [b"", bytes(15), bytes(20)]),
    (6, [bytes(9) + b"\1\xff\xff" + bytes(4)], [bytes(10) + b"\xff\xff" + bytes(4)]),
    (6, [], [bytes(16) + bytes(10) + b"\xff\xff" + bytes(4)]),
    (7, [b"", b"\xff"], []),
    (8, [b""], [b"a"]),
    (9, [b"", b"a"], []),
    (65534, [b"", b"a"], []),
    (65535, [], [b"", b"a"]),
]


@pytest.mark.parametrize("rrtype", [64, 65])
@pytest.mark.parametrize(("key", "good", "bad"), PARAMETERS)
def test_parameter_values(walk, rrtype, key, good, bad):
    messages = [with_rdata(rrtype, b"\0\0" + N + options((key, value))) for value in (*good, *bad)]
    results = [result is not None for result in walk(messages)]
    assert results == [True] * len(good) + [False] * len(bad)


def test_parameter_order(agree):
    head = b"\0\1" + N
    assert agree([with_rdata(65, head + options((1, b""), (2, b""), (300, b"")))]) == 1
    assert agree([with_rdata(65, head + options((2, b""), (1, b"")))]) == 0
    assert agree([with_rdata(65, head + options((5, b""), (5, b"")))]) == 0
    assert agree([with_rdata(65, head + options((5, b"abc"))[:-1])]) == 0


@pytest.mark.parametrize("rrtype", [2, 33, 46, 47])
def test_names_in_rdata_end_with_the_record(agree, rrtype):
    head = {2: b"", 33: bytes(6), 46: bytes(18), 47: b""}[rrtype]
    start = len(header(1, 2) + QUESTION) + 12 + len(head)
    # The octets of the record behind are within the message, but not within this record.
    following = record(10, b"\1a\0")
    for data, accepted in (
        (b"\1a\xc0\x0c", 1),
        (b"\xc0\x00", 0),
        ((0xC000 | start + 2).to_bytes(2, "big"), 0),
        ((0xC000 | start + 2 + 12).to_bytes(2, "big"), 0),
        (b"\1a\1", 0),
        (b"\2a", 0),
    ):
        message = header(1, 2) + QUESTION + record(rrtype, head + data) + following
        assert agree([message]) == accepted, data


def test_rdlength_past_the_message(agree):
    for rrtype in (1, 2, 10, 41, 65535):
        data = b"\xc0\x0c\0\0"
        message = bytearray(with_rdata(rrtype, data))
        for size in (5, 255, 65535):
            message[-6:-4] = size.to_bytes(2, "big")
            assert agree([bytes(message)]) == 0


PRESENTED = """
A 192.0.2.1|NS ns.example.|CNAME c.example.|SOA ns. mail. 1 2 3 4 5|PTR p.example.|HINFO "cpu" "os"
MX 10 mx.example.|TXT "a" "b"|RP a. b.|AFSDB 1 a.|X25 "311"|ISDN "1" "2"|RT 1 a.|NSAP 0x4700|PX 1 a. b.
GPOS 1.0 2.0 3.0|AAAA 2001:db8::1|LOC 52 14 05 N 00 08 50 E 10m|SRV 1 2 3 s.example.
NAPTR 1 2 "s" "http" "" a.|KX 1 a.|CERT 1 2 3 AAAA|DNAME d.example.|APL 1:192.0.2.0/24 !2:2001:db8::/32
DS 1 8 2 HASH32|SSHFP 1 1 HASH20|IPSECKEY 10 1 2 192.0.2.38 AQNR|IPSECKEY 10 3 2 gw.example. AQNR
RRSIG A 8 2 300 20300101000000 20200101000000 1 example. AAAA|NSEC b.example. A MX RRSIG TYPE1234
DNSKEY 257 3 8 AAAA|DHCID AAIB|NSEC3 1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG
NSEC3PARAM 1 0 12 aabbccdd|TLSA 3 1 0 00ff|SMIMEA 3 1 0 00ff
HIP 2 200100107B1A74DF365639CC39F1D578 AwEAAbdx rvs.example.|CDS 1 8 1 HASH20|CDNSKEY 257 3 8 AAAA
OPENPGPKEY AAAA|CSYNC 66 3 A NS AAAA|ZONEMD 1 1 1 HASH48|SVCB 0 foo.example.
HTTPS 1 . alpn="h2,h3" port=443 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1|SPF "v=spf1"
NID 10 0014:4fff:ff20:ee64|L32 10 10.1.2.0|L64 10 2001:0DB8:1140:1000|LP 10 l.example.
EUI48 00-00-5e-00-53-2a|EUI64 00-00-5e-ef-10-00-00-2a|URI 1 2 "https://example/"|CAA 0 issue "ca.example"
AVC "x"|AMTRELAY 10 0 1 203.0.113.15|RESINFO "x"
"""


@pytest.mark.parametrize("text", PRESENTED.strip().replace("\n", "|").split("|"))
def test_records_made_by_dnspython(agree, text):
    text = re.sub(r"HASH(\d+)", lambda match: "0f" * int(match[1]), text)
    rdtype, _, rdata = text.partition(" ")
    message = dns.message.make_response(dns.message.make_query("www.example.com.", "A", use_edns=0))
    message.answer.append(dns.rrset.from_text("www.example.com.", 300, "IN", rdtype, rdata))
    wire = message.to_wire()
    assert agree([wire, wire[: -len(b"\0\0\x29\0\0\0\0\0\0\0\0")]]) == 2
    assert dns_message.unpack(wire).counts == [1, 0, 1]
