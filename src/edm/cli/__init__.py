"""The command line: one module for each command; :mod:`edm.cli.main` knows them all."""
