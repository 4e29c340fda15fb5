"""Writes wire/vectors/*.json with plain integers, apart from the code that they pin.

Run it only for a new major version of the protocol: the vectors are the contract.
"""

from __future__ import annotations

import json
from pathlib import Path

VECTORS = Path(__file__).resolve().parents[1] / "python" / "paceline" / "wire" / "vectors"
M = 2**64 - 1
SEEDS = (0, 1, 42, 2**64 - 1)
POSITIONS = (0, 1, 17, 131_071)
IDS = (0, 1, 2, 255, 49_151, 262_143)


def splitmix(z: int) -> int:
    z &= M
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & M
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & M
    return z ^ (z >> 31)


def noise_bits(seed: int, position: int, token: int) -> int:
    golden = 0x9E3779B97F4A7C15
    key = splitmix(splitmix(seed + golden) + (position + 1) * golden)
    return splitmix(key + (token + 1) * golden)


def digest(tokens: list[int]) -> int:
    value = int.from_bytes(b"Paceline", "big")
    for token in tokens:
        value = splitmix(value ^ ((token + 1) * 0x9E3779B97F4A7C15 & M))
    return value


def main() -> None:
    noise = [
        {"seed": str(seed), "position": position, "id": token, "bits": f"{noise_bits(seed, position, token):016x}"}
        for seed in SEEDS
        for position in POSITIONS
        for token in IDS
    ]
    sequences: list[list[int]] = [[], [0], [1], [0, 0], [1, 2, 3], [3, 2, 1], [49_151] * 5, list(range(100))]
    digests = [{"tokens": tokens, "digest": f"{digest(tokens):016x}"} for tokens in sequences]
    VECTORS.mkdir(exist_ok=True)
    for name, rows in (("noise", noise), ("digest", digests)):
        (VECTORS / f"{name}.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
