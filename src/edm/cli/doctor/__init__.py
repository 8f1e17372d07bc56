"""``edm doctor``: check a whole installation and say what to do, worst problem first.

A configuration comes in, findings with stable codes go out. A new finding needs an entry in
:mod:`edm.cli.doctor.catalogue` and a check: in ``site`` for files and the machine, in ``peers`` for broker and
receiver, in ``running`` for the running daemon.
"""

from edm.cli.doctor.command import SPEC, run

__all__ = ["SPEC", "run"]
