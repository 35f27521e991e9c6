"""Bundles that lie, as data: what is changed (a field, a file), into what, and what a verb must make of it.

    @pytest.mark.parametrize("name", hostile.CASES)
    def test_it(name, tiny_bundle, tmp_path):
        bundle = hostile.made(name, tiny_bundle, tmp_path)
        hostile.check(hostile.forked("run", bundle, tmp_path))

Every case ends in one message that names the field or file, exit code 1, no traceback, within bounds of time and
memory, and nothing is written outside of the bundle's folder. `forked` runs a verb in a fork of this process, where
everything is imported already; `apart` in a process of its own, as a user does. Manifests are sealed after the change:
a seal shows what went wrong on the way, and keeps nobody from writing another manifest.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests import reseal

from edgekit.bundle import sealed

SECONDS = 10.0
"""Processor time of one verb."""
BYTES = 2_000_000_000
"""Resident memory of one verb."""
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """How a verb ended.

    Attributes:
        code: Exit code; below 0 the number of a signal.
        said: Standard output and error.
        seconds: Of the processor.
        peak_bytes: Resident.
        outside: What lies beside the bundle that was not there before.
    """

    code: int
    said: str
    seconds: float
    peak_bytes: int
    outside: tuple[str, ...]


def check(found: Outcome, names: str = "", codes: tuple[int, ...] = (1,)) -> None:
    """Assert that a verb refused, and how."""
    assert "Traceback" not in found.said, found.said[-3000:]
    assert found.code in codes, (found.code, found.said[-2000:])
    assert found.seconds < SECONDS and found.peak_bytes < BYTES, (found.seconds, found.peak_bytes)
    assert found.outside == ()
    assert len(found.said) < 20_000 and found.said.strip()
    assert names in found.said, (names, found.said)


# ------------------------------------------------------------------------------------------------------------ mutators


def field(path: str, value: Any) -> Change:
    """Set a field of the manifest: a dotted path, numbers for places in lists; `*` stands for any one key or place."""

    def change(folder: Path) -> None:
        reseal(folder, lambda manifest: put(manifest, path.split("."), value))

    return change


def put(value: Any, path: list[str], new: Any) -> None:
    """Set what a path leads to."""
    for step in path[:-1]:
        value = value[_key(value, step)]
    value[_key(value, path[-1])] = new


def _key(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return 0 if step == "*" else int(step)
    return next(iter(value)) if step == "*" else step


def text(data: bytes | str) -> Change:
    """Put other bytes in the place of manifest.json."""
    return lambda folder: _write(folder / "manifest.json", data)


def file(name: str, data: bytes | str | Callable[[bytes], bytes]) -> Change:
    """Put other bytes in the place of a listed file, under its right hash.

    Args:
        name: A file name, or the start of one, or a component's name for its file.
        data: Bytes, or what makes them from the old ones.
    """

    def change(folder: Path) -> None:
        path = folder / _named(folder, name)
        old = path.read_bytes()
        _write(path, data(old) if callable(data) else data)
        reseal(folder)

    return change


def setting(name: str, path: str, value: Any) -> Change:
    """Set a field of a JSON file beside the manifest."""

    def change(folder: Path) -> None:
        parsed = json.loads((folder / name).read_text())
        put(parsed, path.split("."), value)
        _write(folder / name, json.dumps(parsed))
        reseal(folder)

    return change


def _write(path: Path, data: bytes | str) -> None:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def _named(folder: Path, name: str) -> str:
    manifest = json.loads((folder / "manifest.json").read_text())
    if name in manifest["components"]:
        return str(manifest["components"][name]["file"])
    return next(listed for listed in manifest["files"] if listed.startswith(name))


def special(name: str, make: Callable[[Path], object]) -> Change:
    """Put something that is no regular file in the place of one."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def deep(levels: int) -> str:
    """A JSON text that is nested."""
    return "[" * levels + "1" + "]" * levels


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


# --------------------------------------------------------------------------------------------------------------- cases

