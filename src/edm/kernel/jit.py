"""The decorators for kernels.

A kernel is a Numba ``nogil`` function over arrays: no Python objects, no allocation, it writes into arrays
it is given. Its compiled form is kept by :mod:`edm.kernel.cache`, so every module that defines kernels imports its
decorator from here and never touches ``numba`` itself.

Three modes, chosen by the environment before the first import: JIT (the default), ``NUMBA_BOUNDSCHECK=1``
(every index is checked; for tests), ``NUMBA_DISABLE_JIT=1`` (kernels run as plain Python; for tests).

Traps that the kernels of this package avoid:

- A NumPy ``uint8`` scalar stays 8 bits wide without JIT (``0xC0 << 8 == 0``) but widens under JIT. Bytes are
  therefore read through :func:`u8`, :func:`be16`, :func:`be32` only.
- ``int64`` mixed with ``uint64`` becomes ``float64``. Hash arithmetic stays in ``uint64`` throughout.
- A ``NamedTuple`` that comes from Python costs 0.3 µs per field at every call, because Numba reads the names of its
  fields to find out its type, and a NumPy scalar costs as much. Kernels that run per batch take arrays and plain
  tuples of arrays, and give these their names first: ``table = Table(*table)``, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np

from edm.kernel import cache
from edm.kernel.columns import I64, U64, Bytes, U64Array

F = TypeVar("F", bound=Callable[..., Any])

JIT_DISABLED = bool(getattr(numba.config, "DISABLE_JIT", False))


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _compiled(function: F, *, kept: bool = True, **options: Any) -> F:
    njit: Any = numba.njit  # its stubs know neither all options nor that the function's type stays
    compiled: F = njit(**(_OPTIONS | options))(function)
    if kept and not JIT_DISABLED:
        cache.keep(compiled)
    return compiled


def kernel(function: F) -> F:
    """Compile ``function`` as a kernel: cached on disk, GIL released, division by zero not checked.

    It makes no array, not even a view, and so needs no reference counts. Numba would count references of array
    arguments wherever a helper takes one; where it cannot prove them superfluous, each costs an atomic operation
    per row, on a counter that all workers share.
    """
    return _compiled(function, _nrt=False)


def allocating_kernel(function: F) -> F:
    """Compile a kernel that makes arrays of its own; for what happens rarely."""
    return _compiled(function)


def inlined(function: F) -> F:
    """Compile a small helper that kernels call; LLVM inlines it into them. As :func:`kernel`, it makes no array."""
    return _compiled(function, _nrt=False)


def force_inlined(function: F) -> F:
    """Compile a helper into every kernel that calls it, however large it is; Python cannot call it.

    LLVM leaves a larger helper as a call, which hands over each array as seven words on the stack.
    """
    return _compiled(
        function,
        kept=False,
        _nrt=False,
        forceinline=True,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
    )


def cache_folder() -> Path | None:
    """Return the folder that holds the compiled kernels of this version of the package, if there is one."""
    return cache.store().folder


@force_inlined
def le64(buf: Bytes, i: U64) -> U64:
    """Return the little-endian 64-bit number at ``i`` (uint64) as uint64. The caller has checked ``i + 8``."""
    return (
        np.uint64(buf[i])
        | (np.uint64(buf[i + np.uint64(1)]) << np.uint64(8))
        | (np.uint64(buf[i + np.uint64(2)]) << np.uint64(16))
        | (np.uint64(buf[i + np.uint64(3)]) << np.uint64(24))
        | (np.uint64(buf[i + np.uint64(4)]) << np.uint64(32))
        | (np.uint64(buf[i + np.uint64(5)]) << np.uint64(40))
        | (np.uint64(buf[i + np.uint64(6)]) << np.uint64(48))
        | (np.uint64(buf[i + np.uint64(7)]) << np.uint64(56))
    )


@force_inlined
def put_le64(out: Bytes, i: U64, word: U64) -> None:
    """Write ``word`` (uint64) to the eight bytes at ``i`` (uint64). The caller has checked ``i + 8``."""
    out[i] = word & np.uint64(0xFF)
    out[i + np.uint64(1)] = (word >> np.uint64(8)) & np.uint64(0xFF)
    out[i + np.uint64(2)] = (word >> np.uint64(16)) & np.uint64(0xFF)
    out[i + np.uint64(3)] = (word >> np.uint64(24)) & np.uint64(0xFF)
    out[i + np.uint64(4)] = (word >> np.uint64(32)) & np.uint64(0xFF)
    out[i + np.uint64(5)] = (word >> np.uint64(40)) & np.uint64(0xFF)
    out[i + np.uint64(6)] = (word >> np.uint64(48)) & np.uint64(0xFF)
    out[i + np.uint64(7)] = word >> np.uint64(56)


def _prefetch_code() -> Any:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np import arrayobj

    pointer_to_data: Any = arrayobj.make_array
    declare: Any = cgutils.get_or_insert_function

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def prefetch(_context: Any, array: Any, _index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first = pointer_to_data(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(first, [arguments[1]]), ir.IntType(8).as_pointer())
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
            function = declare(builder.module, kind, "llvm.prefetch.p0i8")
            # For reading, into all levels of the cache, as data.
            builder.call(function, [address, number(0), number(3), number(1)])
            return context.get_dummy_value()

        return types.void(array, types.uint64), generate

    return prefetch


def _no_prefetch(array: U64Array, i: U64) -> None:
    """Stand for :data:`prefetch` where kernels are plain Python."""


prefetch: Any = _no_prefetch if JIT_DISABLED else _prefetch_code()
"""``prefetch(array, i)`` begins to fetch the cache line of element ``i`` (uint64) of a one-dimensional array; nothing
waits for it, and it is no error if there is no such element."""


@inlined
def u8(buf: Bytes, i: I64) -> I64:
    """Return byte ``i`` of ``buf`` widened to int64. The caller has checked ``i``."""
    return np.int64(buf[np.uint64(i)])  # an unsigned index spares Numba's check for negative ones


@inlined
def be16(buf: Bytes, i: I64) -> I64:
    """Return the big-endian 16-bit number at ``i`` as int64. The caller has checked ``i + 2``."""
    return (u8(buf, i) << 8) | u8(buf, i + 1)


@inlined
def be32(buf: Bytes, i: I64) -> I64:
    """Return the big-endian 32-bit number at ``i`` as int64. The caller has checked ``i + 4``."""
    return (u8(buf, i) << 24) | (u8(buf, i + 1) << 16) | (u8(buf, i + 2) << 8) | u8(buf, i + 3)


__all__ = [
    "JIT_DISABLED",
    "allocating_kernel",
    "be16",
    "be32",
    "cache_folder",
    "force_inlined",
    "inlined",
    "kernel",
    "le64",
    "prefetch",
    "put_le64",
    "u8",
]
