"""What a command prints: lines that hold text from outside, and standard streams that are closed, full or broken."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO, cast

from edm.files.visible import visible

BROKEN_PIPE = 141
"""Exit code if the reader of our output has gone: the one that a shell shows for a program ended by SIGPIPE."""


def say(*lines: object) -> None:
    """Print lines on standard output, escaped so that each stays one line and cannot control the terminal."""
    for line in lines:
        print(visible(line))


def complain(program: str, *lines: object) -> None:
    """Print lines on standard error, each after the program's name."""
    for line in lines:
        try:
            print(f"{visible(program)}: {visible(line)}", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            # Nobody can read it. But the interpreter would try again at exit, and change the exit code.
            _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def prepare_streams() -> None:
    """Make sure that the standard streams exist and accept any text.

    A closed descriptor would be given to the next file or socket that is opened, and what is printed would go there.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # Writing to a closed standard output must fail; to a closed standard error it need not.
            os.open(os.devnull, flags)
            if number:
                stream = os.fdopen(number, "w", encoding="utf-8", closefd=False)
                setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
    for output in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # something else in its place
            cast("_Configurable", output).reconfigure(errors="backslashreplace")


class _Configurable(TextIO):
    def reconfigure(self, *, errors: str) -> None: ...


def is_of_output(error: OSError) -> bool:
    """Tell whether an error came from printing, not from a file: then nothing more goes to standard output."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    # Streams have no frames of their own, and the commands leave the work with files to others, or catch its errors.
    module = frames.tb_frame.f_globals.get("__name__", "") if frames is not None else ""
    if error.filename is not None or not (module == "__main__" or module.startswith("edm.cli.")):
        return False
    _silence(sys.stdout)  # or the interpreter would complain when it flushes at exit
    return True


__all__ = ["BROKEN_PIPE", "complain", "is_of_output", "prepare_streams", "say"]
