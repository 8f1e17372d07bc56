"""Printing for all commands: text from outside is escaped, and closed, full or broken streams are handled."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO, cast

from edm.files.visible import visible

BROKEN_PIPE = 141
"""Exit code if the reader of standard output has closed it; a shell shows the same for SIGPIPE."""


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
            # Nobody can read the lines. The interpreter would try again at exit and change the exit code.
            _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def prepare_streams() -> None:
    """Make sure that the standard streams exist and accept any text.

    The next file or socket would get the number of a closed descriptor, and printed text would go there.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # Writing to a closed standard output must fail; writing to a closed standard error need not.
            os.open(os.devnull, flags)
            if number:
                stream = os.fdopen(number, "w", encoding="utf-8", closefd=False)
                setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
    for output in (sys.stdout, sys.stderr):
        with contextlib.suppress(
            AttributeError, ValueError, OSError
        ):  # the stream was replaced by another object
            cast("_Configurable", output).reconfigure(errors="backslashreplace")


class _Configurable(TextIO):
    def reconfigure(self, *, errors: str) -> None: ...


def is_of_output(error: OSError) -> bool:
    """Return whether an error came from printing and not from a file; if so, standard output is silenced."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    # A stream adds no frame to the traceback, so an error of printing ends in a command's module. Commands use files
    # only through other packages, or catch their errors.
    module = frames.tb_frame.f_globals.get("__name__", "") if frames is not None else ""
    if error.filename is not None or not (module == "__main__" or module.startswith("edm.cli.")):
        return False
    _silence(sys.stdout)  # otherwise the interpreter reports an error when it flushes at exit
    return True


__all__ = ["BROKEN_PIPE", "complain", "is_of_output", "prepare_streams", "say"]
