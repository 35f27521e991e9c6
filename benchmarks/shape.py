"""Every target at the shape of SmolVLM-256M beside PyTorch: image, prompt, decode, size, peak memory.

    python benchmarks/shape.py --work FOLDER --bundle onnx:int8 --bundle executorch:int4 --threads 1 --threads 2

Random weights, so its accuracies mean nothing; one tile of 512 px. The checkpoint and the bundles are made once in
FOLDER by `edgekit export`, then `edgekit bench` measures all of them in turns, once for each number of threads, and
prints its table; the reports are in FOLDER/report-<threads>.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

EDGEKIT = [sys.executable, "-m", "edgekit"]


def main() -> None:
    """Make, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bundle", action="append", metavar="TARGET:PRECISION", required=True)
    parser.add_argument("--threads", action="append", type=int)
    parser.add_argument("--prompt", default="128", help="Tokens of the prompt, `-p` of edgekit bench.")
    parser.add_argument("--new", default="32", help="Tokens behind it, `-n`.")
    parser.add_argument("--repetitions", default="5")
    given = parser.parse_args()
    checkpoint: Path = given.work / "vlm"
    if not checkpoint.exists():
        sys.path.insert(0, str(Path(__file__).parent))
        from decode import make_models  # type: ignore[import-not-found]

        make_models(given.work)
    bundles = []
    for word in given.bundle:
        target, _, precision = word.partition(":")
        bundles.append(given.work / f"{target}-{precision}")
        if not bundles[-1].exists():
            export = ["export", checkpoint, "--target", target, "--precision", precision, "--out", bundles[-1]]
            # Random weights may miss a tolerance on single tokens, which exits with 3 and keeps the bundle.
            code = subprocess.run([*EDGEKIT, *map(str, export), "--samples", "2"], check=False).returncode
            if code not in (0, 3):
                sys.exit(code)
    for threads in given.threads or [1]:
        bench = ["bench", *bundles, "--reference", checkpoint, "--data", "easy-vqa:test", "--limit", "2"]
        bench += ["--threads", threads, "-p", given.prompt, "-n", given.new, "-r", given.repetitions]
        subprocess.run([*EDGEKIT, *map(str, bench), "--out", str(given.work / f"report-{threads}")], check=True)


if __name__ == "__main__":
    main()
