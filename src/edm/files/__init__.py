"""Files: reading them whole and within a bound, and giving finished ones their name.

Paths come in, bytes or a published file go out. What is read at run time is read by :mod:`edm.files.reading`,
what must never be seen half-written gets its name in :mod:`edm.files.publish`.
"""
