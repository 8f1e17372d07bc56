"""``edm doctor``: looks at a whole installation and says what to do, worst first.

A configuration comes in, findings with stable codes go out. A new finding is a line in :mod:`edm.cli.doctor.catalogue`
and the check that makes it, in the module of what it looks at: the site's files, the peers, or the running daemon.
"""

from edm.cli.doctor.command import SPEC, run

__all__ = ["SPEC", "run"]