NUMBERS = (
    "schema_version", "vocab_size", "cache.layers", "cache.kv_heads", "cache.head_dim", "position_axes", "deepstack",
    "text.image_token_id", "text.eos_token_ids.0", "buckets.*.tokens", "files.*.bytes",
)  # fmt: skip
TEXTS = (
    "name", "target", "family", "precision.common", "text.tokenizer", "text.chat_template", "student_sha256",
    "components.*.file", "buckets.*.component", "files.*.sha256", "components.*.inputs.*.dtype",
)  # fmt: skip
HOLDERS = ("files", "components", "preprocessing", "text", "cache", "buckets", "precision", "tools", "details")
WRONG_NUMBERS: dict[str, Any] = {
    "negative": -1, "above 64 bits": 1 << 70, "a fraction": 1.5, "text": "7", "nothing": None, "true": True,
    "a list": [1], "a mapping": {"a": 1},
}  # fmt: skip
WRONG_TEXTS: dict[str, Any] = {"a number": 7, "nothing": None, "a list": ["x"], "long": "x" * 1_000_000}
WRONG_HOLDERS: dict[str, Any] = {"a number": 7, "nothing": None, "a list": [[1]], "text": "x", "of nothing": {"": {}}}
NAMES = (
    "../out", "/etc/passwd", "a/../../out", "..\\out", "a\0b", "a//b", "./a", "", ".", "..", "a\nb", "x" * 300, "C:\\a",
    "CONFIG.JSON", "a/", "\u202egpj", "\ud800",
)  # fmt: skip
HUGE = 1 << 40


def _cases() -> Iterator[tuple[str, Change]]:
    yield from ((f"{path} {kind}", field(path, value)) for path in NUMBERS for kind, value in WRONG_NUMBERS.items())
    yield from ((f"{path} {kind}", field(path, value)) for path in TEXTS for kind, value in WRONG_TEXTS.items()
                if not (path in ("name",) and kind == "long"))  # fmt: skip
    yield from ((f"{path} {kind}", field(path, value)) for path in HOLDERS for kind, value in WRONG_HOLDERS.items()
                if not (path in ("preprocessing", "details", "tools") and kind == "of nothing"))  # fmt: skip
    yield from ((f"{path} huge", field(path, HUGE)) for path in NUMBERS)
    for name in NAMES:
        yield f"files named {name!r:.30}", _listing(name)
        yield f"component at {name!r:.30}", field("components.text_decoder.file", name)
    yield from _documents()
    yield from _fits()
    yield from _files()


def _listing(name: str) -> Change:
    entry = {"bytes": 1, "sha256": "0" * 64}

    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = entry
        escaped = "\ud800" in name  # which no file can hold but as an escape
        _write(folder / "manifest.json", json.dumps(manifest) if escaped else sealed(manifest))

    return change


def _documents() -> Iterator[tuple[str, Change]]:
    """Manifests that are no JSON, or too much of it."""
    yield "manifest deep", text(deep(100_000))
    yield "manifest deep mapping", text('{"a":' * 100_000 + "1" + "}" * 100_000)
    yield "manifest of 100 MB", text("[" + "1," * 50_000_000 + "1]")
    yield "manifest of 7 MB of lists", text("[" + "[]," * 2_400_000 + "[]]")
    yield "manifest of 7 MB of keys", text("{" + ",".join(f'"k{n}":1' for n in range(600_000)) + "}")
    yield "manifest with one long key", text('{"' + "k" * 7_000_000 + '":1}')
    yield "manifest NaN", text('{"schema_version": NaN}')
    yield "manifest Infinity", text('{"schema_version": Infinity}')
    yield "manifest 1e999", text('{"schema_version": 1e999}')
    yield "manifest with a number of 4000 digits", text('{"schema_version": ' + "9" * 4000 + "}")
    yield "manifest with a number of a million digits", text('{"schema_version": ' + "9" * 1_000_000 + "}")
    yield "manifest with a key twice", text('{"schema_version": 3, "schema_version": 3}')
    yield "manifest empty", text("")
    yield "manifest not UTF-8", text(b"\xff\xfe\x00")
    yield "manifest null", text("null")
    yield "manifest cut", text('{"schema_version": 3, "na')
    yield "manifest newer", field("schema_version", 999)
    yield "a deep field", field("details", json.loads(deep(500)))
    yield "a field with Infinity as text", field("cache.layers", "Infinity")
    yield "an unknown key", field("surprise", 1)
    yield "a hundred thousand components", field("components", {f"c{n}": {} for n in range(100_000)})
    yield "a hundred thousand files", field("files", {f"c{n}": {"bytes": 1, "sha256": "0" * 64} for n in range(50_000)})


