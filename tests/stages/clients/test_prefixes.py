"""The file of ignored clients, and the filter, against the standard library's ipaddress."""

from __future__ import annotations

import ipaddress
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.errors import ListFileError
from edm.kernel import columns as c
from edm.kernel.jit import JIT_DISABLED
from edm.stages.clients import ClientPrefixes, parse_prefix_file

LISTS = Path(__file__).parents[2] / "captures" / "lists"
EXAMPLES = 30 if JIT_DISABLED else 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefixes")


def load(folder: Path, *lines: str) -> ClientPrefixes:
    path = folder / "clients"
    path.write_text("".join(line + "\n" for line in lines))
    return parse_prefix_file(path)


def run(prefixes: ClientPrefixes, addresses: list[bytes | None]) -> list[int]:
    columns = c.Columns(max(len(addresses), 1))
    content = b""
    for i, address in enumerate(addresses):
        content += b"\x0a"
        columns.u32[c.QUERY_ADDRESS_OFF, i] = len(content)
        if address is not None:
            columns.u32[c.QUERY_ADDRESS_LEN, i] = len(address)
            columns.u32[c.PRESENT, i] = c.HAS_QUERY_ADDRESS
            content += address
        else:
            # An absent field's columns may hold anything.
            columns.u32[c.QUERY_ADDRESS_LEN, i] = 4
    prefixes.filter(
        np.frombuffer(content + b"\0", np.uint8).copy(), columns.u32, columns.fate, len(addresses)
    )
    assert not columns.fate[len(addresses) :].any()
    return columns.fate[: len(addresses)].tolist()


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def ignored(prefixes: ClientPrefixes, *texts: str) -> list[bool]:
    fates = run(prefixes, [packed(text) for text in texts])
    assert set(fates) <= {c.PENDING, c.CLIENT_IGNORED}
    return [fate == c.CLIENT_IGNORED for fate in fates]


def test_bundled_list() -> None:
    prefixes = parse_prefix_file(LISTS / "ignored-clients")
    assert len(prefixes) == 4
    texts = ["100.64.3.0", "100.64.3.255", "100.64.2.255", "100.64.4.0", "100.64.203.255", "100.64.204.0"]
    assert ignored(prefixes, *texts) == [True, True, False, False, True, False]
    texts = [
        "2001:db8:4000:10::",
        "2001:db8:4000:1f:ffff:ffff:ffff:ffff",
        "2001:db8:4000:20::",
        "::127.0.5.1",
    ]
    assert ignored(prefixes, *texts) == [True, True, False, False]


def test_addresses_that_are_none(folder: Path) -> None:
    prefixes = load(folder, "0.0.0.0/0", "::/0")
    odd = [None, b"", b"\1", b"\1" * 3, b"\1" * 5, b"\1" * 15, b"\1" * 17]
    assert run(prefixes, odd) == [c.CLIENT_ADDRESS_INVALID] * len(odd)
    assert run(prefixes, [b"\1" * 4, b"\1" * 16]) == [c.CLIENT_IGNORED] * 2
    for none in (ClientPrefixes.none(), load(folder), load(folder, "", "# 10.0.0.0/8")):
        assert len(none) == none.prefixes == 0
        assert run(none, [*odd, b"\1" * 4]) == [c.PENDING] * (len(odd) + 1)


def test_rows_that_have_a_fate_are_left_alone(folder: Path) -> None:
    columns = c.Columns(2)
    columns.fate[0] = c.QUERY
    load(folder, "0.0.0.0/0").filter(np.zeros(8, np.uint8), columns.u32, columns.fate, 2)
    assert columns.fate[:3].tolist() == [c.QUERY, c.CLIENT_ADDRESS_INVALID, c.PENDING]


def test_mapped_addresses(folder: Path) -> None:
    mapped = "::ffff:10.1.2.3"
    assert ignored(load(folder, "10.0.0.0/8", "0.0.0.0/0"), mapped, "10.1.2.3") == [False, True]
    assert ignored(load(folder, "::ffff:10.0.0.0/104"), mapped, "10.1.2.3") == [True, False]
    assert ignored(load(folder, "::/0"), mapped, "10.1.2.3") == [True, False]


