"""The operators in PyTorch, as serving engines lay their data out.

Weights and caches are random (constant ones draw less power and so run faster), and there are as many copies of them
as fill the L2 cache twice, used in turn. Activations are not rotated: in a step the kernel before has just written
them. What is *not* in a time: quantisation of activations, gather, scatter and the activation function around expert
products, and the write of new keys and values; the cost model has them as operators of their own.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from planner.calibrate.backend import Call, Candidate, NotMeasurableError
from planner.calibrate.work import WorkItem

Tensor = Any

CACHE_FILLS = 2
"""How often the copies of a weight fill the L2 cache."""

MOST_COPIES = 512

FP8_BLOCK = 128
"""Weights along each side of a block that shares a scale."""

RANDOM_BLOCK = 1 << 24
"""Random elements that are drawn; larger tensors repeat them."""

LEAST_SPLIT = 256
"""Context tokens of one part where a decode's context is split over more thread blocks."""


@dataclass(frozen=True)
class TorchBench:
    """A bench whose point at `value` is computed by any of `at(value)`."""

    at: Callable[[int], Sequence[Candidate]]

    def candidates(self, value: int) -> Sequence[Candidate]:
        """The kernels that may compute it."""
        return self.at(value)


class CudaOperators:
    """Benches on the current GPU.

    Args:
        torch: the module.
        cache_bytes: of the L2 cache.
    """

    def __init__(self, torch: Any, cache_bytes: int) -> None:
        self._torch = torch
        self._cache_bytes = cache_bytes
        self._multiprocessors = int(torch.cuda.get_device_properties(0).multi_processor_count)
        self._attention: Any = importlib.import_module("torch.nn.attention")
        self._bias: Any = importlib.import_module("torch.nn.attention.bias")
        torch.manual_seed(0)

    def open(self, item: WorkItem) -> TorchBench:
        """Allocate what the points of a curve share.

        Raises:
            NotMeasurableError: there is no kernel for it.
        """
        if item.operator in ("decode_attention", "decode_mla", "prefill_attention", "prefill_mla"):
            if item["kv_precision"] != "bf16":
                raise NotMeasurableError(f"PyTorch has no attention over a {item['kv_precision']} cache")
        elif item.operator in ("gemm", "grouped_gemm") and item["precision"] not in ("bf16", "fp8", "fp8_block"):
            raise NotMeasurableError(f"no {item['precision']} product is implemented")
        match item.operator:
            case "gemm":
                return self._gemm(item)
            case "grouped_gemm":
                return self._grouped(item)
            case "decode_attention":
                return self._decode(item)
            case "decode_mla":
                return self._decode_mla(item)
            case "prefill_attention":
                return self._prefill(item)
            case "prefill_mla":
                return self._prefill_mla(item)
            case "stream":
                return TorchBench(self._stream)
            case _:
                raise NotMeasurableError("no kernel")

    def _random(self, *shape: int, fp8: bool = False) -> Tensor:
        torch = self._torch
        count = math.prod(shape)
        dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
        block = torch.randn(min(count, RANDOM_BLOCK), dtype=torch.bfloat16, device="cuda").to(dtype)
        if block.numel() == count:
            return block.view(shape)
        filled = torch.empty(count, dtype=dtype, device="cuda")
        for start in range(0, count, RANDOM_BLOCK):
            part = filled[start : start + RANDOM_BLOCK]
            part.copy_(block[: part.numel()])
        return filled.view(shape)

    def _ones(self, *shape: int) -> Tensor:
        return self._torch.ones(shape, dtype=self._torch.float32, device="cuda")

    def _copies(self, size_bytes: float) -> int:
        return max(1, min(MOST_COPIES, math.ceil(CACHE_FILLS * self._cache_bytes / size_bytes)))

    def _gemm(self, item: WorkItem) -> TorchBench:
        torch, n, k = self._torch, item["n"], item["k"]
        fp8, block = item["precision"] != "bf16", item["precision"] == "fp8_block"
        if fp8 and (n % 16 or k % 16):
            raise NotMeasurableError("FP8 products need n and k that are multiples of 16")
        copies = self._copies(n * k * (1.0 if fp8 else 2.0))
        weights = [self._random(n, k, fp8=fp8).t() for _ in range(copies)]
        rows = self._random(max(item.values), k, fp8=fp8)
        if not fp8:

            def at(value: int) -> Sequence[Candidate]:
                x, out = rows[:value], torch.empty(value, n, dtype=torch.bfloat16, device="cuda")
                return [Candidate("torch.mm", [_bind(torch.mm, x, weight, out=out) for weight in weights])]

            return TorchBench(at)

        def at_fp8(value: int) -> Sequence[Candidate]:
            def calls(scale_rows: Tensor, scale_columns: Tensor) -> list[Call]:
                named = {"scale_a": scale_rows, "scale_b": scale_columns, "out_dtype": torch.bfloat16}
                return [
                    _bind(torch._scaled_mm, rows[:value], weight, use_fast_accum=True, **named) for weight in weights
                ]

            found = self._block_scaled(rows[:value], weights) if block else []
            return [
                *found,
                Candidate(
                    "torch._scaled_mm, row-wise scales", calls(self._ones(value, 1), self._ones(1, n)), stand_in=block
                ),
                # One scale for the whole tensor is what GPUs without the row-wise kernel have.
                Candidate(
                    "torch._scaled_mm, one scale", calls(self._ones(1).view(()), self._ones(1).view(())), stand_in=True
                ),
            ]

        return TorchBench(at_fp8)

    def _block_scaled(self, x: Tensor, weights: Sequence[Tensor]) -> list[Candidate]:
        """Products with a scale for every 128 activations of a row and every 128 x 128 weights.

        cuBLAS wants the activations' scales row-index-major, and the weights' with columns of a multiple of 4.
        """
        torch = self._torch
        (rows, k), n = x.shape, weights[0].shape[1]
        blocks = -(-k // FP8_BLOCK)
        padded = -(-blocks // 4) * 4
        scale_rows = self._ones(blocks, rows).t()
        scale_weights = self._ones(-(-n // FP8_BLOCK), padded).t()
        old = {"scale_a": scale_rows, "scale_b": scale_weights[:blocks], "out_dtype": torch.bfloat16}
        found = [
            Candidate(
                "torch._scaled_mm, block scales", [_bind(torch._scaled_mm, x, weight, **old) for weight in weights]
            )
        ]
        functional = torch.nn.functional
        if hasattr(functional, "scaled_mm"):
            kinds = functional.ScalingType
            scales = (scale_rows, kinds.BlockWise1x128, scale_weights, kinds.BlockWise128x128)
            calls = [_bind(functional.scaled_mm, x, weight, *scales) for weight in weights]
            found.append(Candidate("torch.nn.functional.scaled_mm, block scales", calls))
        return found

    def _grouped(self, item: WorkItem) -> TorchBench:
        torch = self._torch
        experts, hidden, width = item["active_experts"], item["hidden"], item["intermediate"]
        fp8, block = item["precision"] != "bf16", item["precision"] == "fp8_block"
        if hidden % 16 or width % 16:
            raise NotMeasurableError("grouped products need widths that are multiples of 16")
        wide = (2 if item["gated"] else 1) * width
        copies = self._copies(experts * hidden * (wide + width) * (1.0 if fp8 else 2.0))
        ups = [self._random(experts, wide, hidden, fp8=fp8).transpose(1, 2) for _ in range(copies)]
        downs = [self._random(experts, hidden, width, fp8=fp8).transpose(1, 2) for _ in range(copies)]
        tokens, middle = self._random(max(item.values), hidden, fp8=fp8), self._random(max(item.values), width, fp8=fp8)
        scale_up, scale_down = self._ones(experts, wide), self._ones(experts, hidden)

        def at(pairs: int) -> Sequence[Candidate]:
            sizes = [pairs // experts + (index < pairs % experts) for index in range(experts)]
            ends = torch.tensor(sizes, device="cuda").cumsum(0).to(torch.int32)
            scale, x, h = self._ones(pairs), tokens[:pairs], middle[:pairs]

            def grouped(up: Tensor, down: Tensor) -> None:
                if fp8:
                    named = {"offs": ends, "out_dtype": torch.bfloat16, "use_fast_accum": True}
                    torch._scaled_grouped_mm(x, up, scale, scale_up, **named)
                    torch._scaled_grouped_mm(h, down, scale, scale_down, **named)
                else:
                    torch._grouped_mm(x, up, offs=ends)
                    torch._grouped_mm(h, down, offs=ends)

            def loop(up: Tensor, down: Tensor) -> None:
                start = 0
                for index, size in enumerate(sizes):
                    part = slice(start, start + size)
                    torch.mm(x[part], up[index])
                    torch.mm(h[part], down[index])
                    start += size

            pairs_of_weights = list(zip(ups, downs, strict=True))
            name = "torch._scaled_grouped_mm" if fp8 else "torch._grouped_mm"
            # PyTorch's grouped FP8 product has row-wise scales only.
            found = [Candidate(name, [_bind(grouped, up, down) for up, down in pairs_of_weights], stand_in=block)]
            if not fp8:
                calls = [_bind(loop, up, down) for up, down in pairs_of_weights]
                found.append(Candidate("torch.mm for each expert", calls, stand_in=True))
            return found

        return TorchBench(at)

    def _decode(self, item: WorkItem) -> TorchBench:
        torch, context = self._torch, item["context"]
        kv_heads, width = item["kv_heads"], item["head_dim"]
        # One query sees the whole context, so that the heads of a group are rows of one product. Draft tokens see a
        # few tokens less; the difference is not resolved.
        rows = item["heads"] // kv_heads * item["queries"]
        sequence_bytes = 4.0 * context * kv_heads * width
        pool = max(max(item.values), self._copies(sequence_bytes))
        keys, values = (self._random(pool, context, kv_heads, width) for _ in range(2))
        queries = self._random(max(item.values), kv_heads, rows, width)
        sdpa, backends = torch.nn.functional.scaled_dot_product_attention, self._attention.SDPBackend

        def at(sequences: int) -> Sequence[Candidate]:
            copies = max(1, min(pool // sequences, self._copies(sequence_bytes * sequences)))
            parts = [slice(copy * sequences, (copy + 1) * sequences) for copy in range(copies)]
            q = queries[:sequences]

            def whole(backend: Any, part: slice) -> None:
                with self._attention.sdpa_kernel(backend):
                    sdpa(q, keys[part].transpose(1, 2), values[part].transpose(1, 2))

            def split(splits: int, part: slice) -> None:
                k, v = (
                    cache[part].view(sequences * splits, context // splits, kv_heads, width).transpose(1, 2)
                    for cache in (keys, values)
                )
                out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention(q.repeat_interleave(splits, 0), k, v)[
                    :2
                ]
                share = log_sum.unflatten(0, (sequences, splits)).softmax(1).unsqueeze(-1).to(torch.bfloat16)
                (out.unflatten(0, (sequences, splits)) * share).sum(1)

            found = [
                Candidate("SDPA, FlashAttention", [_bind(whole, backends.FLASH_ATTENTION, part) for part in parts]),
                Candidate("SDPA, cuDNN", [_bind(whole, backends.CUDNN_ATTENTION, part) for part in parts]),
            ]
            splits = 1
            while sequences * kv_heads * splits < self._multiprocessors and context % (2 * splits) == 0:
                splits *= 2
            while splits > 1 and context // splits < LEAST_SPLIT:
                splits //= 2
            if splits > 1:
                name = f"SDPA, FlashAttention over {splits} parts of the context"
                found.append(Candidate(name, [_bind(split, splits, part) for part in parts]))
            return found

        return TorchBench(at)

    def _decode_mla(self, item: WorkItem) -> TorchBench:
        torch, context, rank = self._torch, item["context"], item["kv_lora_rank"]
        width = rank + item["qk_rope_head_dim"]
        sequence_bytes = 2.0 * context * width
        pool = max(max(item.values), self._copies(sequence_bytes))
        latents = self._random(pool, context, width)
        queries = self._random(max(item.values), item["heads"] * item["queries"], width)

        def absorbed(q: Tensor, latent: Tensor) -> None:
            shares = torch.softmax(torch.bmm(q, latent.transpose(1, 2)), dim=-1)
            torch.bmm(shares, latent[..., :rank])

        def at(sequences: int) -> Sequence[Candidate]:
            copies = max(1, min(pool // sequences, self._copies(sequence_bytes * sequences)))
            calls = [
                _bind(absorbed, queries[:sequences], latents[copy * sequences : (copy + 1) * sequences])
                for copy in range(copies)
            ]
            # Engines run FlashMLA or FlashInfer, which read the latent once and write no scores.
            return [Candidate("torch.bmm, softmax, torch.bmm", calls, stand_in=True)]

        return TorchBench(at)

    def _prefill(self, item: WorkItem) -> TorchBench:
        context, new, most = item["context"], item["new_tokens"], max(item.values)
        queries = self._random(most, new, item["heads"], item["head_dim"]).transpose(1, 2)
        keys, values = (
            self._random(most, context + new, item["kv_heads"], item["head_dim"]).transpose(1, 2) for _ in range(2)
        )

        def at(prompts: int) -> Sequence[Candidate]:
            q, k, v = queries[:prompts], keys[:prompts], values[:prompts]
            return [
                Candidate("SDPA, cuDNN", [_bind(self._causal_cudnn, q, k, v, context)]),
                Candidate("SDPA, FlashAttention", [_bind(self._causal_flash, q, k, v, context)]),
            ]

        return TorchBench(at)

    def _prefill_mla(self, item: WorkItem) -> TorchBench:
        torch, heads = self._torch, item["heads"]
        context, new, most = item["context"], item["new_tokens"], max(item.values)
        rank, nope, value_width = item["kv_lora_rank"], item["qk_nope_head_dim"], item["v_head_dim"]
        width = nope + item["qk_rope_head_dim"]
        queries = self._random(most, new, heads, width).transpose(1, 2)
        keys, values = (self._random(most, context + new, heads, width) for _ in range(2))
        latents = self._random(most, max(context, 1), rank)
        rotary = self._random(most, max(context, 1), 1, width - nope)
        up = self._random(heads * (nope + value_width), rank).t()

        def expand(prompts: int) -> None:
            """Keys and values of the tokens before the chunk, from their latents."""
            if not context:
                return
            expanded = torch.matmul(latents[:prompts], up).view(prompts, context, heads, nope + value_width)
            keys[:prompts, :context, :, :nope].copy_(expanded[..., :nope])
            keys[:prompts, :context, :, nope:].copy_(rotary[:prompts].expand(-1, -1, heads, -1))
            values[:prompts, :context, :, :value_width].copy_(expanded[..., nope:])

        def attend(causal: Callable[..., None], value_columns: int, prompts: int) -> None:
            expand(prompts)
            k, v = keys[:prompts].transpose(1, 2), values[:prompts, :, :, :value_columns].transpose(1, 2)
            causal(queries[:prompts], k, v, context)

        def at(prompts: int) -> Sequence[Candidate]:
            return [
                Candidate("SDPA, cuDNN", [_bind(attend, self._causal_cudnn, value_width, prompts)]),
                # FlashAttention wants values as wide as keys; engines pad them too.
                Candidate("SDPA, FlashAttention, padded values", [_bind(attend, self._causal_flash, width, prompts)]),
            ]

        return TorchBench(at)

    def _causal_flash(self, q: Tensor, k: Tensor, v: Tensor, context: int) -> None:
        sdpa = self._torch.nn.functional.scaled_dot_product_attention
        grouped = q.shape[1] != k.shape[1]
        with self._attention.sdpa_kernel(self._attention.SDPBackend.FLASH_ATTENTION):
            if context:
                bias = self._bias.causal_lower_right(q.shape[2], k.shape[2])
                sdpa(q, k, v, attn_mask=bias, enable_gqa=grouped)
            else:
                sdpa(q, k, v, is_causal=True, enable_gqa=grouped)

    def _causal_cudnn(self, q: Tensor, k: Tensor, v: Tensor, context: int) -> None:
        """The chunk's own square is causal, the context before it is not: two calls, merged by their log-sum-exps."""
        torch = self._torch
        if not context:
            with self._attention.sdpa_kernel(self._attention.SDPBackend.CUDNN_ATTENTION):
                grouped = q.shape[1] != k.shape[1]
                torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            return

        def part(keys: slice, causal: bool) -> tuple[Tensor, Tensor]:
            out, log_sum = torch.ops.aten._scaled_dot_product_cudnn_attention(
                q, k[:, :, keys], v[:, :, keys], None, True, 0.0, causal, False
            )[:2]
            return out, log_sum.reshape(*out.shape[:3], 1)

        before, before_sum = part(slice(None, context), False)
        own, own_sum = part(slice(context, None), True)
        torch.lerp(own, before, torch.sigmoid(before_sum - own_sum).to(own.dtype))

    def _stream(self, value: int) -> Sequence[Candidate]:
        torch = self._torch
        source = self._random(max(1, value // 4))  # two bytes read and two written for every element
        target = torch.empty_like(source)
        return [Candidate("torch.mul", [_bind(torch.mul, source, 1.5, out=target)])]


def _bind(function: Callable[..., object], *arguments: Any, **named: Any) -> Call:
    return lambda: function(*arguments, **named)
