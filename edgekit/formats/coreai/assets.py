"""Core AI assets (.aimodel) run in a process of their own: what the export's parity run and the runtime share."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import strict_json
from edgekit.errors import BundleError, ContextError, DataError, MissingExtraError
from edgekit.families.decoding import POSITIONS, Given
from edgekit.formats.declared import Declared, Tensor, check_tensors
from edgekit.manifest import Component
from edgekit.system.frames import Arrays, pack, unpack
from edgekit.system.pipes import Patience
from edgekit.system.process import Process, how_it_ended
from edgekit.system.temporary import room

ASSET_VERSION = "2"  # the major version of the assets that coreai-core 1.0.0b3 writes and loads
LOAD_LIMIT_S, RUN_LIMIT_S = 900.0, 300.0
PROGRAM = "main.mlirb"
MOST_METADATA = 1 << 20  # bytes
STATES = ("k_cache", "v_cache")
ROTARY = "rotary_ids"
"""Positions of several axes: Core AI counts tokens by an input of the other name."""
TYPES = {"f16": "float16", "f32": "float32", "bf16": "bfloat16", "i1": "bool", "si4": "int4", "ui4": "uint4"}
WORDS, WHOLE = (("s", "int"), ("u", "uint")), (1, 2, 3, 6, 8, 16, 32, 64)
TYPES |= {f"{sign}i{bits}": f"{word}{bits}" for sign, word in WORDS for bits in WHOLE}
"""NumPy's names of the types of a program."""


def check_asset(path: Path) -> None:
    """Read an asset's own metadata.

    Args:
        path: The .aimodel folder.

    Raises:
        BundleError: it is no asset, or of a version that this runtime does not know.
    """
    try:
        found = strict_json.read(path / "metadata.json", most_bytes=MOST_METADATA)
        version = str(found["assetVersion"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path} is no Core AI asset.", why=f"Its metadata.json cannot be read: {error!r}.", fix="Export it again."
        ) from error
    if version.partition(".")[0] != ASSET_VERSION:
        raise BundleError(
            f"{path} is an asset of version {version}; this edgekit runs version {ASSET_VERSION}.",
            why=f"It was written by {found.get('producer', 'an unknown producer')}.",
            fix="Export it again with the coreai-core of constraints.txt.",
        )


def declared(signature: Mapping[str, Any]) -> Declared:
    """A program's inputs and outputs as the host tells them.

    Raises:
        BundleError: a type that is not known.
    """

    def of(listed: Sequence[tuple[str, str]]) -> list[Tensor]:
        return [Tensor(name, *tensor_type(kind)) for name, kind in listed]

    return Declared(of(signature["inputs"]), of(signature["outputs"]))


def tensor_type(text: str) -> tuple[str, tuple[int | None, ...]]:
    """Type and sizes of `tensor<1x?x96xf16>`; a free size is None.

    Raises:
        BundleError: another text.
    """
    found = re.fullmatch(r"tensor<((?:(?:\d{1,19}|\?)x)*)(\w+?)(?:,.*)?>", text[:1000])
    if found is None:
        raise BundleError(f"The type {text[:80]!r} of a Core AI program is not known.", fix="Export it again.")
    sizes = tuple(None if size == "?" else int(size) for size in found[1].split("x") if size)
    return TYPES.get(found[2], found[2]), sizes


