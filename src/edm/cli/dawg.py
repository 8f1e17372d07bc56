"""``edm dawg``: make, show, search and check the DAWG files that hold domain lists."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from pathlib import Path

import numpy as np

from edm.cli.arguments import Arguments, Option, Spec, UsageError
from edm.cli.printing import say
from edm.config.values import shorten
from edm.errors import InputError, OutputError
from edm.stages.domains import EXACT_MATCH, Dawg, DomainTable, compile_list, compile_list_file, parse_entry

SPEC = Spec(
    positional="compile|dump|lookup|check FILE [NAME]...",
    options=(Option("o", "compile: the file to write; one that is there is replaced, whole or not at all."),),
    config=False,
    about="compile LIST -o FILE makes a DAWG file of a text file (- is standard input) with one name a line: "
    "example.com is that name alone, *.example.com or .example.com all names below it, # begins a comment. "
    "dump FILE prints the entries in a form that compile accepts. lookup FILE NAME... shows which entry "
    "each name matches; the exit code is 1 if one matches none. check FILE shows whether a start or a reload "
    "would accept the file, and what is in it.",
)

_STDIN = "-"
_SHOWN = 5
# Text that "compile" would read as the beginning of a comment, or of a suffix entry.
_COMMENT = re.compile(r"(^|\s)#")
_STAR = re.compile(r"^\*(?=\.)")


def run(args: Arguments) -> int:
    """Run the action that the first argument names; return 1 if a name looked up matches nothing."""
    action, *rest = args.positional
    actions = {"compile": _compile, "dump": _dump, "lookup": _lookup, "check": _check}
    if action not in actions:
        raise UsageError([f"unknown action {shorten(action)}: compile, dump, lookup or check"])
    out = str(args.options["o"] or "")
    problems = [] if rest else [f"{action} needs a file"]
    if action == "lookup" and len(rest) == 1:
        problems.append("lookup needs a name")
    if action != "lookup":
        problems += [f"unexpected argument {shorten(argument)}" for argument in rest[1:]]
    if action == "compile" and not out:
        problems.append("compile needs -o FILE")
    if action != "compile" and out:
        problems.append(f"-o has no meaning for {action}")
    if problems:
        raise UsageError(problems)
    return actions[action](rest, out)


def _compile(names: list[str], out: str) -> int:
    if names[0] == _STDIN:
        with open(sys.stdin.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
            data = compile_list(lines, "standard input")
    else:
        data = compile_list_file(names[0])
    words = len(Dawg.from_bytes(data, out))
    _replace(Path(out), data)
    say(f"{out}: {words:,} entries, {len(data):,} bytes")
    return 0


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        if path.is_dir():
            raise OutputError(f"cannot write {path}: is a directory")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
                os.fsync(descriptor)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def _dump(names: list[str], _out: str) -> int:
    for word in Dawg.open(names[0]):
        print(_shown(_STAR.sub(r"\\042", _COMMENT.sub(r"\1\\035", word))))
    return 0


def _shown(word: str) -> str:
    # Other characters than printable ASCII only occur in words that no question can match.
    return word if word.isascii() and word.isprintable() else word.encode("unicode_escape").decode("ascii")


def _lookup(names: list[str], _out: str) -> int:
    dawg = Dawg.open(names[0])
    table = DomainTable.build(dawg)
    missing = 0
    for name in names[1:]:
        try:
            index, kind = table.match(name)
        except ValueError as error:
            raise InputError(f"{shorten(name)} is not a domain name: {error}") from None
        if index < 0:
            missing += 1
            say(f"{name}: no match")
        else:
            what = "exact entry" if kind == EXACT_MATCH else "suffix entry"
            word = table.word(index)
            say(f"{name}: {what} {_shown(word)} (index {dawg.index(word)})")
    return 1 if missing else 0


def _check(names: list[str], _out: str) -> int:
    dawg = Dawg.open(names[0])
    table = DomainTable.build(dawg)
    idle = table.words - table.entries
    say(f"{names[0]}: valid")
    print(f"{dawg.size:>14,}  bytes in the file, {dawg.nodes:,} nodes, {dawg.edges:,} trie edges")
    print(f"{table.nbytes:>14,}  bytes of memory when loaded")
    print(f"{dawg.words:>14,}  entries, {_suffixes(dawg):,} of them suffix entries")
    if idle:
        print(f"{idle:>14,}  of them can never match: not the lower-case form of a name, with its final dot")
        for word in _never_matching(dawg):
            print(f"{'':>14}    {_shown(word)[:200]}")
    return 0


def _suffixes(dawg: Dawg) -> int:
    count = 0
    for text, ends in dawg.batches():
        starts = np.concatenate([[0], ends[:-1]])
        count += int(
            np.count_nonzero((text[np.minimum(starts, len(text) - 1)] == ord(".")) & (ends - starts > 1))
        )
    return count


def _never_matching(dawg: Dawg) -> list[str]:
    found = []
    for word in dawg:
        try:
            good = parse_entry(word) == word
        except ValueError:
            good = False
        if not good:
            found.append(word)
            if len(found) == _SHOWN:
                break
    return found
