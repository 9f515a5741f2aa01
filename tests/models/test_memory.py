"""What the process asks of its libraries about memory."""

import subprocess
import sys

import pytest

from pkedit.models.memory import keep_few_kernels

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def test_few_kernels_are_kept_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "7")
    keep_few_kernels()
    assert kept() == "7"
    monkeypatch.delenv(NAME)
    keep_few_kernels()
    assert kept() == "100"
    monkeypatch.delenv(NAME)


def kept() -> str:
    """What a library of this process reads, not only Python's copy of the environment."""
    show = f"import ctypes; c = ctypes.CDLL(None); c.getenv.restype = ctypes.c_char_p; print(c.getenv(b'{NAME}'))"
    return subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout.strip()[2:-1]
