"""A choice a recipe makes for all data sets, or for each one: one name, or a mapping with an optional `default`."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.errors import DataError

DEFAULT = "default"

# One name for every sample, or a sample's `dataset` -> name.
Choice = str | Mapping[str, str]


def pick(choice: Choice, dataset: str | None, key: str) -> str:
    """The name chosen for a data set.

    Args:
        choice: One name, or data set -> name.
        dataset: A sample's field `dataset`; None when it has none.
        key: The recipe's key, for messages.

    Raises:
        DataError: the mapping names neither this data set nor a default.
    """
    if isinstance(choice, str):
        return choice
    found = choice.get(dataset or DEFAULT, choice.get(DEFAULT))
    if found is None:
        which = f"the data set {dataset!r}" if dataset else "a sample without a field 'dataset'"
        raise DataError(
            f"{key} names nothing for {which}.",
            why=f"It names: {', '.join(choice)}.",
            fix=f"Add it, or a line  {DEFAULT}: NAME  for all others.",
        )
    return found


def entries(choice: Choice, key: str) -> list[tuple[str, str]]:
    """(dotted key, name) of each name in a choice."""
    if isinstance(choice, str):
        return [(key, choice)]
    return [(f"{key}.{dataset}", name) for dataset, name in choice.items()]


def describe(choice: Choice) -> str:
    """A choice in one line: `exact`, or `chartqa: relaxed, default: exact`."""
    return choice if isinstance(choice, str) else ", ".join(f"{dataset}: {name}" for dataset, name in choice.items())
