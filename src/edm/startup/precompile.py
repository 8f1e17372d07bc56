"""Compiling some kernels in a second process while the program starts.

The compiler holds the interpreter lock, so a second thread would not help. A second process halves the time of a
cold start on two cores. It calls each kernel with no rows, which compiles it into the cache on disk.
"""

from __future__ import annotations

import numpy as np

from edm.config import Config
from edm.kernel.columns import Columns, U8Array
from edm.snapshot.parts import make_pseudonyms
from edm.stages.dns.name import new_memo
from edm.stages.dns.walk import walk_messages
from edm.stages.dnstap.decode import decode_others
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.new_qname.events import build_events
from edm.stages.session.rows import SessionRows
from edm.startup.sample import use_rare_kernels


def compile_late_kernels() -> None:
    """Compile the kernels that the warm-up reaches last, in its order."""
    columns = Columns(1)
    buf: U8Array = np.zeros(1024, np.uint8)
    batch = (buf, columns.u32, columns.u64, columns.fate, 0)
    make_pseudonyms(Config(), bytes(32)).new_cache().pseudonymise(*batch)
    walk_messages(buf, 512, columns.u32, columns.fate, 0, new_memo())
    decode_others(*batch)
    parts = [Accumulators(1, 20), Accumulators(1, 20)]
    for part in parts:
        part.update(*batch)
    build_events(buf, columns.u32, columns.u64, np.zeros(1, np.int64), 0)
    SessionRows(1).append(*batch)
    Accumulators.merge(parts).to_table(lambda _: [], 0)
    use_rare_kernels()


if __name__ == "__main__":
    compile_late_kernels()
