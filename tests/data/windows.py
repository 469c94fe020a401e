"""As sitecustomize.py on PYTHONPATH: takes away what Python on Windows lacks."""

import os
import signal
import sys

for name in ("pwrite", "pread", "fchmod", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGUSR1", "SIGHUP"):
    if hasattr(signal, name):
        delattr(signal, name)
sys.modules["fcntl"] = None
