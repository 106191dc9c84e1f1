"""What launchers call GPUs, images and their own flags, as data (`specs/data/launchers.yaml`)."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Literal

from pydantic import Field

from specs.base import Spec
from specs.engine_table import Program
from specs.service import Engine


class Vendor(Spec):
    """What the GPUs of a vendor are asked for by."""

    devices: str
    """The environment variable that says which GPUs a process sees."""
    resource: str
    """Kubernetes resource of its device plugin, and the key of the taint that managed node pools put on GPU nodes."""
    source: str


class Image(Spec):
    """A public container image."""

    name: str
    tag: str
    """With `{}` where the version stands."""
    source: str

    def of(self, version: str = "") -> str:
        """The image of a version."""
        return f"{self.name}:{self.tag.format(version)}"


Launcher = Literal["product", "ray", "skypilot"]


class GpuNames(Spec):
    """What launchers call a GPU; None where one does not know it."""

    product: str | None = None
    """Value of the node label nvidia.com/gpu.product."""
    ray: str | None = None
    skypilot: str | None = None
    unconfirmed: tuple[Launcher, ...] = ()
    """Names that no source confirms."""


class Dynamo(Spec):
    """A release of Dynamo."""

    version: str
    source: str
    registry: str
    holds: dict[Engine, str]
    """Engine versions in its images."""
    images: dict[Engine, str]
    workers: dict[Engine, Program]
    """Flags that are a worker's own; it also takes those of the engine (TensorRT-LLM: by a file)."""
    frontend: Program


class Launchers(Spec):
    """Facts about launchers."""

    vendors: dict[str, Vendor]
    images: dict[str, Image]
    """By engine; `router` is where routers are installed."""
    sources: dict[Launcher, str]
    gpus: dict[str, GpuNames] = Field(min_length=1)
    dynamo: Dynamo

    def named(self, launcher: Launcher) -> dict[str, str]:
        """GPUs that a launcher knows: id of the catalogue -> its name."""
        names = {gpu: getattr(entry, launcher) for gpu, entry in self.gpus.items()}
        return {gpu: name for gpu, name in names.items() if name is not None}


@lru_cache(maxsize=1)
def launchers() -> Launchers:
    """The facts."""
    import yaml

    text = resources.files("specs").joinpath("data", "launchers.yaml").read_text(encoding="utf-8")
    return Launchers.model_validate(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
