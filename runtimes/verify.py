"""`edgekit verify`: is this bundle whole, and does it answer as PyTorch does? If not, which part is to blame?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle import Bundle, hashing_once
from edgekit.checkpoint.folder import check_checkpoint, checkpoint_hash
from edgekit.data import samples
from edgekit.errors import BundleError, DataError, EdgekitError, NotFiniteError
from edgekit.families.sizes import fit_image
from edgekit.files import write_json
from edgekit.held import Held, stamp
from edgekit.inputs.agreement import odd_images
from edgekit.inputs.chat import Message, question
from edgekit.inputs.processor import Processor
from edgekit.inputs.resizing import COLUMNS, ORDER
from edgekit.report.parity import SCHEMA_VERSION, Check, Files, ModuleParity, Parity
from edgekit.report.tally import Tally
from edgekit.report.tolerances import ALWAYS, MOST_PROMPTS, component_tolerances, judge, settling, tolerances_of
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.attribute import Followed, attribute
from edgekit.runtimes.generate import answer, follow
from edgekit.runtimes.golden import check_handover
from edgekit.runtimes.modules import Mix, Reference, open_reference
from edgekit.runtimes.session import Modules, Prepared, Session
from edgekit.schema import to_json
from edgekit.stats import finite_or_none, largest_gap

if TYPE_CHECKING:
    from PIL.Image import Image

Prompt = tuple[list[Message], "list[Image]"]
STOCK = ("What is in the image?", "Describe the picture.", "What color is it?", "Is there a circle?")
EQUAL_DB = 200.0


@hashing_once()
def verify_bundle(
    folder: Path,
    reference: Path | None,
    data: str | None,
    count: int | None,
    *,
    threads: int = 1,
    attribution: bool = False,
    plain: Path | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Verify a bundle and write parity.json into it.

    Args:
        folder: The bundle.
        reference: The checkpoint it was exported from; without it only its files are checked, and what it hands over
            to apps, and the result says so.
        data: Questions; stock questions on drawn images when None.
        count: How many; as many as the tolerances need (`edgekit.report.tolerances.settling`) when None.
        threads: CPU threads of each side.
        attribution: Find out which part costs what.
        plain: The same checkpoint's fp32 bundle of the same target, for the share of quantisation.
        note: Why there is none.

    Returns:
        `edgekit.report.parity.Parity` as JSON: figures (None where the bundle gave NaN or infinity, or images of
        another shape), the tolerances they are held to, and `passed`.

    Raises:
        BundleError: not whole, or made from another checkpoint; no attribution where the runtime shows no modules.
        NotFiniteError: the checkpoint itself gives NaN or infinity.
        ChangedError: the bundle or the checkpoint was replaced meanwhile.
    """
    held = [Held(folder, stamp(folder))]
    bundle = Bundle.load(folder)
    manifest = bundle.manifest
    result = Parity(
        schema_version=SCHEMA_VERSION,
        bundle=bundle.hash,
        target=manifest.target,
        precision=manifest.precision.common,
        files=Files(len(manifest.files), bundle.size_bytes, True, not bundle.unsealed),
        compared=reference is not None,
        passed=True,
        why=""
        if reference
        else "no reference checkpoint was given: only the files were checked, and what apps are handed",
    )
    if reference is not None:
        held.append(Held(reference, stamp(reference)))
        check_checkpoint(reference)
        if (found := checkpoint_hash(reference)) != manifest.student_sha256:
            raise BundleError(
                f"{folder} was exported from another checkpoint than {reference}.",
                why=f"Its manifest names {manifest.student_sha256[:12]}, this one is {found[:12]}.",
                fix="Name its own checkpoint with --reference.",
            )
        result = replace(result, runtime=runtime_for(folder), questions=data or "stock")
        with _Sides(bundle, reference, plain, threads) as sides:
            result = _compare(result, sides, _prompts(data, count or MOST_PROMPTS), count, attribution, note)
    elif attribution:
        raise EdgekitError(
            "Losses cannot be attributed without the checkpoint.", fix="Name it:  --reference CHECKPOINT"
        )
    result = _with_handover(result, bundle, threads)
    for one in held:
        one.check()
    value: dict[str, Any] = to_json(result)
    write_json(folder / "parity.json", value)
    return value


def _with_handover(result: Parity, bundle: Bundle, threads: int) -> Parity:
    """The result with what the bundle hands over to apps, made again."""
    shares, left = check_handover(bundle, threads)
    checks = {**result.checks, **{name: Check(share, 1.0, share == 1.0) for name, share in shares.items()}}
    passed = result.passed and all(share == 1.0 for share in shares.values())
    return replace(result, checks=checks, passed=passed, handover=left)


