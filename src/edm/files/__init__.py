"""Files: reading them as a whole up to a largest size, and giving finished files their name.

Paths come in, bytes or a published file go out. :mod:`edm.files.reading` reads files at run time.
:mod:`edm.files.publish` gives a file its name, so that nobody sees it half-written.
"""
