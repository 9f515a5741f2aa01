"""Tells libraries what to keep in memory: the C library what was freed, within a stage, and oneDNN few kernels.

Every step of an edit allocates tensors of the same sizes. glibc gives blocks this large back to the system when they
are freed, and the system zeroes every page when it hands them out again; keeping them saves 10 to 25 % of a step.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager

# Parameters of mallopt(3), from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
# Bytes from which on a block is the system's own, and no part of what is kept: usually, and where it lives apart.
KEPT, APART = 1 << 30, 1 << 22
_keeping = False


def keep_freed_memory() -> bool:
    """Makes the allocator of this process keep what is freed. Returns whether it took effect (glibc only)."""
    global _keeping
    library = _c_library()
    if library is not None:
        _keeping = _set(library, M_MMAP_THRESHOLD, KEPT) and _set(library, M_TRIM_THRESHOLD, 2**31 - 1)
    return _keeping


@contextmanager
def large_blocks_apart() -> Generator[None]:
    """Blocks of several megabytes for which nothing that is kept has room go back to the system when they are freed.

    For what lives long and has a size of its own each time, such as the keys and values of a batch: among blocks that
    are kept it leaves gaps that nothing else fits into. Changes nothing in a process that keeps none.
    """
    library = _c_library()
    if library is None or not _keeping:
        yield
        return
    _set(library, M_MMAP_THRESHOLD, APART)
    try:
        yield
    finally:
        _set(library, M_MMAP_THRESHOLD, KEPT)


def _set(library: ctypes.CDLL, parameter: int, value: int) -> bool:
    library.mallopt.argtypes, library.mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(library.mallopt(parameter, value))


def keep_few_kernels() -> None:
    """Has oneDNN keep the matrix kernels of the last hundred shapes; call it before the first of them is used.

    By default it keeps a thousand, each with its working memory. No two batches have the same shape, so they are not
    used again: a hundred megabytes after ten steps of an edit.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "100")


def _c_library() -> ctypes.CDLL | None:
    """glibc, where it is the C library of this process."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


def give_back_freed_memory() -> None:
    """Returns what is freed to the system: what comes next needs tensors of other sizes."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)
