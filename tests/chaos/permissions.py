"""A program that root runs, and that a read-only directory stops all the same."""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

TRIED = "CHAOS_OBEYS"


def hold() -> bool:
    """Whether a directory without permission to write is one that this process cannot write into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        return not os.access(folder, os.W_OK)


def obey() -> None:
    """Where permissions do not hold, as for root, start this program anew without the right to pass them."""
    if not hold() and TRIED not in os.environ:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: from what a program may have
        os.environ[TRIED] = "1"
        os.execv(sys.executable, sys.orig_argv)