def _fits() -> Iterator[tuple[str, Change]]:
    """Numbers that are possible, and not those of the programs."""
    yield "three position axes", field("position_axes", 3)
    yield "two position axes", field("position_axes", 2)
    yield "deepstack that the decoder does not take", field("deepstack", 1)
    yield "deepstack of three", field("deepstack", 3)
    yield "heads that are not its own", field("cache.kv_heads", 7)
    yield "heads as wide as can be", field("cache.head_dim", 65536)
    yield "heads and inputs as wide as can be", _wide(65536)
    yield "heads and inputs wider by one", _wide(17)
    yield "layers as many as can be", field("cache.layers", 4096)
    yield "one layer less", _fewer_layers
    yield "logits of another size", field("components.text_decoder.outputs.0.shape.2", 1 << 30)
    yield "logits without a size", field("components.text_decoder.outputs.0.shape", [])
    yield "no logits", field("components.text_decoder.outputs.0.name", "logit")
    yield "no outputs", field("components.text_decoder.outputs", [])
    yield "no inputs", field("components.text_decoder.inputs", [])
    yield "another name of an input", field("components.text_decoder.inputs.0.name", "embeds")
    yield "an input of no type", field("components.text_decoder.inputs.0.dtype", "object")
    yield "an input of another type", field("components.text_decoder.inputs.0.dtype", "int8")
    yield "an input of many axes", field("components.text_decoder.inputs.0.shape", [1] * 1000)
    yield "a negative size", field("components.text_decoder.inputs.0.shape.2", -5)
    yield "a huge size", field("components.text_decoder.inputs.2.shape.0", 1 << 31)
    yield "a picture of another size", field("components.vision_encoder.inputs.0.shape", [1, 1, 3, 9999, 9999])
    yield "two components are one", _exchange("token_embedding", "text_decoder", copy=True)
    yield "two components are exchanged", _exchange("token_embedding", "text_decoder")
    yield "encoder and decoder are exchanged", _exchange("vision_encoder", "text_decoder")
    yield "encoder and embedding are exchanged", _exchange("vision_encoder", "token_embedding")
    yield "no decoder", lambda folder: _without(folder, "text_decoder")
    yield "no embedding", lambda folder: _without(folder, "token_embedding")
    yield "no encoder", lambda folder: _without(folder, "vision_encoder")
    yield (
        "a component that nobody asks for",
        field("components.extra", {"file": "config.json", "inputs": [], "outputs": []}),
    )
    yield "a bucket of another component", field("buckets.*.component", "token_embedding")
    yield "a grid that no picture has", field("buckets.*.grid", [1, 9999, 9999])
    yield "a grid of huge numbers", field("buckets.*.grid", [HUGE, HUGE])
    yield "a grid of nothing", field("buckets.*.grid", [0, 0])
    yield "sizes huge", field("preprocessing.sizes", [[1 << 30, 1 << 30]])
    yield "sizes as large as can be", field("preprocessing.sizes", [[16384, 16384]])
    yield "sizes of nothing", field("preprocessing.sizes", [[0, 0]])
    yield "sizes negative", field("preprocessing.sizes", [[-64, 64]])
    yield "sizes of text", field("preprocessing.sizes", "64x64")
    yield "sizes a mapping", field("preprocessing.sizes", {"a": 1})
    yield "sizes of one number", field("preprocessing.sizes", [64])
    yield "another target", field("target", "executorch")
    yield "gguf without its details", field("target", "gguf")
    yield "coreml in name", field("target", "coreml")
    yield "coreai in name", field("target", "coreai")
    yield "an unknown target", field("target", "../../evil")
    yield "an unknown family", field("family", "os")


def _wide(width: int) -> Change:
    def change(folder: Path) -> None:
        def edit(manifest: dict[str, Any]) -> None:
            manifest["cache"]["head_dim"] = width
            decoder = manifest["components"]["text_decoder"]
            for spec in (*decoder["inputs"], *decoder["outputs"]):
                if spec["name"].startswith(("past_", "present")) and len(spec["shape"]) == 4:
                    spec["shape"][3] = width

        reseal(folder, edit)

    return change


