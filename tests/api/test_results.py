"""What the verbs give back in Python is typed, and as JSON what it always was."""

from __future__ import annotations

import inspect
import json
from importlib.resources import files
from pathlib import Path

import pytest

from edgekit import api

FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_verb_gives_a_bare_mapping(name: str) -> None:
    """Except the settings that a command line names."""
    told = inspect.signature(getattr(api, name)).return_annotation
    assert told != inspect.Signature.empty
    assert name == "parse_overrides" or "Any" not in told, f"api.{name} gives {told}"


def test_demo_cards_are_read_and_written_as_they_lie() -> None:
    cards = api.demo_cards()
    weights = Path(str(files("edgekit.demo") / "weights"))
    for name, card in cards.items():
        kept = json.loads((weights / name / "card.json").read_text())
        assert list(card.as_json().items()) == list(kept.items())
        assert card.parameters == kept["parameters"] and list(card.test_accuracy_ci95) == kept["test_accuracy_ci95"]
    of_scenes, plain = cards["scenes-teacher-80"], cards["teacher"]
    assert of_scenes.step == 1080 and of_scenes.test_by_kind["list"].questions > 0
    assert plain.step is None and plain.test_by_kind == {} and plain.snapshots == {}


def test_a_verb_is_called_with_the_fields_of_its_settings() -> None:
    given = inspect.signature(api.chat).parameters
    assert list(given)[:3] == ["model", "generation", "max_new_tokens"] and given["max_new_tokens"].default == 256
    assert given["generation"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(api.run).parameters)[:3] == ["model", "prompt", "images"]
    told = inspect.getdoc(api.chat) or ""
    assert told.index("max_new_tokens: Longest answer of a turn.") < told.index("Returns:")
    assert told.index("repetition_penalty: In the place of the model's") < told.index("Returns:")
    with pytest.raises(TypeError, match="temprature"):
        api.run("demo:student", "q", temprature=1.0)  # type: ignore[call-arg]