def died(folder: Path, reason: str) -> dict[str, Any]:
    """Write parity.json of a bundle whose comparison could not be finished, and return it.

    Args:
        folder: The bundle, whole.
        reason: How the process ended.
    """
    bundle = Bundle.load(folder)
    result = Parity(
        schema_version=SCHEMA_VERSION,
        bundle=bundle.hash,
        target=bundle.manifest.target,
        precision=bundle.manifest.precision.common,
        files=Files(len(bundle.manifest.files), bundle.size_bytes, True, not bundle.unsealed),
        compared=False,
        passed=False,
        why=reason,
        runtime=runtime_for(folder),
    )
    value: dict[str, Any] = to_json(result)
    write_json(folder / "parity.json", value)
    return value


class _Sides:
    """The bundle and the checkpoint, loaded."""

    def __init__(self, bundle: Bundle, reference: Path, plain: Path | None, threads: int) -> None:
        def opened(folder: Path) -> Any:
            return RUNTIMES.load(runtime_for(folder)).open(folder, threads)

        self.params = {ORDER: COLUMNS, **bundle.manifest.preprocessing}
        self.parameters_equal = float(_same_parameters(bundle))
        self.target = bundle.manifest.target
        self.precision = bundle.manifest.precision.common
        self.parts = _own_precisions(bundle)
        self.name = bundle.folder.name
        self.theirs = open_reference(reference, threads)
        self.ours: Session = opened(bundle.folder)
        self.plain: Session | None = None if plain is None else opened(plain)
        self.modules: Reference | None = None
        if isinstance(self.ours, Modules):
            self.modules = Reference(self.theirs, self.params.get("sizes"))

    def __enter__(self) -> _Sides:
        return self

    def __exit__(self, *_: object) -> None:
        for session in (self.ours, self.theirs, self.plain):
            if session is not None:
                session.close()

    def seen(self, images: Sequence[Image]) -> list[Image]:
        """The images as the reference is shown them: a bundle of fixed image sizes resizes before all else."""
        return [fit_image(image, self.params) for image in images]


def _own_precisions(bundle: Bundle) -> dict[str, str]:
    """vision, embedding and text -> its precision, where the manifest's components name theirs."""
    part_of = {"token_embedding": "embedding", "text_decoder": "text"}
    return {
        part_of.get(name, "vision"): part.precision
        for name, part in bundle.manifest.components.items()
        if part.precision and (name in part_of or name.startswith("vision_encoder"))
    }


def _same_parameters(bundle: Bundle) -> bool:
    """Whether the manifest's image parameters are those that the bundle's processor files give."""
    known = bundle.manifest.preprocessing
    read = Processor.load(bundle.folder).as_exported(known).params
    known = {ORDER: COLUMNS, **known}  # bundles from before schema 4 say nothing of it
    return bool(json.loads(json.dumps(read)) == json.loads(json.dumps(known)))