class Runner:
    """Assets in a process of their own, with a time limit for each answer.

    Whatever ends that process (a trap in the Swift runtime, a signal, the time limit) is a BundleError here, and every
    later call says the same.
    """

    def __init__(self, threads: int, *, load_limit_s: float = LOAD_LIMIT_S, run_limit_s: float = RUN_LIMIT_S) -> None:
        """Start the process.

        Args:
            threads: OMP_NUM_THREADS of the process; Core AI's own runtime on Linux has no such setting.
            load_limit_s, run_limit_s: Seconds for one asset to be compiled and loaded, and for one run.

        Raises:
            MissingExtraError: coreai is not installed.
        """
        if find_spec("coreai") is None:
            raise MissingExtraError("run a coreai bundle", "coreai-core", "coreai")
        self._limits = {"load": load_limit_s, "run": run_limit_s}
        self._end = ""
        # What Core AI compiles goes there, and stays there when its process is killed.
        self._held = ExitStack()
        place = self._held.enter_context(room("coreai"))
        self._process = Process(
            "edgekit.formats.coreai.host", env={"OMP_NUM_THREADS": str(threads), "TMPDIR": str(place)}
        )

    def declared(self, path: Path) -> Declared:
        """What an asset's function main takes and gives; it is not compiled.

        Args:
            path: The .aimodel folder.

        Raises:
            BundleError: it is no asset, of another version, or Core AI refuses it or breaks down.
        """
        check_asset(path)
        found, _ = self._ask({"what": "declare", "path": str(path / PROGRAM)}, {}, f"load {path.name}")
        return declared(found)

    def load(self, name: str, path: Path) -> None:
        """Compile and load an asset's function main.

        Args:
            name: What to call it.
            path: The .aimodel folder.

        Raises:
            BundleError: it is no asset, of another version, or Core AI refuses it or breaks down.
        """
        check_asset(path)
        self._ask({"what": "load", "name": name, "path": str(path)}, {}, f"load {path.name}")

    def keep(self, name: str, value: NDArray[Any]) -> None:
        """Put a state's array under a name; runs change it in place."""
        self._ask({"what": "state", "name": name}, {"value": value}, f"take the state {name!r}")

    def run(self, name: str, inputs: Arrays, states: Sequence[str] = ()) -> Arrays:
        """Run a loaded asset.

        Args:
            name: As given to `load`.
            inputs: By name; integers as int32, the only ones Core AI takes.
            states: Names of kept arrays.

        Returns:
            Its outputs by name.

        Raises:
            BundleError: Core AI refuses the inputs, breaks down, or takes too long.
        """
        header = {"what": "run", "name": name, "states": list(states)}
        given = {key: value.astype(np.int32) if value.dtype == np.int64 else value for key, value in inputs.items()}
        return self._ask(header, given, f"run {name!r}")[1]

    def peak_memory_bytes(self) -> int:
        """High-water mark of the process."""
        return int(self._ask({"what": "memory"}, {}, "tell its memory")[0]["bytes"])

    def close(self) -> None:
        """End the process."""
        if not self._process.ended():
            self._process.kill()
        self._process.end()
        self._held.close()
        self._end = self._end or "its process was closed"

    def __del__(self) -> None:
        process: Process | None = vars(self).get("_process")
        if process is not None and not process.closed:
            self.close()

    def _ask(self, header: dict[str, Any], arrays: Arrays, task: str) -> tuple[dict[str, Any], Arrays]:
        if self._end:
            raise BundleError(f"Core AI does not {task}.", why=f"Earlier {self._end}.")
        limit = self._limits["load" if header["what"] == "load" else "run"]
        patience = Patience(limit)
        try:
            for piece in pack(header, arrays):
                self._process.write(piece, patience)
            answer, out = unpack(lambda place: self._process.read_into(place, patience))
        except (EOFError, BrokenPipeError) as error:
            self._end = how_it_ended(self._process.wait_end(), self._process.printed())
            raise BundleError(f"Core AI does not {task}.", why=f"{self._end}.") from error
        except TimeoutError as error:
            self._process.kill()
            self._end = f"it took longer than {limit:g} s, and its process was ended"
            raise BundleError(f"Core AI does not {task}.", why=f"{self._end}.") from error
        if "error" in answer:
            raise BundleError(f"Core AI does not {task}.", why=str(answer["error"])[:500])
        return answer, out


