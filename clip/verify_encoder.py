"""Compares a file's encoding of the empty prompt with the published values of SD2's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..sd2.detection.detection import Detection, main_dtypes
from ..sd2.files.checkpoint import Checkpoint
from ..sd2.files.file_hash import file_digest
from ..sd2.published_values import KNOWN_FILES, EncodedRows, empty_prompt_rows
from .load_clip import RANDOM_WEIGHTS_KEY, AnyPath, load_clip
from .source import EncoderSource

Verdict = Literal["genuine", "fine-tuned", "other"]

TOLERANCES = {
    "F64": 0.005,
    "F32": 0.005,
    "F16": 0.005,
    "BF16": 0.04,
    "F8_E4M3": 0.4,
    "F8_E5M2": 0.6,
}
"""Largest distance of genuine weights, by the dtype that they were rounded to.

Rounding every weight of an encoder of SD2's size, with random weights, moves its rows by 0.0008
(fp16), 0.007 (bf16), 0.13 and 0.22 (fp8). The tolerances are six times that, for fp8 three times.
That of fp32 is fp16's: whether the published rows were computed with weights in fp32 is not known.
"""

UNRELATED = 0.8
"""Distance from which on nothing points to SD2's weights.

Rows of other weights are at 1.4; of a million such rows one is nearer than 0.8, if its size is the
best there could be. Noise of 30 % of every weight moves the rows by 0.8, noise of 10 % by 0.3.
"""


@dataclass(frozen=True)
class Verification:
    """What the comparison of a file found."""

    detection: Detection
    precision: str
    """The narrowest dtype that the weights were rounded to: at most that of the file."""
    distance: float
    """The largest difference of a row, relative to its size."""
    sha256: str | None
    """Of the file; None if it is several."""
    has_random_weights: bool
    """Whether the file says so itself."""

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.precision]

    @property
    def verdict(self) -> Verdict:
        if self.distance <= self.tolerance:
            return "genuine"
        return "fine-tuned" if self.distance < UNRELATED else "other"

    @property
    def known_file(self) -> str | None:
        """The published file that this one is, by its SHA-256."""
        return None if self.sha256 is None else KNOWN_FILES.get(self.sha256)

    def describe(self) -> str:
        """Describe the result in lines for people."""
        sentence = {
            "genuine": "genuine: these are the weights of SD2's text encoder",
            "fine-tuned": f"fine-tuned: SD2's text encoder, changed by {self.distance:.2%}",
            "other": "something else: nothing points to SD2's weights",
        }[self.verdict]
        lines = [
            ("Verdict", sentence),
            (
                "Distance",
                f"{self.distance:.2g} from the published empty prompt (genuine "
                f"{self.precision}: at most {self.tolerance:g})",
            ),
            ("File", str(self.detection.path)),
        ]
        if self.sha256 is not None:
            lines.append(("SHA-256", f"{self.sha256} ({self.known_file or 'not a known file'})"))
        lines += [("Note", note) for note in self._notes()]
        return "\n".join(f"{label + ':':<14}{text}" for label, text in lines)

    def _notes(self) -> list[str]:
        notes = []
        if self.known_file is not None and self.verdict != "genuine":
            notes.append(
                "the file is the published one, so this machine computes it wrongly: report this "
                "with the versions of Python and torch"
            )
        if self.has_random_weights:
            notes.append("the file says that its weights are random")
        if self.verdict == "fine-tuned":
            notes.append(
                "that is no fault: a model that was trained together with this encoder needs it"
            )
        if self.verdict != "other":
            notes.append(
                "compared are the start and the end token, not layer "
                f"{self.detection.model_layers}, the projection and other tokens"
            )
        return notes


def verify_encoder(
    path: AnyPath,
    expected: EncodedRows | None = None,
    *,
    model_options: Mapping[str, Any] | None = None,
) -> Verification:
    """Encode the empty prompt with the weights in *path*, on the CPU, and compare its first rows.

    *expected* is SD2's if it is None; *model_options* are those of ``load_clip`` (tiny models, for
    tests). Raises what ``load_clip`` raises, and NotFiniteError for damaged weights.
    """
    clip = load_clip(path, device="cpu", dtype="fp32", model_options=model_options)
    source: EncoderSource = clip.cond_stage_model.source
    checkpoint = source.reopen()
    return Verification(
        detection=source.detection,
        precision=_precision(checkpoint, source.detection),
        distance=_distance(clip.encode("")[0], expected or empty_prompt_rows()),
        sha256=file_digest(checkpoint.files[0]) if len(checkpoint.files) == 1 else None,
        has_random_weights=RANDOM_WEIGHTS_KEY in checkpoint.metadata,
    )


def _distance(encoded: torch.Tensor, expected: EncodedRows) -> float:
    """Return the largest relative difference of a row: of its columns, and of its norm."""
    distances = []
    for row, values, norm in zip(encoded.double(), expected.rows, expected.norms, strict=False):
        published = torch.tensor(values, dtype=torch.float64)
        columns = row[list(expected.columns)]
        distances.append(float((columns - published).norm() / published.norm()))
        distances.append(abs(float(row.norm()) - norm) / norm)
    return max(distances)


def _precision(checkpoint: Checkpoint, detection: Detection) -> str:
    """Return the coarsest main dtype; BF16 also for values that were once rounded to it.

    Merges and trainers in bf16 write wider files.
    """
    keys = {source.key for source in detection.sources.values()}
    dtypes = main_dtypes(checkpoint.tensors, keys)
    coarsest = max(dtypes, key=lambda dtype: TOLERANCES[dtype])
    source = detection.sources["text_model.encoder.layers.0.mlp.fc1.weight"]
    weight = checkpoint.read([source.key])[source.key]
    if weight.dtype.itemsize > 1 and torch.equal(weight, weight.bfloat16().to(weight.dtype)):
        return max(coarsest, "BF16", key=lambda dtype: TOLERANCES[dtype])
    return coarsest