def _prompts(data: str | None, count: int) -> Iterator[Prompt]:
    if data is not None:
        for sample in samples(data, limit=count, need_answer=False):
            yield sample.messages, [image.open() for image in sample.images]
        return
    from edgekit.demo.shapes import draw

    sizes = ((64, 64), (96, 48), (48, 96), (640, 480))
    for k in range(count):
        yield question(STOCK[k % 4]), [draw(k)[0].resize(sizes[k // 4 % 4])]


@dataclass
class _Found(Tally):
    """What is added up over all samples: next to what each comparison counts, inputs and modules."""

    pixels: float = 0.0
    ids_equal: list[bool] = field(default_factory=list)
    modules: dict[str, _Gap] = field(default_factory=dict)
    followed: list[Followed] = field(default_factory=list)


class _Gap:
    """A module's outputs against the reference's, added up."""

    def __init__(self) -> None:
        self.dot = self.signal = self.other = self.error = self.worst = 0.0
        self.values = 0

    def add(self, theirs: Any, ours: Any) -> None:
        """Two arrays; of another shape or not finite counts as infinitely far."""
        self.values += int(np.asarray(theirs).size)
        gap = largest_gap(theirs, ours)
        self.worst = max(self.worst, gap)
        if math.isfinite(gap):
            a, b = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
            self.dot += float((a * b).sum())
            self.signal += float((a * a).sum())
            self.other += float((b * b).sum())
            self.error += float(((a - b) ** 2).sum())

    def result(self) -> ModuleParity:
        """The figures; None where something was not finite."""
        if not math.isfinite(self.worst) or not self.signal or not self.other:
            return ModuleParity(None, None, finite_or_none(self.worst), self.values)
        noise = 10 * math.log10(self.signal / self.error) if self.error else EQUAL_DB
        return ModuleParity(
            self.dot / math.sqrt(self.signal * self.other), min(noise, EQUAL_DB), self.worst, self.values
        )


def _compare(
    result: Parity, sides: _Sides, prompts: Iterable[Prompt], count: int | None, attribution: bool, note: str
) -> Parity:
    tolerances = {**ALWAYS, **tolerances_of(sides.precision, sides.target)}
    if sides.modules is not None:
        tolerances |= component_tolerances(sides.precision, sides.target, sides.parts)
    elif attribution:
        raise BundleError(
            f"The runtime {result.runtime!r} does not show its modules one by one.",
            why="So a loss cannot be attributed to one of them.",
            fix="Leave --attribute out.",
        )
    tally = _Found()
    for messages, images in settling(prompts, tally.best, f"verifying {sides.name}", count=count):
        _one(sides, messages, images, tally)
    odd = list(odd_images())
    for image in odd:
        _prepare_both(sides, question(STOCK[0]), [image], tally)
    components = {name: gap.result() for name, gap in tally.modules.items()}
    result = replace(
        result,
        samples=tally.samples,
        tokens=tally.tokens,
        odd_pictures=len(odd),
        pixel_max_abs=finite_or_none(tally.pixels),
        prompt_ids_equal=float(np.mean(tally.ids_equal)),
        parameters_equal=sides.parameters_equal,
        greedy_identical=tally.greedy_identical,
        top1_agreement=tally.top1_agreement,
        logits_max_abs=tally.logits_max_abs,
        mean_kl=tally.mean_kl,
        components=components,
        verified_by=sides.ours.verified_by,
    )
    figures = {name: getattr(result, name) for name in tolerances if hasattr(result, name)}
    figures |= {f"{name}_snr_db": module.snr_db for name, module in components.items()}
    judged = judge(figures, {name: tolerance for name, tolerance in tolerances.items() if name in figures})
    checks = {name: Check(**check) for name, check in judged.items()}  # type: ignore[arg-type]
    found = None
    if attribution and sides.modules is not None:
        found = attribute(sides.modules, sides.ours, sides.plain, tally.followed, note)
    return replace(result, checks=checks, passed=all(check.held for check in checks.values()), attribution=found)


def _one(sides: _Sides, messages: list[Message], images: list[Image], tally: _Found) -> None:
    seen = sides.seen(images)
    wanted = answer(sides.theirs, messages, seen, max_new_tokens=16).token_ids
    theirs = list(follow(sides.theirs, messages, seen, wanted))
    try:
        said = answer(sides.ours, messages, images, max_new_tokens=16).token_ids
    except NotFiniteError:
        said = []  # a tolerance missed, not an error of the check
    tally.add(theirs, follow(sides.ours, messages, images, wanted), identical=wanted == said)
    prepared = _prepare_both(sides, messages, images, tally)
    tally.followed.append(Followed(messages, seen, wanted, theirs))
    if sides.modules is not None and prepared is not None:
        _modules(sides.modules, sides.ours, prepared, tally)


def _prepare_both(sides: _Sides, messages: list[Message], images: list[Image], tally: _Found) -> Prepared | None:
    """Pixels and ids of both sides; what both refuse counts as equal, what one refuses as infinitely far."""
    try:
        a: Prepared | None = sides.theirs.prepare(messages, sides.seen(images))
    except DataError:
        a = None
    try:
        b: Prepared | None = sides.ours.prepare(messages, images)
    except DataError:
        b = None
    if a is None or b is None:
        tally.ids_equal.append(a is b)
        tally.pixels = tally.pixels if a is b else math.inf
        return None
    tally.ids_equal.append(np.array_equal(a.ids, b.ids))
    if a.pixels is not None or b.pixels is not None:
        gap = math.inf if a.pixels is None or b.pixels is None else largest_gap(a.pixels, b.pixels)
        tally.pixels = max(tally.pixels, gap)
    return a


def _modules(reference: Reference, ours: Any, prepared: Prepared, tally: _Found) -> None:
    """Each module on the reference's own inputs."""
    followed = tally.followed[-1]
    gaps = tally.modules
    if prepared.pixels is not None:
        a, b = reference.encode_image(prepared), ours.encode_image(prepared)
        gap = gaps.setdefault("vision", _Gap())
        gap.add(a.embeds, b.embeds)
        for name, values in a.extra.items():
            gap.add(values, b.extra.get(name, ()))
    gaps.setdefault("embedding", _Gap()).add(reference.embed(prepared.ids), ours.embed(prepared.ids))
    mix = Mix(reference, reference, reference, ours, reference.image_token_id, reference.extra_inputs)
    gap = gaps.setdefault("decoder", _Gap())
    for theirs, got in zip(
        followed.logits, mix.follow(followed.messages, followed.images, followed.tokens), strict=True
    ):
        gap.add(theirs, got)
