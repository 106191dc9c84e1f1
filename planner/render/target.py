"""What a plan can be rendered for."""

from enum import StrEnum


class Target(StrEnum):
    """Launchers, orchestrators and provisioners."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"
    DYNAMO = "dynamo"
    LLM_D = "llm-d"
    LWS = "lws"
    KSERVE = "kserve"
    SLURM = "slurm"
    RAY = "ray"
    SKYPILOT = "skypilot"
    TERRAFORM = "terraform"
