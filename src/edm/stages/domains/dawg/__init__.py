"""DAWG files: a sorted list of words as a minimal automaton (directed acyclic word graph).

The bytes of a file or a text list come in; words with their indexes, or the bytes of a new file, go out.
Reading is in :mod:`~edm.stages.domains.dawg.dawg`, writing in :mod:`~edm.stages.domains.dawg.writer`, the
text form in :mod:`~edm.stages.domains.dawg.text`.
"""
