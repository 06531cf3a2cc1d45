"""Our own host: model folders, devices and the CLIP handle without ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sd2.errors import SD2ClipError, UnreadableFileError
from ..sd2.files.bounded_yaml import read_yaml
from ..sd2.files.file_kinds import WEIGHT_SUFFIXES
from .interface import Clip, DevicePlacement, WeightChange, WeightsSource

if TYPE_CHECKING:
    import torch

MODEL_KINDS = ("text_encoders", "clip", "checkpoints", "diffusers", "embeddings", "loras")

EXTRA_PATHS_FILE = "extra_model_paths.yaml"


class ModelFoldersError(SD2ClipError):
    """A given models folder or ``extra_model_paths.yaml`` cannot be used."""


def read_extra_model_paths(path: Path) -> dict[str, list[Path]]:
    """Read the folders of each kind of ours from ComfyUI's ``extra_model_paths.yaml``.

    Every section may have a ``base_path``; a value is one folder, or several on a line each.
    """
    try:
        sections = read_yaml(path)
    except UnreadableFileError as error:
        raise ModelFoldersError(str(error)) from error
    folders: dict[str, list[Path]] = {kind: [] for kind in MODEL_KINDS}
    if not isinstance(sections, Mapping):
        raise ModelFoldersError(
            f"{path} has no sections. Expected sections such as 'comfyui:', with folders in them."
        )
    for name, section in sections.items():
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ModelFoldersError(
                f"{path}: section {name!r} does not map kinds, such as 'checkpoints', to folders."
            )
        base = _expand(_folder_text(section, "base_path", path), path)
        for kind in MODEL_KINDS:
            for line in _folder_text(section, kind, path).splitlines():
                if line.strip():
                    folders[kind].append(path.parent / base / _expand(line, path))
    return folders


def _folder_text(section: Mapping[Any, Any], key: str, path: Path) -> str:
    """The folders that a section states under *key*, one a line."""
    stated = section.get(key)
    if isinstance(stated, (Mapping, list)):
        raise ModelFoldersError(
            f"{path}: {key!r} must be one folder, or several on a line each; found a "
            f"{'list' if isinstance(stated, list) else 'mapping'}."
        )
    if "\0" in (text := str(stated or "")):
        raise ModelFoldersError(f"{path}: {key!r} is not the name of a folder: it contains NUL.")
    return text


def _expand(name: str, path: Path) -> Path:
    try:
        folder = Path(name.strip()).expanduser()
        folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long; ~ of an unknown user
        raise ModelFoldersError(f"{path}: {name[:100]!r} cannot be a folder: {error}.") from error
    return folder


def model_folders(root: Path) -> dict[str, list[Path]]:
    """Return the folders of each kind that *root* stands for.

    *root* is a models folder with ComfyUI's names in it, a ComfyUI folder, an
    ``extra_model_paths.yaml``, or any folder of model files, which is then used for every kind.
    """
    if not root.exists():
        raise ModelFoldersError(f"The models folder {root} does not exist.")
    if not root.is_dir():
        return read_extra_model_paths(root)
    folders: dict[str, list[Path]] = {kind: [] for kind in MODEL_KINDS}
    found = False
    for parent in (root, root / "models"):
        for kind in MODEL_KINDS:
            if (parent / kind).is_dir():
                folders[kind].append(parent / kind)
                found = True
    if (root / EXTRA_PATHS_FILE).is_file():
        for kind, extra in read_extra_model_paths(root / EXTRA_PATHS_FILE).items():
            folders[kind] += extra
            found = True
    if not found or any(file.suffix in WEIGHT_SUFFIXES for file in root.iterdir()):
        # Files directly in root may be of any kind that has no folder of its own.
        folders = {kind: own or [root] for kind, own in folders.items()}
    return folders


class StandaloneHost:
    """Runs our nodes in a plain process."""

    def __init__(
        self,
        models: Sequence[Path] = (),
        *,
        output: Path = Path("output"),
        input: Path = Path("input"),
        device: str = "auto",
    ) -> None:
        self._folders: dict[str, list[Path]] = {kind: [] for kind in MODEL_KINDS}
        for root in models:
            for kind, folders in model_folders(root).items():
                self._folders[kind] += [f for f in folders if f not in self._folders[kind]]
        self._output = output
        self._input = input
        self._device = device

    def model_folders(self, kind: str) -> Sequence[Path]:
        return [folder for folder in self._folders[kind] if folder.is_dir()]

    def input_directory(self) -> Path:
        return self._input

    def output_directory(self) -> Path:
        return self._output

    def embeds_workflows(self) -> bool:
        return True

    def devices(self) -> Sequence[str]:
        from .devices import accelerators

        return ["auto", "cpu", *(f"gpu:{index}" for index in range(len(accelerators())))]

    def select_device(self, device: str, dtype: torch.dtype | None) -> DevicePlacement:
        from .devices import select_device

        return select_device(self._device if device == "auto" else device, dtype)

    def build_clip(
        self,
        state_dict: Mapping[str, torch.Tensor],
        *,
        source: WeightsSource,
        embedding_directory: Sequence[str] | None,
        layer: str,
        layer_idx: int | None,
        model_options: Mapping[str, Any],
    ) -> Clip:
        import torch

        from ..sd2.model.encode_cache import EncodeCache
        from ..sd2.model.encoder_setup import CPU_BATCH, GPU_BATCH, SETUP_KEY, EncoderSetup
        from ..sd2.sd2_clip import build_text_encoder
        from ..sd2.sd2_tokenizer import SD2Tokenizer
        from .standalone_clip import StandaloneClip

        placement = source.placement
        on_cpu = placement.load_device.type == "cpu"
        setup = EncoderSetup(
            placeholder_layers=source.placeholder_layers,
            placeholder_projection=source.placeholder_projection,
            # CPUs compute fp16 and bf16 slowly, and ComfyUI uses fp32 there; GPUs are fast in both.
            compute_dtype=torch.float32 if on_cpu else placement.dtype,
            product_dtype=placement.product_dtype or torch.float32,
            weights_dtype=placement.dtype,
            cache=EncodeCache() if on_cpu else None,
            max_batch=CPU_BATCH if on_cpu else GPU_BATCH,
            check_files=source.check_files,
            source=source,
        )
        model = build_text_encoder(
            state_dict,
            device=placement.load_device,
            dtype=None if placement.keeps_narrower else placement.dtype,
            model_options={**model_options, SETUP_KEY: setup},
            layer=layer,
            layer_idx=layer_idx,
        )
        tokenizer = SD2Tokenizer(embedding_directory=embedding_directory)
        tokenizer.clip_h.embedding_size = model.clip_h.config.hidden_size
        return StandaloneClip(model, tokenizer)

    def lora_patches(self, changes: Mapping[str, WeightChange]) -> Any:
        return changes
