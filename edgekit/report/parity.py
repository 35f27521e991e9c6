"""parity.json: what `edgekit verify` found out about a bundle, as a versioned document."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit import schema
from edgekit.errors import BundleError

SCHEMA_VERSION = 3  # 2: components, odd images, attribution; 3: what apps are handed
PARTS = ("preprocessing", "vision", "embedding", "decoder")


@dataclass(frozen=True)
class Files:
    """The bundle's files, which are whole: a bundle that is not is an error, and gets no parity.json."""

    count: int
    bytes: int
    whole: bool
    sealed: bool = True
    """Whether the manifest is too; those of schema 1 and 2 had no seal."""


@dataclass(frozen=True)
class Check:
    """A figure and the tolerance it is held to."""

    value: float | None
    """None: not finite, which holds no tolerance."""
    bar: float
    held: bool


@dataclass(frozen=True)
class ModuleParity:
    """A module's outputs beside the PyTorch module's, on the same inputs, over all samples."""

    cosine: float | None
    snr_db: float | None
    """10 log10 of signal power over error power; 200 where they are equal."""
    max_abs: float | None
    values: int
    """Numbers compared."""


@dataclass(frozen=True)
class Loss:
    """How far next-token distributions are from the reference's, along the reference's own answers."""

    mean_kl: float | None
    """KL(reference, other), nats; None where logits are not finite or a prompt fits no more."""
    top1_disagreement: float
    """Share of tokens whose best candidate is another one."""


@dataclass(frozen=True)
class PartLoss:
    """What one part alone costs: the reference with this part taken from the bundle."""

    loss: Loss
    export: Loss | None = None
    """The same with the part's fp32 export: what remains of the loss without quantisation."""
    quantisation: Loss | None = None
    """loss minus export."""


@dataclass(frozen=True)
class Attribution:
    """Where a bundle's loss comes from, by swapping one part at a time."""

    total: Loss
    """The whole bundle."""
    parts: dict[str, PartLoss]
    """preprocessing, vision, embedding, decoder. Losses need not add up: errors meet in the decoder."""
    largest: str | None
    """The part that costs most; None where none costs more than rounding does."""
    note: str = ""
    """Why there is no share of quantisation, where there is none."""


@dataclass(frozen=True)
class Parity:
    """The document."""

    schema_version: int
    bundle: str
    """Hash."""
    target: str
    precision: str
    files: Files
    compared: bool
    passed: bool
    why: str = ""
    """Why nothing was compared."""
    runtime: str | None = None
    verified_by: Literal["runtime", "evaluator"] = "runtime"
    """Whether the runtime itself ran, or an evaluator of its programs."""
    generation: Literal["greedy"] = "greedy"
    """How both sides answer: the plain best token, without the model's own generation settings."""
    questions: str | None = None
    """Data spec, or stock."""
    samples: int = 0
    tokens: int = 0
    """Of the reference's answers."""
    odd_pictures: int = 0
    """Images of unusual modes and shapes that were prepared by both sides."""
    pixel_max_abs: float | None = None
    """Between the bundle's preprocessing and the Hugging Face processor, in normalised units, odd images included."""
    prompt_ids_equal: float | None = None
    """Share of prompts with the same token ids, placeholders expanded, odd images included."""
    parameters_equal: float | None = None
    """1 where the manifest's image parameters are those of the bundle's processor files, else 0."""
    greedy_identical: float | None = None
    """Share of answers with the same tokens."""
    top1_agreement: float | None = None
    """Share of tokens whose best candidate is the same, along the reference's answers."""
    logits_max_abs: float | None = None
    mean_kl: float | None = None
    components: dict[str, ModuleParity] = field(default_factory=dict)
    """vision, embedding, decoder; empty where the runtime does not show its modules."""
    checks: dict[str, Check] = field(default_factory=dict)
    handover: str = ""
    """What of the files for apps was not made again, and why; what was is among the checks, as app_pixels and so on."""
    attribution: Attribution | None = None


def read_parity(path: Path) -> Parity:
    """A parity.json.

    Raises:
        BundleError: not there, damaged, or of a newer schema.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"There is no {path}.", fix=f"Make it:  edgekit verify {path.parent}") from error
    except ValueError as error:
        raise BundleError(f"{path} is damaged.", why=str(error), fix=f"edgekit verify {path.parent}") from error
    return of_verify(value, str(path))


def of_verify(value: Any, source: str) -> Parity:
    """A parity report from its JSON value.

    Args:
        value: As parity.json holds it.
        source: Where it is from, for messages.

    Raises:
        BundleError: it is none, or of a newer schema.
    """
    return schema.read_document(
        Parity, value, newest=SCHEMA_VERSION, what="parity report", source=source, error=BundleError
    )
