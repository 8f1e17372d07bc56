"""EDM: the Edge DNSTAP Minimiser.

dnstap frames of a DNS server come in. Histogram files, session files and new_qname events go out. The
packages are layers: each imports only what stands below it in the picture of ``docs/architecture.md``; that
page also says where to change what.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("edm-dnstap")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__"]
