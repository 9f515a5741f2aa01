"""What the process asks of its libraries about memory."""

import platform
import subprocess
import sys

import pytest

from pkedit.models import memory
from pkedit.models.memory import keep_few_kernels, large_blocks_apart

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def test_few_kernels_are_kept_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "7")
    keep_few_kernels()
    assert kept() == "7"
    monkeypatch.delenv(NAME)
    keep_few_kernels()
    assert kept() == "100"
    monkeypatch.delenv(NAME)


GROWN = """
import ctypes
from pkedit.models.memory import keep_freed_memory, large_blocks_apart
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]
c.mallinfo2.restype = Info
def own(megabytes):  # More than is free already, which would be taken first.
    before = c.mallinfo2().hblks
    block = c.malloc(megabytes << 20)
    grown = c.mallinfo2().hblks - before
    c.free(block)
    return grown == 1
assert keep_freed_memory()
kept = own(64)
with large_blocks_apart():
    apart = own(128)
print(kept, apart, own(256))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such thresholds")
def test_large_blocks_are_the_systems_own_inside_and_kept_elsewhere() -> None:
    said = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["False", "True", "False"]


def test_a_process_that_keeps_nothing_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(memory, "_keeping", False)
    monkeypatch.setattr(memory, "_set", lambda _, parameter, value: told.append(parameter))
    with large_blocks_apart():
        pass
    assert told == []


def kept() -> str:
    """What a library of this process reads, not only Python's copy of the environment."""
    show = f"import ctypes; c = ctypes.CDLL(None); c.getenv.restype = ctypes.c_char_p; print(c.getenv(b'{NAME}'))"
    return subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout.strip()[2:-1]
