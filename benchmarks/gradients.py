"""How hard each objective pulls where the student is wrong: norm of its gradient on the student's logits.

    python benchmarks/gradients.py

The teacher is sure of the right token; the student gives it probability p and all the rest to one wrong token.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from edgekit.distill.objectives import build

NAMES = ("jsd", "forward_kl", "reverse_kl", "skew_kl", "tvd", "taid")
RIGHT = (0.5, 0.1, 0.01, 0.001)
SURE = 1 - 1e-6
"""The teacher's probability of the right token."""


def norm(name: str, right: float) -> float:
    """Euclidean norm of d loss / d z_S at one token of a vocabulary of two.

    Args:
        name: Of the objective, with its default settings.
        right: The student's probability of the right token, in (0, 1).
    """
    student = torch.tensor([[right, 1 - right]], dtype=torch.float64).log().float().requires_grad_(True)
    teacher = torch.tensor([[SURE, 1 - SURE]], dtype=torch.float64).log().float()
    build(name, {}).per_token(student, teacher, torch.tensor([0])).sum().backward()
    assert student.grad is not None
    return float(student.grad.norm())


def table() -> dict[str, list[float]]:
    """Objective -> its norms at each of RIGHT."""
    return {name: [norm(name, right) for right in RIGHT] for name in NAMES}


def main() -> None:
    """Parse, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    found: dict[str, Any] = table()
    if parser.parse_args().json:
        print(json.dumps({"p_right": RIGHT, "norms": found}, indent=2))
        return
    print(f"{'p(right)':12}" + "".join(f"{right:>10g}" for right in RIGHT))
    for name, norms in found.items():
        print(f"{name:12}" + "".join(f"{value:10.3f}" for value in norms))


if __name__ == "__main__":
    main()
