"""The table of cards: each is recognized by the names in its driver, and only it."""

from __future__ import annotations

import pytest

from mlm_dist.engine.cards import CARDS, card

# Names as drivers report them: {name: dense TFLOP/s, memory, bf16}.
KNOWN = {
    "NVIDIA B200": (2250, 180, True),
    "NVIDIA H200": (989, 141, True),
    "NVIDIA H100 80GB HBM3": (989, 80, True),
    "NVIDIA H100 PCIe": (756, 80, True),
    "NVIDIA H100 NVL": (835, 94, True),
    "NVIDIA A100-SXM4-40GB": (312, 80, True),
    "NVIDIA A100 80GB PCIe": (312, 80, True),
    "NVIDIA A100-PCIE-40GB": (312, 80, True),
    "NVIDIA L40S": (362, 48, True),
    "NVIDIA L4": (121, 24, True),
    "NVIDIA A10": (125, 24, True),
    "NVIDIA GeForce RTX 3090": (71, 24, True),
    "NVIDIA GeForce RTX 4090": (165.2, 24, True),
    "NVIDIA GeForce RTX 5090": (209.5, 32, True),
    "Tesla V100-SXM2-16GB": (125, 32, False),
    "Tesla V100-PCIE-32GB": (112, 32, False),
    "Tesla T4": (65, 16, False),
}


@pytest.mark.parametrize("name", list(KNOWN))
def test_card_is_recognized_by_its_name(name: str) -> None:
    found = card(name)
    assert found is not None
    assert (found.flops / 1e12, found.gigabytes, found.has_bf16) == KNOWN[name]


def test_every_card_has_a_name() -> None:
    assert {card(name) for name in KNOWN} | {card("NVIDIA H200 NVL")} == set(CARDS)
    assert card("NVIDIA A100-PCIE-40GB") == card("NVIDIA A100 80GB PCIe") != card("NVIDIA A100-SXM4-80GB")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "NVIDIA A10G",
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA GeForce RTX 4090 D",
            "NVIDIA GeForce RTX 3090 Ti",
        ),
        *("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "AMD Instinct MI300X", "a card of tomorrow"),
    ],
)
def test_other_cards_are_not_taken_for_it(name: str) -> None:
    assert card(name) is None
