"""Predicted speeds of phones beside the published ones: the table of docs/prediction.md.

python benchmarks/predicted_phones.py
"""

from __future__ import annotations

from edgekit.devices._published import fit, table


def main() -> None:
    """Print the shares that the fitted rows reached, and the table."""
    compute, bandwidth = fit()
    print(f"shares of the fitted rows: {compute:.3f} of the operations, {bandwidth:.3f} of the bandwidth\n")
    print("\n".join(table()))


if __name__ == "__main__":
    main()