def network(version: int) -> st.SearchStrategy[str]:
    # Few leading and trailing values, so that prefixes lie within each other and side by side.
    bits = 32 if version == 4 else 128
    address = st.builds(
        lambda high, middle, low: high << (bits - 4) | middle << (bits // 2 - 2) | low,
        st.integers(0, 3),
        st.integers(0, 15),
        st.sampled_from([0, 1, 2, 3, 255]),
    )
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return st.builds(lambda value, length: f"{kind(value)}/{length}", address, st.integers(0, bits))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(network(4) | network(6), min_size=1, max_size=12),
    st.lists(st.integers(-2, 2), max_size=3),
    st.data(),
)
def test_against_ipaddress(folder: Path, lines: list[str], steps: list[int], data: st.DataObject) -> None:
    networks = [ipaddress.ip_network(line, strict=False) for line in lines]
    prefixes = load(folder, *lines)
    candidates = {packed("0.0.0.0"), packed("255.255.255.255"), b"\0" * 16, b"\xff" * 16}
    for net in networks:
        size = net.max_prefixlen // 8
        for edge in (int(net.network_address), int(net.broadcast_address)):
            for step in (0, *steps, -1, 1):
                if 0 <= edge + step < 1 << (8 * size):
                    candidates.add((edge + step).to_bytes(size, "big"))
    candidates.add(data.draw(st.binary(min_size=4, max_size=4)))
    candidates.add(data.draw(st.binary(min_size=16, max_size=16)))
    addresses = sorted(candidates)
    expected = [
        c.CLIENT_IGNORED if any(ipaddress.ip_address(address) in net for net in networks) else c.PENDING
        for address in addresses
    ]
    assert run(prefixes, addresses) == expected


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_large_lists(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    count = 200 if JIT_DISABLED else 5000
    shared = rng.getrandbits(64) << 64
    lines = [
        f"{ipaddress.IPv4Address(rng.getrandbits(32))}/{rng.randint(8 + 8 * seed, 32)}" for _ in range(count)
    ]
    lines += [
        f"{ipaddress.IPv6Address(shared | rng.getrandbits(64))}/{rng.randint(80, 128)}" for _ in range(count)
    ]
    lines += [f"{ipaddress.IPv6Address(rng.getrandbits(128))}/{rng.randint(20, 64)}" for _ in range(count)]
    prefixes = load(folder, *lines)
    held: dict[tuple[int, int], set[int]] = {}
    for line in lines:
        net = ipaddress.ip_network(line, strict=False)
        held.setdefault((net.max_prefixlen, net.prefixlen), set()).add(int(net.network_address))

    def expected(address: bytes) -> int:
        bits, value = 8 * len(address), int.from_bytes(address, "big")
        for (width, length), networks in held.items():
            if width == bits and value >> (width - length) << (width - length) in networks:
                return c.CLIENT_IGNORED
        return c.PENDING

    addresses = [rng.randbytes(4) for _ in range(300)] + [rng.randbytes(16) for _ in range(300)]
    for line in rng.sample(lines, 600):
        net = ipaddress.ip_network(line, strict=False)
        size = net.max_prefixlen // 8
        low, high = int(net.network_address), int(net.broadcast_address)
        for value in (low, high, rng.randint(low, high), low - 1, high + 1):
            if 0 <= value < 1 << (8 * size):
                addresses.append(value.to_bytes(size, "big"))
    addresses += [(shared | rng.getrandbits(64)).to_bytes(16, "big") for _ in range(300)]
    fates = run(prefixes, addresses)
    assert fates == [expected(address) for address in addresses]
    assert {c.PENDING, c.CLIENT_IGNORED} <= set(fates)


@pytest.mark.parametrize(
    "line",
    ["10.1.2.3/8", "0.0.0.0/0", "255.255.255.255/32", "::/0", "2001:db8::1/128", "2001:DB8::/32", "::ffff:1.2.3.4/96",
     "1:2:3:4:5:6:7::/64", "::2:3:4:5:6:7:8/3", "1:2:3:4:5:6:1.2.3.4/128", "0001::/16"],
)  # fmt: skip
def test_prefixes(folder: Path, line: str) -> None:
    net = ipaddress.ip_network(line, strict=False)
    prefixes = load(folder, line)
    assert ignored(prefixes, str(net.network_address), str(net.broadcast_address)) == [True, True]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("10.0.0.1", "no '/'"),
        ("::1", "no '/'"),
        (" 10.0.0.0/8", "space"),
        ("10.0.0.0/8 ", "space"),
        ("10.0.0.0/8\r\r", "space"),
        (" # a comment", "no '/'"),
        (" ", "no '/'"),
        ("10.0.0.0/ 8", "prefix length"),
        ("10.0.0.0/", "prefix length"),
        ("10.0.0.0/08", "prefix length"),
        ("10.0.0.0/+8", "prefix length"),
        ("10.0.0.0/-8", "prefix length"),
        ("10.0.0.0/8x", "prefix length"),
        ("10.0.0.0/255.0.0.0", "prefix length"),
        ("10.0.0.0/\u0668", "prefix length"),
        ("10.0.0.0/33", "greater than 32"),
        ("::/129", "greater than 128"),
        ("::/1000", "prefix length"),
        ("010.0.0.0/8", "leading zero"),
        ("10.00.0.0/8", "leading zero"),
        ("10.0.0/8", "neither"),
        ("10/8", "neither"),
        ("10.0.0.0.0/8", "neither"),
        ("256.0.0.0/8", "neither"),
        ("10.0.0.0/8/8", "neither"),
        ("0x0a.0.0.0/8", "neither"),
        ("/8", "neither"),
        ("fe80::1%eth0/64", "zone"),
        ("fe80::1%/64", "zone"),
        ("1:2:3:4:5:6:7/64", "neither"),
        ("1:2:3:4:5:6:7:8:9/64", "neither"),
        ("1:2:3:4:5:6:7:8::/64", "neither"),
        ("::1::/64", "neither"),
        (":::/64", "neither"),
        (":1::/64", "neither"),
        ("1:/64", "neither"),
        ("12345::/64", "neither"),
        ("g::/64", "neither"),
        ("::1.2.3/64", "neither"),
        ("::1.2.3.256/64", "neither"),
        ("::1.2.3.04/64", "leading zero"),
        ("1.2.3.4::/64", "neither"),
        ("[::1]/64", "neither"),
        ("\ufeff10.0.0.0/8", "neither"),
    ],
)
def test_bad_line(folder: Path, line: str, reason: str) -> None:
    path = folder / "bad"
    path.write_bytes(b"# first\n10.0.0.0/8\n" + line.encode() + b"\n192.0.2.0/24\n")
    with pytest.raises(ListFileError) as caught:
        parse_prefix_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line 3: ")
    assert reason in message
    # The line may hold a client's address, which belongs into no log.
    assert len(line) < 4 or line.strip() not in message


