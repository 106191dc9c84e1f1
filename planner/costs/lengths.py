"""Token counts of requests as the cost model uses them."""

from __future__ import annotations

from dataclasses import dataclass

from specs.workload import Workload, cv_tokens


@dataclass(frozen=True)
class Lengths:
    """Token counts of a service's requests.

    Args:
        input: mean new prompt tokens.
        output: mean output tokens.
        prefix: tokens read from cache before the new ones.
        input_cv2: squared coefficient of variation of the prompt.
        output_cv2: squared coefficient of variation of the output.
    """

    input: float
    output: float
    prefix: float
    input_cv2: float = 0.0
    output_cv2: float = 0.0

    @staticmethod
    def of(workload: Workload) -> Lengths:
        """Means and variations of a workload's lengths."""
        return Lengths(
            input=workload.mean_input_tokens,
            output=workload.mean_output_tokens,
            prefix=workload.mean_prefix_tokens,
            input_cv2=cv_tokens(workload.input_tokens) ** 2,
            output_cv2=cv_tokens(workload.output_tokens) ** 2,
        )

    @property
    def decode_tokens(self) -> float:
        """Tokens that decode steps produce for one request: all but the first."""
        return max(self.output - 1.0, 0.0)

    @property
    def first_context(self) -> float:
        """Context of the first decode step."""
        return self.prefix + self.input + 1.0

    @property
    def last_context(self) -> float:
        """Context of the last decode step, such that the mean over steps is exact.

        The mean over all decode steps of all requests is length-biased: prefix + input + E[D (D + 1) / 2] / E[D] for
        D decode tokens (arXiv 2601.21351, theta), which for fixed lengths is the middle of the path.
        """
        steps = max(self.decode_tokens, 1.0)
        return self.first_context + max(steps * (1.0 + self.output_cv2) - 1.0, 0.0)

    @property
    def mean_context(self) -> float:
        """Time-averaged context of a request that is being decoded."""
        return 0.5 * (self.first_context + self.last_context)

    @property
    def full_context(self) -> float:
        """Context when the last token has been produced."""
        return self.prefix + self.input + self.output
