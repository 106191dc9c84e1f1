"""Layouts: how one worker spreads over its GPUs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Layout:
    """Parallel degrees of one replica that holds attention and FFN (roles mixed, prefill, decode).

    `gpus = tp * dp * pp`; expert parallelism overlaps TP x DP: `ep * moe_tp = tp * dp` (dense models: ep = 1 and
    moe_tp = tp * dp). `expert_slots` counts the slots of all ranks, redundant copies included.

    Args:
        tp: tensor-parallel ranks of attention.
        dp: attention data-parallel ranks.
        ep: expert-parallel ranks.
        moe_tp: tensor-parallel ranks of one expert.
        pp: pipeline stages.
        expert_slots: expert slots over all EP ranks; 0 for dense models.
        overlap: two-batch overlap of communication with computation.
    """

    tp: int
    dp: int = 1
    ep: int = 1
    moe_tp: int = 1
    pp: int = 1
    expert_slots: int = 0
    overlap: bool = False

    def __post_init__(self) -> None:
        if self.ep * self.moe_tp != self.tp * self.dp:
            raise ValueError(f"ep x moe_tp = {self.ep} x {self.moe_tp} differs from tp x dp = {self.tp} x {self.dp}")

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tp * self.dp * self.pp

    @property
    def parts(self) -> int:
        """Equal parts that the batch of one replica is cut into: DP ranks x micro-batches in flight."""
        return self.dp * self.pp * (2 if self.overlap else 1)

    def __str__(self) -> str:
        degrees = {"tp": self.tp, "dp": self.dp, "ep": self.ep, "moe_tp": self.moe_tp, "pp": self.pp}
        text = " ".join(f"{name}{value}" for name, value in degrees.items() if value > 1) or "tp1"
        return text + (" overlap" if self.overlap else "")


@dataclass(frozen=True, order=True)
class AfdLayout:
    """One AFD unit: `attention_replicas` replicas of `tp` GPUs in lockstep with one FFN replica of `ep x moe_tp` GPUs.

    Args:
        tp: tensor-parallel ranks of one attention replica.
        attention_replicas: attention replicas of the unit.
        ep: expert-parallel ranks of the FFN replica.
        moe_tp: tensor-parallel ranks of one expert.
        expert_slots: expert slots over all EP ranks.
        microbatches: micro-batches in flight (M).
        scale_up: whether the whole unit lies in one scale-up domain, so that activations cross at its speed.
    """

    tp: int
    attention_replicas: int
    ep: int
    moe_tp: int
    expert_slots: int
    microbatches: int
    scale_up: bool

    @property
    def attention_gpus(self) -> int:
        """GPUs of all attention replicas of the unit."""
        return self.tp * self.attention_replicas

    @property
    def ffn_gpus(self) -> int:
        """GPUs of the FFN replica."""
        return self.ep * self.moe_tp

    @property
    def gpus(self) -> int:
        """GPUs of the unit."""
        return self.attention_gpus + self.ffn_gpus

    def __str__(self) -> str:
        return (
            f"{self.attention_replicas}A x tp{self.tp} + F ep{self.ep}"
            + (f" moe_tp{self.moe_tp}" if self.moe_tp > 1 else "")
            + f", M={self.microbatches}, "
            + ("scale-up" if self.scale_up else "scale-out")
        )
