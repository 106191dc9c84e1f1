"""Faults that no check needs to find, by class: `docs/check.md` says why each is harmless.

A survivor belongs to a class only by what was changed and where; anything else is a fault that the check misses.
"""

import re
from collections.abc import Callable

from tests.check.mutators import Mutant

_PROBE = re.compile(r"\b(startupProbe|readinessProbe|livenessProbe)\.(periodSeconds|timeoutSeconds|failureThreshold)$")
_OUTSIDE = re.compile(r"\b(secretKeyRef\.(name|optional)|persistentVolumeClaim\.claimName)$")
_DEFAULTS = re.compile(
    r"(ports\.\d+\.targetPort|httpGet\.scheme|readOnly|leaderWorkerTemplate\.size|resources\.requests(\.nvidia\.com/gpu)?"
    r"|pipeline_parallel_size|ports\.\d+\.protocol|\.replicas|moe_tensor_parallel_size|secure|periodSeconds"
    r"|tensor_parallel_size|enable_attention_dp|parallelism\.\w+)$"
)
_FREE_PORTS = re.compile(
    r"(--data-parallel-rpc-port|--master-port|--dist-init-addr|SIDE_CHANNEL_PORT|--disaggregation-bootstrap-port"
    r"|HOST:\d{4,5}\"?|\"port\":\d{5})"
)
_SHARE = re.compile(r"(gpu-memory-utilization|gpu_memory_utilization|mem-fraction-static|free_gpu_memory_fraction)")


def _line(mutant: Mutant) -> str:
    """The line of a script that was changed, before it was."""
    return mutant.context


def _comment(mutant: Mutant) -> bool:
    return mutant.kind == "comment" or _in_comment(mutant)


def _in_comment(mutant: Mutant) -> bool:
    before = _line(mutant)[: mutant.column] + mutant.before[:1]
    return bool(re.search(r"(^|\s)#(?!SBATCH|!)", before)) and not before.startswith("#!")


def _declared_text(mutant: Mutant) -> bool:
    """Descriptions and error messages of variables.tf, and comments."""
    return mutant.file.endswith(".tf") and bool(re.match(r"\s*(description|error_message)\b.*\"", _line(mutant))) | (
        mutant.file.endswith(".tf") and _in_comment(mutant)
    )


def _message(mutant: Mutant) -> bool:
    """Words after `:?` in a parameter, which bash prints where a host is missing, and what `echo` tells."""
    if re.match(r'\s*echo "\S+ is started by its node 0', _line(mutant)):
        return True
    return bool(re.match(r'\s*: "\$\{\w+:\?', _line(mutant))) and ":?" not in mutant.after.partition(":?")[0]


def _same_command(mutant: Mutant) -> bool:
    """Words whose order nobody cares about: redirections, variables of `env`, equal backends of a router."""
    words = mutant.before.split(" ")
    moved = mutant.kind == "swap" and len(words) == 2
    return moved and (
        any(word.startswith((">", "<")) for word in words)
        or all(re.match(r"[A-Z_]+=", word) for word in words)
        or all(word.startswith("http://") for word in words)
    )


def _free_port(mutant: Mutant) -> bool:
    """A port one higher or lower that nothing else names: its instance tells it to all who need it."""
    if mutant.kind not in ("more", "less"):
        return False
    of_env = bool(re.search(r"env\.\d+\.value$", mutant.path)) and mutant.before.isdecimal()
    of_args = bool(re.search(r"args\.\d+$", mutant.path) and re.fullmatch(r"1\d{4}", mutant.before))
    return of_env or of_args or bool(_FREE_PORTS.search(f"{mutant.before} {_line(mutant)}"))


CLASSES: dict[str, Callable[[Mutant], bool]] = {
    "text for people": lambda m: m.file.endswith("README.txt"),
    "comment": _comment,
    "description of a Terraform variable": _declared_text,
    "message to whoever starts it": _message,
    "host that the user fills in": lambda m: m.file == "hosts.env" and m.kind == "other",
    "folder inside a mounted volume": lambda m: m.kind == "other" and m.before.endswith("/hub"),
    "the same command for bash": _same_command,
    "patience of probes": lambda m: bool(_PROBE.search(m.path)),
    "object of the user's cluster": lambda m: bool(_OUTSIDE.search(m.path)),
    "default spelled out": lambda m: m.kind == "delete" and bool(_DEFAULTS.search(m.path)),
    "mount of a config map": lambda m: m.kind == "negate" and m.path.endswith(".readOnly"),
    "setting of what is switched off": lambda m: m.path.endswith("routing.proxy.targetPort"),
    "name that nothing else has": lambda m: (
        m.kind in ("more", "less") and bool(re.search(r"(^|\.)(fullnameOverride|metadata\.name)$", m.path))
    ),
    "name of a pod's only container": lambda m: bool(re.search(r"\.containers\.0\.name$", m.path)),
    "name of a service's only port": lambda m: bool(re.search(r"\.spec\.ports\.\d+\.name$", m.path)),
    "free port that one instance uses": _free_port,
    "another version of a kind that the cluster serves": lambda m: (
        m.path.endswith("apiVersion") and m.before.startswith("serving.kserve.io/") and m.kind in ("more", "less")
    ),
    "share of memory that still holds the requests": lambda m: bool(
        _SHARE.search(f"{m.path} {_line(m)}") or (re.search(r"args\.\d+$", m.path) and re.match(r"0\.\d+$", m.before))
    ),
    "size of shared memory that is still enough": lambda m: bool(re.search(r"(sizeLimit|sharedMemorySize)$", m.path)),
    "weight of the only scorer": lambda m: m.path.endswith(".weight"),
    "CPUs of a router": lambda m: m.path.endswith(".resources.cpus"),
    "patience of a service": lambda m: m.path.endswith("initial_delay_seconds"),
    "patience of a router": lambda m: (
        m.kind in ("more", "less")
        and bool(re.search(r"--(worker-startup-timeout-secs|server_start_timeout) ", _line(m)))
    ),
    "name of a log": lambda m: bool(re.search(r"#SBATCH --output", _line(m))),
    "image of the user's own": lambda m: bool(re.search(r"\bimage(\.hub|\.tag)?$", m.path)),
}
"""Name -> whether a survivor belongs to it."""


def class_of(mutant: Mutant) -> str | None:
    """The class of a survivor, or None."""
    return next((name for name, belongs in CLASSES.items() if belongs(mutant)), None)
