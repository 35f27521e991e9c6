"""Read what the Swift tests measured as `edgekit bench --import` does:  python tests/apps/swift/phone.py FILE"""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit.external_results import phone


def main(path: Path) -> None:
    """Print the row."""
    text = path.read_text()
    assert phone.claims(text)
    (row,) = phone.rows(text, path.name)
    assert row.status == "ok" and (row.self_test or "").startswith("passed: ")
    print(f"a report of the library is a row: {row.runtime}, {row.precision}, {row.decode_tokens_per_s}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
