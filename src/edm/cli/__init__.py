"""The command line: one module for each command.

Arguments come in, an exit code and lines for a person or a script go out. A new command is a module with ``run``
(and ``SPEC`` if it has arguments of its own) and one row in :mod:`edm.cli.main`. This is the top layer: no other
package imports it.
"""
