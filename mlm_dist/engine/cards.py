"""Cards for computing, by the names in their drivers, with the figures of their vendor's data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OTHERS = {"Laptop", "Ti", "D", "Max", "SUPER", "Mobile", "MIG"}  # words of cards that are not the one in the table


@dataclass(frozen=True)
class Card:
    """A card.

    Args:
        words: Words of its name in the driver that tell it from others.
        flops: Peak FLOP/s of dense matrix products in bf16, in fp16 for cards without bf16; accumulated in fp32.
        gigabytes: Memory, in 10^9 bytes; the largest version.
        link: Bytes/s that it sends to other cards of its machine while it receives as many: NVLink or PCIe.
        has_bf16: Whether it has matrix units for bf16. Those without one train in fp16.
    """

    words: tuple[str, ...]
    flops: float
    gigabytes: int
    link: float
    has_bf16: bool = True


# From NVIDIA's data sheets of the cards, and for the RTX cards from the white papers of their architectures (Ampere
# GA102, Ada, RTX Blackwell). Where they state FLOP/s with sparsity, half of it. Links are half of the stated sum of
# both directions. The first entry with all of its words in the name counts.
CARDS = (
    Card(("B200",), 2250e12, 180, 900e9),
    Card(("H200", "NVL"), 835e12, 141, 450e9),
    Card(("H200",), 989e12, 141, 450e9),
    Card(("H100", "NVL"), 835e12, 94, 300e9),
    Card(("H100", "PCIe"), 756e12, 80, 64e9),
    Card(("H100",), 989e12, 80, 450e9),
    Card(("A100", "PCIe"), 312e12, 80, 32e9),
    Card(("A100",), 312e12, 80, 300e9),
    Card(("V100", "PCIe"), 112e12, 32, 16e9, has_bf16=False),
    Card(("V100",), 125e12, 32, 150e9, has_bf16=False),
    Card(("L40S",), 362e12, 48, 32e9),
    Card(("L4",), 121e12, 24, 32e9),
    Card(("A10",), 125e12, 24, 32e9),
    Card(("T4",), 65e12, 16, 16e9, has_bf16=False),
    Card(("RTX", "5090"), 209.5e12, 32, 64e9),
    Card(("RTX", "4090"), 165.2e12, 24, 32e9),
    Card(("RTX", "3090"), 71e12, 24, 32e9),
)


def card(name: str) -> Card | None:
    """The card of a name such as `NVIDIA A100-SXM4-80GB`; None if it is not in the table."""
    words = {word.upper() for word in re.split(r"[^A-Za-z0-9]+", name)}
    if words & {word.upper() for word in _OTHERS}:
        return None
    return next((one for one in CARDS if {word.upper() for word in one.words} <= words), None)
