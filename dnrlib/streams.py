"""Named random streams: the same (seed, generation, purpose) always gives the same numbers."""

import hashlib

import torch


def stream(seed: int, generation: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on its three names and on nothing else.

    No code in this library draws from a global generator. Purposes never share a stream, so that,
    for example, a reinitialised value does not depend on whether the mask drew numbers. Draws are
    made on the CPU and then moved, so that every device sees the same numbers.
    """
    name = f"{seed}/{generation}/{purpose}".encode()
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)
    return torch.Generator().manual_seed(number)
