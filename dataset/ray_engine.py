"""Encodes fragments on a Ray cluster: workers write the files, Ray carries the sidecars.

A fragment whose worker was lost is encoded again by another, which writes the same bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..sd2.errors import OptionError, SD2ClipError, how_to_install
from .caption_encoder import CaptionEncoder
from .encode_fragment import Encoder, Environment, FragmentEncoder, Job, environment_of
from .fragments import Fragment
from .local_engine import encode_fragments
from .manifest import Sidecar

TOGETHER = 8
"""Fragments of a task: reading and writing overlap with encoding inside it."""


class RayError(SD2ClipError):
    """Ray is missing, or its cluster cannot do what is asked."""


class RayEngine:
    """Encodes on a Ray cluster; needs the extra ``[ray]``, and ``sd2_clip`` on all machines."""

    def __init__(
        self, address: str | None = None, *, workers: int = 1, gpus: float | None = None
    ) -> None:
        """*address* is the cluster's (None: RAY_ADDRESS, else a cluster on this machine).

        There are 1 to *workers* actors, each with *gpus* GPUs; None: one if the cluster has any.
        """
        if workers < 1:
            raise OptionError(f"There must be one worker or more, not {workers}.")
        try:
            import ray
        except ImportError as error:
            raise RayError(
                "The ray engine needs Ray. " + how_to_install('"ray[data]"', "ray")
            ) from error
        if not ray.is_initialized():
            try:
                ray.init(address=address, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, ValueError) as error:
                raise RayError(f"The Ray cluster {address} cannot be reached: {error}") from error
        self._workers = workers
        self._gpus = gpus
        if gpus is None:
            self._gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0

    def _resources(self, encoder: Encoder) -> dict[str, Any]:
        """Return what a worker occupies; one that only tokenizes needs no GPU."""
        return {"num_cpus": 1, "num_gpus": self._gpus if isinstance(encoder, CaptionEncoder) else 0}

    def environment(self, encoder: Encoder) -> Environment:
        """Return what results depend on, as a worker sees it: the driver may have no GPU."""
        import ray

        remote = ray.remote(**self._resources(encoder))(environment_of)
        try:
            found: Environment = ray.get(remote.remote(encoder))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SD2ClipError):
                raise error.cause from error
            raise
        return found

    def encode(
        self, job: Job, encoder: Encoder, fragments: Iterable[Fragment]
    ) -> Iterator[Sidecar]:
        """Encode fragments in any order; yield the sidecar of each when it is written."""
        import ray

        items = [{"fragment": pickle.dumps(fragment)} for fragment in fragments]
        if not items:
            return
        together = max(min(TOGETHER, len(items) // self._workers), 1)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        data = ray.data.from_items(items, override_num_blocks=-(-len(items) // together))
        encoded = data.map_batches(
            EncodeFragments,
            fn_constructor_args=[job, encoder],
            batch_size=together,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._workers),
            **self._resources(encoder),
        )
        for row in encoded.iter_rows():
            if row["error"]:
                raise RayError(row["error"])
            yield Sidecar.from_json(row["sidecar"])


class EncodeFragments:
    """A Ray actor that encodes fragments, for ``map_batches``."""

    def __init__(self, job: Job, encoder: Encoder) -> None:
        self._worker = FragmentEncoder(job, encoder)
        self._checked = False

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Encode the fragments of a batch; an error of ours is a row, lest Ray hide its message."""
        sidecars: list[bytes] = []
        try:
            if not self._checked:
                self._check_settings()
                self._checked = True
            fragments = [pickle.loads(data) for data in batch["fragment"]]
            for sidecar in encode_fragments(self._worker, fragments):
                sidecars.append(sidecar.to_json())
        except SD2ClipError as error:
            return {"sidecar": [b""], "error": [str(error)]}
        return {"sidecar": sidecars, "error": [""] * len(sidecars)}

    def _check_settings(self) -> None:
        job, encoder = self._worker.job, self._worker.encoder
        settings = encoder.settings()
        changed = [name for name, value in settings.items() if job.settings.get(name) != value]
        if changed:
            same = "version of sd2-clip"
            if isinstance(encoder, CaptionEncoder):
                same += f", the same file as {encoder.checkpoint}, and the same kind of device"
            raise RayError(
                f"A worker has other settings ({', '.join(changed)}). All machines need the same "
                f"{same}."
            )
