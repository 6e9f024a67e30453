"""Seeds for each purpose, from one."""

import hashlib


def mixed_seed(*numbers: int) -> int:
    """64 random-looking bits, a function of the numbers. (torch's CPU generator reads only the low 32 of a seed.)"""
    text = " ".join(map(str, numbers))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
