"""Derived seeds, one for each purpose. This module is separate from seeding.py, which imports torch."""

import hashlib


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed that depends on (seed, purpose, index) alone, on every machine and Python.

    `purpose` may contain a file name, which need not be UTF-8.
    """
    text = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1
