"""The one reader of recipes, manifests and reports: every problem at once, and the way back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import RecipeError
from edgekit.manifest import Manifest
from edgekit.recipe.model import Recipe
from edgekit.recipe.reading import demo_recipe_path
from edgekit.report.model import Report
from edgekit.schema import field_docs, json_schema, read, read_document, to_json


@dataclass(frozen=True)
class Inner:
    """A part."""

    size: int
    """How large, in pixels."""
    mode: Literal["fast", "slow"] = "fast"


@dataclass(frozen=True)
class Outer:
    """The whole."""

    name: str
    inner: Inner
    rate: float = 1.0
    """Steps per second."""
    on: bool = False
    maybe: int | None = None
    either: int | str = 0
    pair: tuple[float, str] = (0.0, "")
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    free: Any = None
    level: Literal[0, 1] = 0
    schema_version: int = 1


LEAST: dict[str, Any] = {"name": "n", "inner": {"size": 1}}


def problems(**changes: Any) -> list[str]:
    found: list[str] = []
    result = read(Outer, {**LEAST, **changes}, found)
    assert (result is None) == bool(found)
    return found


def value_of(name: str, value: Any) -> Any:
    found: list[str] = []
    result = read(Outer, {**LEAST, name: value}, found)
    assert not found and result is not None
    return getattr(result, name)


def test_every_problem_is_listed_with_its_path() -> None:
    found: list[str] = []
    wrong = {
        "inner": {"sise": 1, "mode": "fats"},
        "rate": "quick",
        "many": [{"size": 1}, {"size": "2"}, 3],
        "named": {"a": {"size": 1.5}},
        "extra": 0,
    }
    assert read(Outer, wrong, found) is None
    assert sorted(found) == [
        "extra: unknown key, did you mean 'either'?",
        "inner.mode: 'fats' is not one of 'fast', 'slow'. Did you mean 'fast'?",
        "inner.sise: unknown key, did you mean 'size'?",
        "inner.size: missing",
        "many[1].size: expected a whole number, found text '2'",
        "many[2]: expected a mapping, found a whole number",
        "name: missing",
        "named.a.size: expected a whole number, found a number 1.5",
        "rate: expected a number, found text 'quick'",
    ]


@pytest.mark.parametrize("value", [None, [], "text", 3, True])
def test_what_is_no_mapping(value: Any) -> None:
    found: list[str] = []
    assert read(Outer, value, found) is None
    assert len(found) == 1 and found[0].startswith("the top level: expected a mapping, found ")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("on", 1, "on: expected true or false, found a whole number 1"),
        ("on", "yes", "on: expected true or false, found text 'yes'"),
        ("maybe", True, "maybe: expected a whole number, found true/false True"),
        ("maybe", 1.0, "maybe: expected a whole number, found a number 1.0"),
        ("rate", True, "rate: expected a number, found true/false True"),
        ("rate", float("inf"), "rate: expected a finite number, found inf"),  # JSON has no such thing
        ("rate", "nan", "rate: expected a finite number, found nan"),
        ("rate", None, "rate: expected a number, found nothing None"),
        ("name", 3, "name: expected text, found a whole number 3"),
        ("either", 1.5, "either: expected a whole number or text, found a number 1.5"),
        ("either", None, "either: expected a whole number or text, found nothing None"),
        ("pair", [1.0], "pair: expected 2 values, found 1"),
        ("pair", [1.0, 2], "pair[1]: expected text, found a whole number 2"),
        ("pair", "ab", "pair: expected a list, found text 'ab'"),
        ("many", {"size": 1}, "many: expected a list, found a mapping {'size': 1}"),
        ("named", [1], "named: expected a mapping, found a list"),
        ("level", True, "level: True is not one of 0, 1."),
        ("level", 1.0, "level: 1.0 is not one of 0, 1. Did you mean '1'?"),
        ("inner", {"size": 1, "mode": 1}, "inner.mode: 1 is not one of 'fast', 'slow'."),
    ],
)
def test_kinds(name: str, value: Any, problem: str) -> None:
    assert problems(**{name: value}) == [problem]


def test_numbers_as_yaml_gives_them() -> None:
    for text in ("1e-6", "1.0e-6", "0.000001"):  # YAML 1.1 takes the first for text
        assert value_of("rate", yaml.safe_load(text)) == 1e-6
    rate = value_of("rate", 3)
    assert rate == 3.0 and isinstance(rate, float)
    assert value_of("maybe", None) is None and value_of("maybe", 0) == 0
    assert value_of("either", "x") == "x" and value_of("either", 4) == 4
    assert value_of("pair", [1, "a"]) == (1.0, "a")
    assert value_of("free", [{"anything": None}]) == [{"anything": None}]


def test_keys_that_are_no_text() -> None:
    found: list[str] = []
    assert read(Outer, {**LEAST, 1: 0, 2.5: 0}, found) is None
    assert found == ["1: unknown key", "2.5: unknown key"]


def test_defaults() -> None:
    found: list[str] = []
    assert read(Outer, LEAST, found) == Outer("n", Inner(1)) and not found


inners = st.builds(Inner, st.integers(), st.sampled_from(["fast", "slow"]))
finite = st.floats(allow_nan=False, allow_infinity=False)
outers = st.builds(
    Outer, st.text(), inners, finite, st.booleans(), st.none() | st.integers(), st.integers() | st.text(),
    st.tuples(finite, st.text()), st.lists(inners, max_size=3).map(tuple),
    st.dictionaries(st.text(), inners, max_size=3), st.none() | st.lists(st.text()), st.sampled_from([0, 1]),
    st.just(1),
)  # fmt: skip


@given(outers)
def test_round_trip_through_json_text(whole: Outer) -> None:
    found: list[str] = []
    assert read(Outer, json.loads(json.dumps(to_json(whole))), found) == whole and not found


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | finite | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
        max_leaves=6,
    )
)
def test_any_value_is_read_or_refused_with_a_reason(value: Any) -> None:
    for name in (item.name for item in dataclasses.fields(Outer)):
        found: list[str] = []
        result = read(Outer, {**LEAST, name: value}, found)
        assert (result is None) == bool(found)
        assert all(problem.startswith(name) for problem in found)


# --------------------------------------------------------------------------------------------------------- JSON Schema


def violations(schema: dict[str, Any], value: Any, path: str = "$") -> list[str]:
    """A validator of the part of JSON Schema that `json_schema` writes; an unknown keyword is an error."""
    known = {"$schema", "type", "properties", "required", "additionalProperties", "description", "anyOf", "enum"}
    assert schema.keys() <= known | {"prefixItems", "minItems", "items"}, schema
    if "anyOf" in schema:
        tried = [violations(option, value, path) for option in schema["anyOf"]]
        return [] if [] in tried else [f"{path}: none of the options"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: not in the enum"]
    kinds: dict[str, tuple[type, ...]] = {
        "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,),
        "number": (int, float), "null": (type(None),),
    }  # fmt: skip
    if "type" in schema:
        right = isinstance(value, kinds[schema["type"]]) and (
            schema["type"] == "boolean" or not isinstance(value, bool)
        )
        if not right:
            return [f"{path}: not {schema['type']}"]
    found = [f"{path}: lacks {name}" for name in schema.get("required", []) if name not in value]
    if schema.get("type") == "object":
        for key, item in value.items():
            inner = schema.get("properties", {}).get(key, schema["additionalProperties"])
            found += [f"{path}.{key}: unknown"] if inner is False else violations(inner, item, f"{path}.{key}")
    if schema.get("type") == "array":
        fixed = schema.get("prefixItems", [])
        found += [f"{path}: too short"] if len(value) < schema.get("minItems", 0) else []
        for i, item in enumerate(value):
            inner = fixed[i] if i < len(fixed) else schema["items"]
            found += [f"{path}[{i}]: too many"] if inner is False else violations(inner, item, f"{path}[{i}]")
    return found


@given(outers)
def test_what_is_written_fits_its_schema(whole: Outer) -> None:
    assert violations(json_schema(Outer), json.loads(json.dumps(to_json(whole)))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 1}, {"inner": {}}, {"inner": {"size": 1, "mode": "no"}}, {"extra": 1}, {"on": 1}, {"maybe": "1"},
        {"either": None}, {"pair": [1.0]}, {"pair": [1.0, "a", "b"]}, {"many": [3]}, {"named": {"a": 1}},
    ],
)  # fmt: skip
def test_what_the_reader_refuses_the_schema_refuses(changes: dict[str, Any]) -> None:
    assert problems(**changes)
    assert violations(json_schema(Outer), {**LEAST, **changes})


def test_the_demo_recipe_fits_the_recipes_schema() -> None:
    recipe = yaml.safe_load(demo_recipe_path().read_text(encoding="utf-8"))
    assert violations(json_schema(Recipe), recipe) == []
    assert violations(json_schema(Recipe), {**recipe, "teacher": "t"}) == ["$.teacher: unknown"]


@pytest.mark.parametrize("document", [Recipe, Manifest, Report])
def test_every_document_has_a_schema(document: type[Any]) -> None:
    described = json_schema(document)
    assert described["$schema"].endswith("2020-12/schema") and described["additionalProperties"] is False
    assert described["required"] and set(described["required"]) < set(described["properties"])
    json.dumps(described)


def test_docs_become_descriptions() -> None:
    assert field_docs(Inner) == {"size": "How large, in pixels."}
    properties = json_schema(Outer)["properties"]
    assert properties["rate"] == {"type": "number", "description": "Steps per second."}
    assert properties["inner"]["properties"]["size"]["description"] == "How large, in pixels."
    assert properties["maybe"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}


def test_versioned_documents() -> None:
    def open_it(value: Any) -> Outer:
        return read_document(Outer, value, newest=1, what="thing", source="x.json", error=RecipeError)

    assert open_it(LEAST) == Outer("n", Inner(1))
    with pytest.raises(RecipeError, match=r"x\.json has thing schema 2; this edgekit reads up to 1"):
        open_it({"schema_version": 2, "whatever": "newer"})
    with pytest.raises(RecipeError, match=r"(?s)x\.json is not a valid thing:.*name: missing.*inner: missing"):
        open_it({})