@settings(max_examples=60 if JIT_DISABLED else 300, deadline=None)
@given(
    st.from_regex(r"\A(?:[0-9a-f]{0,4}:){2,8}(?:[0-9a-f]{0,4}|[0-9]{1,3}(?:\.[0-9]{1,3}){3})\Z")
    | st.from_regex(r"\A[0-9]{1,3}(?:\.[0-9]{1,3}){3}\Z"),
)
def test_accepts_what_ipaddress_accepts(folder: Path, text: str) -> None:
    try:
        valid = bool(ipaddress.ip_address(text))
    except ValueError:
        valid = False
    try:
        accepted = len(load(folder, f"{text}/1")) == 1
    except ListFileError:
        accepted = False
    assert accepted == (valid or text in ("::", "0.0.0.0"))


def test_line_ends_and_comments(folder: Path) -> None:
    path = folder / "lines"
    path.write_bytes(b"\r\n#\n# 1.2.3.4\r\n10.0.0.0/8\r\n\n192.0.2.0/24")
    prefixes = parse_prefix_file(path)
    assert len(prefixes) == 2
    assert ignored(prefixes, "10.1.1.1", "192.0.2.9", "1.2.3.4") == [True, True, False]


def test_long_lines(folder: Path) -> None:
    path = folder / "long"
    for end in (b"\n", b""):
        path.write_bytes(b"10.0.0.0/8\n#" + b"x" * 65_534 + end)
        assert len(parse_prefix_file(path)) == 1
        path.write_bytes(b"10.0.0.0/8\n#" + b"x" * 65_535 + end)
        with pytest.raises(ListFileError, match=r"long: line 2: longer than 65,535 bytes"):
            parse_prefix_file(path)
    path.write_bytes(b"#" * 65_534 + b"\r\n10.0.0.0/8\r\n")
    assert len(parse_prefix_file(path)) == 1
    path.write_bytes(b"#" * 65_535 + b"\r\n")
    with pytest.raises(ListFileError, match="longer"):
        parse_prefix_file(path)


def test_files_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(ListFileError, match=r"missing: No such file"):
        parse_prefix_file(folder / "missing")
    with pytest.raises(ListFileError, match="Is a directory"):
        parse_prefix_file(folder)
    with pytest.raises(ListFileError, match="there is a null byte in its path"):
        parse_prefix_file("a\0b")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ListFileError, match="not a regular file"):
        parse_prefix_file(folder / "pipe")