def _fewer_layers(folder: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["cache"]["layers"] -= 1
        decoder = manifest["components"]["text_decoder"]
        decoder["inputs"], decoder["outputs"] = decoder["inputs"][:-2], decoder["outputs"][:-2]

    reseal(folder, edit)


def _exchange(one: str, other: str, *, copy: bool = False) -> Change:
    def change(folder: Path) -> None:
        def edit(manifest: dict[str, Any]) -> None:
            parts = manifest["components"]
            first, second = parts[one]["file"], parts[other]["file"]
            parts[one]["file"], parts[other]["file"] = second, second if copy else first

        reseal(folder, edit)

    return change


def _without(folder: Path, name: str) -> None:
    reseal(folder, lambda manifest: manifest["components"].pop(name))


BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def _files() -> Iterator[tuple[str, Change]]:
    """Files that are not what their names say, and things that are no files."""
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        yield f"{name} deep", file(name, '{"model_type": ' + deep(100_000) + "}")
        yield f"{name} of 100 MB", file(name, '{"a": "' + "x" * 100_000_000 + '"}')
        yield f"{name} a list", file(name, "[1]")
        yield f"{name} empty", file(name, "")
        yield f"{name} not UTF-8", file(name, b"\xff\xfe")
    for name in ("tokenizer.json",):
        yield f"{name} deep", file(name, deep(100_000))
        yield f"{name} of 100 MB", file(name, '{"a": "' + "x" * 100_000_000 + '"}')
        yield f"{name} empty", file(name, "")
        yield f"{name} no tokenizer", file(name, "{}")
        yield f"{name} that repeats", _tokenizer(
            {"type": "Sequence", "normalizers": [
                {"type": "Replace", "pattern": {"Regex": "[^x]|x"}, "content": "x" * 1000} for _ in range(6)
            ]}
        )  # fmt: skip
        yield (
            f"{name} that searches for ever",
            _tokenizer(
                {"type": "Replace", "pattern": {"Regex": "(a|a|a|aa|.)*(a|a|a|aa|.)*(a|a|a|aa|.)*\\n$"}, "content": "y"}
            ),
        )
        yield f"{name} with ids far out", setting("tokenizer.json", "added_tokens.0.id", 4_000_000_000)
        yield f"{name} with ids out of the table", setting("tokenizer.json", "model.vocab", {"a": 50_000})
    yield "config.json without a type", setting("config.json", "model_type", 7)
    yield "config.json of another type", setting("config.json", "model_type", "qwen2_vl_nonsense")
    yield "chat template that never ends", file("chat_template", BOMB)
    yield "chat template of a long text", file("chat_template", "{{ 'a' * 10000000000 }}")
    yield "chat template of 100 MB", file("chat_template", "x" * 100_000_000)
    yield "chat template deep", file("chat_template", "{% if 1 %}" * 10_000)
    yield "chat template not UTF-8", file("chat_template", b"\xff\xfe")
    yield "chat template that runs code", file("chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    yield "chat template without a picture", file("chat_template", "hello")
    yield "chat template of nothing", file("chat_template", "")
    for name in ("text_decoder", "token_embedding", "vision_encoder"):
        yield f"{name} garbage", file(name, b"\xff" * 5000)
        yield f"{name} empty", file(name, b"")
        yield f"{name} cut", file(name, lambda data: data[: len(data) // 2])
        yield f"{name} zeros at its end", file(name, lambda data: data[:-1000] + b"\0" * 1000)
    yield "decoder a protobuf of a huge length", file("text_decoder", b"\x3a\xff\xff\xff\xff\x07" + b"\0" * 100)
    yield "decoder a safetensors of a huge header", file("text_decoder", struct.pack("<Q", 1 << 62) + b"{}" * 50)
    yield "decoder a GGUF of huge counts", file("text_decoder", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    yield "a pickle", both(lambda folder: _write(folder / "x.pkl", b"x"), lambda folder: _listed(folder, "x.pkl"))
    yield "a file too many", lambda folder: _write(folder / "more.bin", b"x")
    yield "a file too few", lambda folder: (folder / "tokenizer.json").unlink()
    yield "a FIFO too many", lambda folder: os.mkfifo(folder / "pipe")
    yield "a socket too many", lambda folder: _socket(folder / "socket")
    yield "a link to a folder outside", lambda folder: (folder / "up").symlink_to(folder.parent)
    yield "a link to itself", lambda folder: (folder / "loop").symlink_to(folder / "loop")
    yield "a link to a file outside", lambda folder: (folder / "passwd").symlink_to("/etc/passwd")
    for name in ("manifest.json", "config.json", "tokenizer.json", "chat_template.jinja"):
        yield f"{name} a FIFO", special(name, os.mkfifo)
        yield f"{name} a folder", special(name, Path.mkdir)
        yield f"{name} a link outside", special(name, lambda path: path.symlink_to("/etc/passwd"))
        yield f"{name} a link to a device", special(name, lambda path: path.symlink_to("/dev/zero"))
        yield f"{name} a socket", special(name, _socket)
    yield "the decoder a link outside", _linked("text_decoder")
    pixels: dict[str, tuple[Any, ...]] = {
        "size": ({"longest_edge": 10**9},), "size.longest_edge": (-5, "x", 1e300), "max_image_size": (7,),
        "max_image_size.longest_edge": (1, 0, 10**6, -1), "image_mean": ("abc", [7], [1, 2]), "resample": (99, "x"),
        "image_std": ([0, 0, 0], [1, 1, "x"]), "rescale_factor": ("x", [1]),
    }  # fmt: skip
    models: dict[str, tuple[Any, ...]] = {
        "vision_config.image_size": (10**9, "x", [1]), "vision_config.patch_size": (0, -7), "scale_factor": (0, "x"),
        "vision_config": ([], 7), "text_config": (7,),
    }  # fmt: skip
    for name, table in (("preprocessor_config.json", pixels), ("config.json", models)):
        for path, values in table.items():
            yield from ((f"{name} {path} {value}", setting(name, path, value)) for value in values)


def _listed(folder: Path, name: str) -> None:
    reseal(folder, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))


def _linked(component: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / _named(folder, component)
        path.rename(folder.parent / "secret")
        path.symlink_to(folder.parent / "secret")

    return change


def _tokenizer(normalizer: dict[str, Any]) -> Change:
    return setting("tokenizer.json", "normalizer", normalizer)


CASES: dict[str, Change] = dict(_cases())


def made(name: str, bundle: Path, place: Path) -> Path:
    """A copy of a bundle with a case's change, alone in a folder of its own."""
    folder = place / "inside" / "bundle"
    shutil.copytree(bundle, folder)
    CASES[name](folder)
    return folder


# ------------------------------------------------------------------------------------------------------- running verbs


def arguments(verb: str, bundle: Path, place: Path) -> list[str]:
    """A verb's command line."""
    if verb == "run":
        shown = ["--prompt", "what is there?", "--image", str(picture(place))]
        return ["run", str(bundle), *shown, "--max-new-tokens", "3"]
    if verb == "bench":
        questions = place / "questions.jsonl"
        line = {"images": [str(picture(place))], "question": "what is there?", "answer": "circle", "id": "1"}
        questions.write_text(json.dumps(line) + "\n")
        return ["bench", str(bundle), "--data", str(questions), "--out", str(bundle.parent / "report"), "--limit", "1"]
    return [verb, str(bundle)]


def picture(place: Path) -> Path:
    """A drawn one."""
    from edgekit.demo.shapes import draw

    path = place / "picture.png"
    if not path.exists():
        draw(0)[0].save(path)
    return path


def forked(verb: str, bundle: Path, place: Path) -> Outcome:
    """Run a verb in a fork of this process, with limits of processor time and memory."""
    return forked_words(arguments(verb, bundle, place), bundle, place)


def forked_words(words: list[str], bundle: Path, place: Path) -> Outcome:
    """As `forked`, of any command line."""
    with _watched(bundle, place) as (log, outside):
        child = os.fork()
        if child == 0:
            _run_here(words, log)
        _, status, used = os.wait4(child, 0)
    return Outcome(
        os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), used.ru_utime + used.ru_stime,
        used.ru_maxrss * 1024, tuple(outside),
    )  # fmt: skip


def _run_here(words: list[str], log: Path) -> None:
    """The fork's part; it never comes back."""
    code = 70
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        limit(_virtual_bytes() + BYTES)
        from edgekit.cli import build

        try:
            build()(words, standalone_mode=True)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def limit(most_bytes: int) -> None:
    """Bounds of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 2))
    signal.alarm(120)  # a wait costs no processor time


def apart(verb: str, bundle: Path, place: Path, most_bytes: int = 12 << 30) -> Outcome:
    """Run a verb in a process of its own, as a user does.

    Args:
        verb, bundle, place: As for `forked`.
        most_bytes: Of address space, of each of its processes; libraries reserve more than they use.
    """
    words = [sys.executable, "-m", "edgekit", *arguments(verb, bundle, place)]
    with _watched(bundle, place) as (log, outside):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        with log.open("wb") as stream:
            code = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=300, cwd=place, check=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes)),
            ).returncode  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss * 1024 if after.ru_maxrss > before.ru_maxrss else 0
    return Outcome(code, log.read_text(errors="replace"), min(spent, time.monotonic() - began), peak, tuple(outside))


@contextmanager
def _watched(bundle: Path, place: Path) -> Iterator[tuple[Path, list[str]]]:
    """Notes what appears beside the bundle."""
    log = place / "log.txt"
    log.touch()

    def there() -> set[str]:
        found = {path.relative_to(place).as_posix() for path in place.rglob("*")}
        return {name for name in found if not name.startswith(("inside/bundle/", "inside/report"))}

    before, outside = there(), list[str]()
    yield log, outside
    outside.extend(sorted(there() - before))