class Assets:
    """A bundle's assets, loaded, and the states they are run with.

    Attributes:
        context: Tokens the states take, S - 1.
    """

    def __init__(self, folder: Path, components: Mapping[str, Component], runner: Runner) -> None:
        """Load every asset.

        Args:
            folder: The bundle's.
            components: Of its manifest; each file is the program in an asset.
            runner: Where they run.

        Raises:
            BundleError: an asset does not load, or is not the one that the manifest describes.
        """
        self._runner, self._components = runner, components
        assets = {name: (folder / component.file).parent for name, component in components.items()}
        check_tensors(components, {name: runner.declared(asset) for name, asset in assets.items()})
        for name, asset in assets.items():
            runner.load(name, asset)
        inputs = {spec.name: spec for spec in components["text_decoder"].inputs}
        self._embeds = np.dtype(inputs["inputs_embeds"].dtype)
        own = ("inputs_embeds", POSITIONS, *STATES)
        self._extra = {name: np.dtype(spec.dtype) for name, spec in inputs.items() if name not in own}
        self._vocabulary = int(components["text_decoder"].outputs[0].shape[-1])
        shape = tuple(int(size) for size in inputs[STATES[0]].shape)
        self.context = shape[3] - 1  # the export leaves one place unused
        for name in STATES:
            runner.keep(name, np.zeros(shape, np.dtype(inputs[name].dtype)))

    def encode(self, component: str, pixels: NDArray[np.float32], *, tiles: bool) -> list[NDArray[np.float32]]:
        """What a vision encoder gives: (M, N, D), or (N, D), and its further outputs.

        Args:
            component: Name of the encoder.
            pixels: Tiles (M, 3, H, W), which are run one by one, or the patches (P, patch) of one image.
            tiles: Which of the two.
        """
        given = [tile[None] for tile in pixels] if tiles else [pixels]
        runs = [self._outputs(component, {"pixel_values": part}) for part in given]
        return [np.concatenate([run[0] for run in runs])] if tiles else runs[0]

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D).

        Raises:
            DataError: an id is not in the vocabulary.
        """
        check_ids(ids, self._vocabulary)
        return self._outputs("token_embedding", {"input_ids": ids})[0]

    def decode(self, embeds: NDArray[np.float32], start: int, given: Given) -> NDArray[np.float32]:
        """Append to the states; logits (1, T, V).

        Args:
            embeds: (1, T, D).
            start: Tokens in the states that are kept, P.
            given: The decoder's extra inputs by name; positions of one axis must count on from P.

        Raises:
            DataError: P + T is more than the states hold.
        """
        tokens = embeds.shape[1]
        check_room(start, tokens, self.context)
        inputs: Arrays = {
            "inputs_embeds": embeds.astype(self._embeds),
            "position_ids": np.arange(start + tokens, dtype=np.int32)[None],
        }
        named = {ROTARY if name == POSITIONS else name: array for name, array in given.items()}
        inputs |= {name: named[name].astype(kind) for name, kind in self._extra.items() if name in named}
        return self._outputs("text_decoder", inputs, STATES)[0]

    def _outputs(self, component: str, inputs: Arrays, states: Sequence[str] = ()) -> list[NDArray[np.float32]]:
        found = self._runner.run(component, inputs, states)
        return [found[spec.name].astype(np.float32) for spec in self._components[component].outputs]


def check_ids(ids: NDArray[np.int64], vocab_size: int) -> None:
    """Token ids must lie in the embedding table: Core AI reads past it without a word.

    Raises:
        DataError: one does not.
    """
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise DataError(
            f"Token id {int(wrong[0])} is outside the model's vocabulary of {vocab_size}.",
            why="The tokenizer and the model do not belong together.",
            fix="Export the bundle again from a folder whose tokenizer is the model's.",
        )


def check_room(start: int, tokens: int, context: int) -> None:
    """What is in the cache and what is added must fit: Core AI writes past its end without a word.

    Raises:
        DataError: it does not.
    """
    if start + tokens > context:
        why = f"So many the states of this bundle hold; {start} are taken, {tokens} more were given."
        raise ContextError(context, why)


def timing_note() -> str | None:
    """Why timings of Core AI on this system say nothing of an Apple device; None where they are real."""
    if platform.system() == "Darwin":
        return None
    return (
        "Core AI's Linux package is a correctness runtime: it turns weights round and copies states on every call, so "
        "its timings are not representative of any Apple device."
    )
