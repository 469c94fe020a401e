"""Seeds for one purpose each. Apart from seeding.py, which imports torch."""

import hashlib


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed that is a function of (seed, purpose, index) alone, on every machine and Python.

    `purpose` may name a file, whose name need not be UTF-8.
    """
    text = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1
