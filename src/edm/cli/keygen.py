"""``edm keygen``: make the keys and certificates that a test or pilot site needs."""

from __future__ import annotations

import os
from pathlib import Path

from edm.cli.arguments import Arguments, Option, Spec, UsageError
from edm.cli.init import write_new
from edm.cli.printing import say
from edm.config.values import shorten
from edm.errors import OutputError
from edm.tapir.keys.keygen import Authority, client_request, private_pem, signing_key

PRIVATE = 0o600
PUBLIC = 0o644
TEST_CLIENT = "edm-test"
"""Default common name in a test client's certificate."""

SPEC = Spec(
    positional="[signing|client]",
    options=(
        Option("kid", "signing: the key ID, which names this site to Core."),
        Option("out", "signing: file for the private key; the public one goes to FILE.pub.json beside it."),
        Option("common-name", f'client and --test-ca: name in the certificate (--test-ca: "{TEST_CLIENT}").'),
        Option("out-dir", "client: directory for client-key.pem and client-request.pem."),
        Option(
            "test-ca",
            "Directory for a certificate authority of its own (ca.pem) with a server certificate for localhost "
            "and a client certificate. For tests only.",
        ),
    ),
    config=False,
    about="Make keys: the key that signs what goes to Core (signing --kid NAME --out FILE), a client key with a "
    "certificate request for Core's authority to sign (client --common-name NAME --out-dir DIR), or everything "
    "for a test without Core (--test-ca DIR). Existing files are never overwritten; private keys are readable "
    "to their owner only.",
)


def run(args: Arguments) -> int:
    """Make the keys or certificates that the arguments ask for, and print the names of their files."""
    options = {name: str(value) for name, value in args.options.items() if value is not None}
    kind = _kind(args.positional, options)
    if kind == "signing":
        out = Path(options["out"])
        private, public = signing_key(options["kid"])
        _write([(out, private, PRIVATE), (out.with_name(out.name + ".pub.json"), public, PUBLIC)])
    elif kind == "client":
        folder = Path(options["out-dir"])
        key, request = client_request(options["common-name"])
        _write([(folder / "client-key.pem", key, PRIVATE), (folder / "client-request.pem", request, PUBLIC)])
    else:
        _write(_test_files(Path(options["test-ca"]), options.get("common-name", TEST_CLIENT)))
    return 0


_OPTIONS = {
    "signing": (("kid", "out"), ()),
    "client": (("common-name", "out-dir"), ()),
    "--test-ca": (("test-ca",), ("common-name",)),
}
"""Options that each kind requires, and options that it accepts."""


def _kind(positional: list[str], options: dict[str, str]) -> str:
    kinds = positional + (["--test-ca"] if "test-ca" in options else [])
    if not kinds:
        raise UsageError(["nothing to make: say signing, client, or --test-ca DIR"])
    if len(kinds) > 1:
        raise UsageError([f"only one of {' and '.join(kinds)} at a time"])
    kind = kinds[0]
    if options.get("test-ca") == "":
        raise UsageError(["--test-ca needs a directory"])
    if kind not in _OPTIONS:
        raise UsageError([f"unknown kind of key {shorten(kind)}: signing or client"])
    needed, taken = _OPTIONS[kind]
    problems = [f"{kind} needs --{name}" for name in needed if not options.get(name)]
    problems += [f"--{name} has no meaning for {kind}" for name in options if name not in (*needed, *taken)]
    if problems:
        raise UsageError(problems)
    return kind


def _test_files(folder: Path, common_name: str) -> list[tuple[Path, bytes, int]]:
    authority = Authority.make()
    server_key, server = authority.server()
    client_key, client = authority.client(common_name)
    return [
        (folder / "ca-key.pem", private_pem(authority.key), PRIVATE),
        (folder / "ca.pem", authority.pem, PUBLIC),
        (folder / "server-key.pem", server_key, PRIVATE),
        (folder / "server.pem", server, PUBLIC),
        (folder / "client-key.pem", client_key, PRIVATE),
        (folder / "client.pem", client, PUBLIC),
    ]


def _write(files: list[tuple[Path, bytes, int]]) -> None:
    # All files are checked before the first is written, because one half of a key pair is of no use.
    if there := [str(path) for path, _, _ in files if os.path.lexists(path)]:
        verb = "exists" if len(there) == 1 else "exist"
        raise OutputError(f"nothing was made: {', '.join(there)} {verb} already and will not be overwritten")
    folder = files[0][0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(f"cannot make directory {folder}: {error.strerror}") from None
    for path, data, mode in files:
        if not write_new(path, data, mode):
            raise OutputError(f"{path} exists already and will not be overwritten")
        say(f"{path}{'  (private)' if mode == PRIVATE else ''}")
