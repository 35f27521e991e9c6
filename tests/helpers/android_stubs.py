"""Stubs of the Android SDK beside its public signatures, as @nativescript/types-android has them.

A stub declares just what the app uses. That a method of that name, these parameters and this result is there, and is
there since Android's oldest version that the app runs on, is read from the package's declarations of API 37.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OPEN = re.compile(r"^\s*(?:export|declare) (?:module|abstract class|class|interface) ([\w.]+)")
METHOD = re.compile(r"^\s*public (static )?([\w$]+)(?:<[^(]*>)?\((.*)\): ([^;]+);")
FIELD = re.compile(r"^\s*public (static )?([\w$]+): ([^;]+);")
SINCE = re.compile(r"@since (\d+)")
CLASS = re.compile(r"(?:class|interface|enum) (\w+)(?:<\w+>)?(?: extends ([\w.]+))?[^{]*\{")
STUB_METHOD = re.compile(
    r"(?:public|protected) ((?:static |final |abstract )*)(?:<\w+> )?([\w.\[\]<>]+) (\w+)\(([^)]*)\)"
)
STUB_FIELD = re.compile(r"public ((?:static |final )*)([\w.]+) (\w+)(?: = ([^;]+))?;")
NUMBERS = {"int", "long", "float", "double", "short", "byte"}


@dataclass
class Member:
    """A method, or a field without parameters."""

    static: bool
    parameters: tuple[str, ...] | None
    type: str
    since: int = 0


@dataclass
class Declared:
    """A class of the declarations."""

    members: dict[str, list[Member]] = field(default_factory=dict)


def read_declarations(path: Path) -> dict[str, Declared]:
    """Classes by their full names."""
    found: dict[str, Declared] = {}
    names: list[tuple[int, str]] = []
    since = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        depth = len(line) - len(line.lstrip("\t"))
        if line.strip() == "}" and names and names[-1][0] == depth:
            names.pop()
        elif opened := OPEN.match(line):
            names.append((depth, opened[1]))
        elif told := SINCE.search(line):
            since = int(told[1])
            continue
        elif member := METHOD.match(line):
            kinds = tuple(one.partition(":")[2].strip() for one in _split(member[3]))
            _add(found, names, member[2], Member(bool(member[1]), kinds, member[4], since))
        elif value := FIELD.match(line):
            _add(found, names, value[2], Member(bool(value[1]), None, value[3], since))
        since = 0
    return found


def _add(found: dict[str, Declared], names: list[tuple[int, str]], name: str, member: Member) -> None:
    whole = ".".join(one for _, one in names)
    found.setdefault(whole, Declared()).members.setdefault(name, []).append(member)


def _split(parameters: str) -> Iterator[str]:
    """At commas outside of angle brackets."""
    depth, start = 0, 0
    for place, character in enumerate(parameters):
        depth += (character == "<") - (character == ">" and parameters[place - 1] != "=")
        if character == "," and depth == 0:
            yield parameters[start:place]
            start = place + 1
    if parameters[start:].strip():
        yield parameters[start:]


def differences(stubs: Path, declarations: dict[str, Declared], oldest: int) -> tuple[list[str], int]:
    """What of the stubs is declared otherwise, and how many declarations were looked at.

    Args:
        stubs: Folder of Java files.
        declarations: From `read_declarations`.
        oldest: API level that the app runs on; what is newer is a difference.
    """
    problems, looked = [], 0
    for file in sorted(stubs.rglob("*.java")):
        for owner, member, name in stub_members(file.read_text()):
            looked += 1
            known = declarations.get(owner)
            if known is None:
                problems.append(f"{owner}: no such class")
                continue
            same = [one for one in known.members.get(name, ()) if _same(member, one)]
            if not same:
                problems.append(f"{owner}.{name}{member.parameters or ''}: {member.type} is not declared so")
            elif (since := min(one.since for one in same)) > oldest:
                problems.append(f"{owner}.{name} is there since {since}, and the app runs on {oldest}")
    return problems, looked


def stub_members(text: str) -> Iterator[tuple[str, Member, str]]:
    """(class, member, name) of a Java file whose inner classes are indented by two."""
    package = re.search(r"package ([\w.]+);", text)
    assert package is not None
    outer = inner = ""
    for line in text.splitlines():
        if line.startswith("  }"):
            inner = ""
        if opened := CLASS.search(line):
            if line.startswith("  "):
                inner = f".{opened[1]}"
            else:
                outer = f"{package[1]}.{opened[1]}"
            body = line[opened.end() :].strip(" }")
            if "enum" in line and body:
                for name in re.findall(r"\w+", body):
                    yield f"{outer}{inner}", Member(True, None, f"{outer}{inner}"), name
                inner = "" if line.startswith("  ") else inner
        elif method := STUB_METHOD.search(line):
            kinds = tuple(_type(one.replace("final ", "").split()[0]) for one in _split(method[4]))
            yield f"{outer}{inner}", Member("static" in method[1], kinds, _type(method[2])), method[3]
        elif value := STUB_FIELD.search(line):
            yield f"{outer}{inner}", Member("static" in value[1], None, value[4] or _type(value[2])), value[3]


def _type(java: str) -> str:
    """A Java type as TypeScript writes it."""
    if java.endswith("[]"):
        return f"androidNative.Array<{_type(java[:-2])}>"
    if java in NUMBERS:
        return "number"
    if java in ("String", "CharSequence", "java.lang.String", "java.lang.CharSequence"):
        return "string"
    if java == "T" or java.startswith("Class<"):
        return "any" if java == "T" else "java.lang.Class<any>"
    return java


def _same(stub: Member, declared: Member) -> bool:
    if stub.static != declared.static or (stub.parameters is None) != (declared.parameters is None):
        return False
    pairs = [(stub.type, declared.type), *zip(stub.parameters or (), declared.parameters or (), strict=False)]
    return len(stub.parameters or ()) == len(declared.parameters or ()) and all(_fits(a, b) for a, b in pairs)


def _fits(stub: str, declared: str) -> bool:
    """Names of the stub's own package are written short there."""
    plain = declared.removesuffix(" | null")
    return (
        stub == plain
        or plain.endswith(f".{stub}")
        or stub in ("null", plain.strip('"'))
        or f'"{stub.strip(chr(34))}"' == plain
    )
