"""Domain lists: the file format (``dawg``) and the lookup of question names (``table``).

A list file and the question names of a batch come in; the index of the matching entry goes out, and the fates
``question_ignored`` and ``well_known``. Change the format of files in ``dawg``, the way of matching in
``table``.
"""

from edm.kernel.columns import U8Array, U32Array, U64Array
from edm.stages.domains.dawg.dawg import Dawg, EmptyFileError
from edm.stages.domains.dawg.text import (
    compile_list,
    compile_list_file,
    parse_entry,
    parse_name,
    starter_dawg,
)
from edm.stages.domains.dawg.writer import write_dawg
from edm.stages.domains.table.hashing import HASH_KEY
from edm.stages.domains.table.lookup import EXACT_MATCH, NO_MATCH, SUFFIX_MATCH, mark_matches
from edm.stages.domains.table.name_hashing import hash_names as _hash_names
from edm.stages.domains.table.table import DomainTable


def hash_names(
    buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int, key: U64Array = HASH_KEY
) -> None:
    """Write ``QNAME_HASH`` of the pending rows; see :func:`edm.stages.domains.table.name_hashing.hash_names`.

    Every table built with the same ``key`` may look these rows up; by default that is the key of this process.
    """
    _hash_names(buf, u32, u64, fate, n, key)


__all__ = [
    "EXACT_MATCH",
    "NO_MATCH",
    "SUFFIX_MATCH",
    "Dawg",
    "DomainTable",
    "EmptyFileError",
    "compile_list",
    "compile_list_file",
    "hash_names",
    "mark_matches",
    "parse_entry",
    "parse_name",
    "starter_dawg",
    "write_dawg",
]
