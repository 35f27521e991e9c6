"""Accuracy, parity and size of Core AI bundles of a student at each precision, on Apple's own runtime.

    python benchmarks/aimodel.py [--student demo:student] [--data easy-vqa:test] [--questions 100]
                                [--precision fp16 ...] [--json]

All precisions answer the same questions as PyTorch. One line each: greedy answers with the same tokens as PyTorch's,
accuracy with its 95 % Wilson interval, the paired difference to PyTorch in points, the largest difference of a logit
over the export's parity run, and bytes of the assets and of the bundle. Times are left out: the Linux package is a
correctness runtime.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.data import Sample, samples
from edgekit.data.scoring import score_answer
from edgekit.export.bundling import export_checkpoint
from edgekit.export.coreai import PRECISIONS
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.comparison import open_bundle
from edgekit.runtimes.generate import answer
from edgekit.stats import paired, score_interval


def answers(session: Any, questions: Sequence[Sample]) -> tuple[list[list[int]], list[float]]:
    """Tokens and scores of a session's greedy answers."""
    tokens, scores = [], []
    for item in questions:
        said = answer(session, item.messages, [image.open() for image in item.images], max_new_tokens=16)
        tokens.append(said.token_ids)
        scores.append(score_answer("exact", said.text, item))
    return tokens, scores


def measure(student: Path, questions: Sequence[Sample], precisions: Sequence[str], folder: Path) -> Iterator[Any]:
    """One row per precision, after one for PyTorch.

    Args:
        student: Checkpoint.
        questions: To answer; the first 16 of them are the export's parity run.
        precisions: Of PRECISIONS.
        folder: Bundles go there.
    """
    reference = RUNTIMES.load("pytorch").open_session(student, 1)
    theirs, base = answers(reference, questions)
    reference.close()
    yield {"precision": "PyTorch fp32", "n": len(base), "accuracy": sum(base) / len(base), "ci95": score_interval(base)}
    for precision in precisions:
        bundle = export_checkpoint(
            student, "coreai", precision, folder / precision, opens=open_bundle, samples=questions[:16]
        )
        session = RUNTIMES.load("coreai").open_session(bundle.folder, 1)
        ours, scores = answers(session, questions)
        session.close()
        gain, parity = paired(scores, base), bundle.manifest.parity
        assert parity is not None
        yield {
            "precision": precision,
            "n": len(scores),
            "accuracy": sum(scores) / len(scores),
            "ci95": score_interval(scores),
            "delta": gain.delta,
            "delta_ci95": gain.ci95,
            "identical": sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours),
            "logits_max_abs": parity["logits_max_abs"],
            "mean_kl": parity["mean_kl"],
            "assets_bytes": sum(e.bytes for name, e in bundle.manifest.files.items() if name.endswith(".mlirb")),
            "bundle_bytes": bundle.size_bytes,
        }


def line(row: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    low, high = row["ci95"]
    cells = [row["precision"], str(row["n"]), f"{100 * row['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"]
    if "delta" in row:
        low, high = row["delta_ci95"]
        cells += [
            f"{100 * row['delta']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            f"{100 * row['identical']:.1f} %",
            f"{row['logits_max_abs']:.1e}",
            f"{row['mean_kl']:.1e}",
            f"{row['assets_bytes'] / 1e6:.2f}",
        ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="demo:student")
    parser.add_argument("--data", default="easy-vqa:test")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--precision", action="append", choices=list(PRECISIONS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    questions = list(samples(args.data, limit=args.questions))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(resolve_checkpoint(args.student), questions, args.precision or list(PRECISIONS), Path(folder))
        for row in rows:
            print(json.dumps(row) if args.json else line(row), flush=True)


if __name__ == "__main__":
    main()
