"""The best number of attention instances per FFN instance, in closed form.

Source: arXiv 2601.21351. One FFN instance serves r attention instances of B requests each; the step is as long as the
slowest of attention, communication and FFN:

    tau(r) = max(t_attention, t_communication, slope B r + intercept)
    throughput per instance = r B / ((r + 1) tau(r))

Up to the ratio at which the FFN takes over, throughput grows with r. Beyond, r B / ((r + 1)(slope B r + intercept)) is
unimodal with its top at sqrt(intercept / (slope B)). Hence r* is the larger of the two.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def instance_throughput_tok_per_ms(
    ratio: ArrayLike,
    batch: ArrayLike,
    attention_ms: ArrayLike,
    communication_ms: ArrayLike,
    ffn_slope_ms: ArrayLike,
    ffn_intercept_ms: ArrayLike,
) -> FloatArray:
    """Return the output tokens per millisecond and instance of r attention instances with one FFN instance.

    Args:
        ratio: (...) attention instances per FFN instance, r > 0.
        batch: (...) requests per attention instance, B > 0.
        attention_ms: (...) attention time of a step at this batch.
        communication_ms: (...) communication time of a step at this batch.
        ffn_slope_ms: (...) FFN time for one more token.
        ffn_intercept_ms: (...) FFN time for no token: weights read, launches.

    Returns:
        (...) tokens per millisecond, over r + 1 instances.
    """
    r, b = np.asarray(ratio, dtype=np.float64), np.asarray(batch, dtype=np.float64)
    ffn_ms = np.asarray(ffn_slope_ms) * b * r + np.asarray(ffn_intercept_ms)
    step_ms = np.maximum(np.maximum(attention_ms, communication_ms), ffn_ms)
    throughput: FloatArray = r * b / ((r + 1.0) * step_ms)
    return throughput


def optimal_attention_ratio(
    batch: ArrayLike,
    attention_ms: ArrayLike,
    communication_ms: ArrayLike,
    ffn_slope_ms: ArrayLike,
    ffn_intercept_ms: ArrayLike,
) -> FloatArray:
    """Return r* = max((t - intercept) / (slope B), sqrt(intercept / (slope B))), t the longer of attention and links.

    Args:
        batch: (...) requests per attention instance, B > 0.
        attention_ms: (...) attention time of a step at this batch.
        communication_ms: (...) communication time of a step at this batch.
        ffn_slope_ms: (...) FFN time for one more token, positive.
        ffn_intercept_ms: (...) FFN time for no token, not negative.

    Returns:
        (...) the real-valued ratio that maximises ``instance_throughput_tok_per_ms``; the best integer is one of its
        two neighbours, since throughput rises up to r* and falls after it.
    """
    load_ms = np.asarray(ffn_slope_ms, dtype=np.float64) * np.asarray(batch, dtype=np.float64)
    intercept = np.asarray(ffn_intercept_ms, dtype=np.float64)
    takeover = (np.maximum(attention_ms, communication_ms) - intercept) / load_ms
    ratio: FloatArray = np.maximum(takeover, np.sqrt(intercept / load_ms))
    return ratio
