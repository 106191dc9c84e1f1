"""Small files of points, written by hand."""

import csv
import gzip
import io
from pathlib import Path

AGGREGATED = {
    "source": "test", "model": "Qwen/Qwen3-32B", "precision": "fp8", "gpu": "h200_sxm", "n_gpus": "4.0", "mode": "agg",
    "framework": "vllm", "tp": "4.0", "ep": "1.0", "dp": "1", "pp": "1.0", "isl": "1024", "osl": "128", "prefix": "0",
    "concurrency_or_batch_per_gpu": "4.0", "ttft_ms": "100", "tpot_ms": "10", "throughput_tok_s_per_gpu": "",
    "metric": "latency only", "notes": "", "quality": "A", "conc_total": "16", "p_workers": "", "p_tp": "", "p_dp": "",
    "p_ep": "", "p_batch": "", "d_workers": "", "d_tp": "", "d_dp": "", "d_ep": "", "d_batch": "",
    "spec_decode": "none", "date": "2026-01-01", "version": "0.19.0", "derived_out_tok_s_per_gpu": "380", "url": "",
}  # fmt: skip
DISAGGREGATED = {
    **AGGREGATED, "model": "deepseek-ai/DeepSeek-R1", "gpu": "gb200", "mode": "pd", "framework": "trtllm",
    "n_gpus": "40", "tp": "1", "dp": "32", "ep": "32", "p_workers": "2.0", "p_tp": "1", "p_dp": "4", "p_ep": "4",
    "d_workers": "1", "d_tp": "1", "d_dp": "32", "d_ep": "32", "d_batch": "8", "conc_total": "256",
}  # fmt: skip


def write(path: Path, *rows: dict[str, str], drop: tuple[str, ...] = ()) -> Path:
    """Write rows as CSV, compressed where the name says so, without the columns `drop`."""
    text = io.StringIO()
    columns = [column for column in AGGREGATED if column not in drop]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
