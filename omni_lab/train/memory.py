"""What a training run holds in memory: weights, gradients, optimiser, activations; counted before, and measured.

The count needs the configuration alone, so it says before a run starts whether it fits, and what would fit instead.
Notable: each function takes plain numbers and follows one tensor kind, so that it can be checked against what autograd
really keeps (`saved_bytes`) and what a GPU's allocator really gave (benchmarks/gpu_published.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TalkerConfig, TextConfig
from ..errors import ConfigError, OmniLabError

PRECISIONS = ("float32", "autocast", "bfloat16")
GB = 1e9


def state_bytes(parameters: int, learning: int, precision: str) -> dict[str, int]:
    """Bytes of what stays from step to step, by kind: weights, gradients, optimiser, copies.

    parameters: all of them; learning: those that are not frozen. precision: "float32"; "autocast" (float32 weights, and
    a 16-bit copy of each that lives from forward to backward; Micikevicius et al. 2018, section 3.1); "bfloat16" (all
    in 16 bits). AdamW holds two moments of the type of the weights. Raises ConfigError for another precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    size = 2 if precision == "bfloat16" else 4
    return {
        "weights": size * parameters,
        "gradients": size * learning,
        "optimiser": 2 * size * learning,
        "copies": 2 * parameters if precision == "autocast" else 0,
    }


def counts(model: nn.Module, groups: Mapping[str, list[dict[str, Any]]]) -> dict[str, int]:
    """How many numbers a model has and how many of them learn, those in an optimiser's `groups`; a model on "meta" is
    enough."""
    learning = {id(p): p.numel() for some in groups.values() for group in some for p in group["params"]}
    return {"parameters": sum(p.numel() for p in model.parameters()), "learning": sum(learning.values())}


def layer_activations(
    tokens: int,
    hidden_size: int,
    intermediate_size: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    compute_bytes: int,
    residual_bytes: int,
) -> int:
    """Bytes that one decoder layer keeps for its backward pass, with attention that stores no scores (flash).

    The residual stream is kept twice (each norm needs its input), in residual_bytes a number. In compute_bytes: what
    both norms give, queries, keys, values, what attention gives, and four tables as wide as the SwiGLU: gate, up,
    silu(gate), and their product. After Korthikanti et al. 2022, section 4, for this layer.
    """
    stream = 2 * hidden_size
    attention = 2 * heads * head_dim + 2 * kv_heads * head_dim
    inside = 2 * hidden_size + attention + 4 * intermediate_size
    return tokens * (residual_bytes * stream + compute_bytes * inside)


def cache_bytes(config: TextConfig | TalkerConfig, rows: int, length: int, size: int = 2) -> int:
    """Bytes of a KV cache of `rows` x `length` tokens; size: bytes a number."""
    return 2 * size * rows * length * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def decoder_parameters(config: TextConfig, tied: bool = False) -> int:
    """Parameters of embedding, layers, norm and head."""
    width, narrow = config.hidden_size, config.num_key_value_heads * config.head_dim
    wide = config.num_attention_heads * config.head_dim
    attention = width * wide * 2 + wide + 2 * (width * narrow + narrow)
    layer = attention + 3 * width * config.intermediate_size + 2 * width
    return (1 if tied else 2) * config.vocab_size * width + config.num_hidden_layers * layer + width


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, by kind."""

    weights: int
    gradients: int
    optimiser: int
    copies: int  # 16-bit copies under autocast
    activations: int  # at the end of the forward pass
    recomputed: int  # of one layer, when the backward pass runs it again; 0 where all are kept
    logits: int  # of the labelled tokens, in the loss
    accumulated: bool  # whether gradients of an earlier micro-batch are held during a forward pass
    average: int = 0  # of the weights that learn (EMA)

    @property
    def states(self) -> int:
        """What is held between steps."""
        return self.weights + self.optimiser + self.average

    @property
    def peak(self) -> int:
        """The most that is held at once.

        Activations go while gradients come, so only with several micro-batches a step do both stand there in full. The
        logits have gone when the first layer is recomputed.
        """
        start_of_backward = self.copies + self.activations + max(self.logits, self.recomputed)
        if self.accumulated:
            return self.states + self.gradients + start_of_backward
        return self.states + max(start_of_backward, self.gradients)


def training_memory(
    config: TextConfig,
    rows: int,
    length: int,
    precision: str = "autocast",
    checkpointed: bool = False,
    labelled: int | None = None,
    accumulate: int = 1,
    processes: int = 1,
    parameters: int | None = None,
    learning: int | None = None,
    averaged: bool = False,
) -> Memory:
    """Count a step of the decoder on `rows` x `length` tokens on each of `processes` (FSDP2: all states are sharded).

    checkpointed: layers are recomputed in the backward pass. labelled: tokens with a label (default: all), for only
    those get logits. parameters, learning: of the whole model, where more than the decoder is there. averaged: with a
    running average of what learns. accumulate: micro-batches a step that each process takes.
    """
    parameters = decoder_parameters(config) if parameters is None else parameters
    learning = parameters if learning is None else learning
    states = state_bytes(parameters, learning, precision)
    states["average"] = (2 if precision == "bfloat16" else 4) * learning * averaged
    compute = 4 if precision == "float32" else 2
    residual = 2 if precision == "bfloat16" else 4
    tokens = rows * length
    layer = layer_activations(
        tokens, config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads,
        config.head_dim, compute, residual,
    )  # fmt: skip
    held = config.num_hidden_layers * layer
    if checkpointed:  # the input of each layer
        held = config.num_hidden_layers * tokens * config.hidden_size * residual
    held += tokens * config.hidden_size * (residual + compute)  # the last norm's input, and what the head reads
    # In float32, at the start of the backward pass: log-probabilities, their gradient, and that of the logits.
    logits = 12 * (tokens if labelled is None else labelled) * config.vocab_size
    shares = {name: -(-value // processes) for name, value in states.items()}
    # While a layer's backward pass runs, the gradients of gate and up stand beside what it has kept.
    again = layer + 2 * tokens * config.intermediate_size * compute if checkpointed else 0
    return Memory(**shares, activations=held, recomputed=again, logits=logits, accumulated=accumulate > 1)


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes of a reply, by kind."""

    weights: int
    heard: int  # keys and values of the prompt
    cache: int  # and of prompt and reply
    passing: int  # what a layer holds while the prompt passes through it

    @property
    def peak(self) -> int:
        """The most that is held at once: room for the reply is made when the prompt has passed."""
        return self.weights + max(self.heard + self.passing, self.cache)


def inference_memory(
    config: TextConfig, rows: int, prompt: int, new: int, size: int = 2, tied: bool = False
) -> InferenceMemory:
    """Count a reply of `new` tokens of the decoder to each of `rows` prompts of `prompt` tokens.

    size: bytes a number. tied: embedding and head are one. While the prompt passes, there are its embeddings, the
    residual stream, its norm, and three tables as wide as the SwiGLU.
    """
    weights = size * decoder_parameters(config, tied)
    heard, cache = (cache_bytes(config, rows, length, size) for length in (prompt, prompt + new))
    passing = size * rows * prompt * (3 * config.hidden_size + 3 * config.intermediate_size)
    return InferenceMemory(weights, heard, cache, passing)


def longest_that_fits(available: int, count: Callable[[int], Memory], most: int = 32768) -> int:
    """The largest length up to `most` tokens, in steps of 256, whose peak fits into `available` bytes; 0: none does."""
    low, high = 0, most // 256
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(256 * middle).peak <= available else (low, middle - 1)
    return 256 * low


def need_to_fit(available: int, config: TextConfig, rows: int, length: int, **options: Any) -> Memory:
    """Count a step, or raise OmniLabError saying what it needs and what would fit: called before the first step."""
    counted = training_memory(config, rows, length, **options)
    if counted.peak <= available:
        return counted
    tried = [("one row", options | {"rows": 1}), ("recomputed layers", options | {"rows": rows, "checkpointed": True})]
    tried.append(("one row and recomputed layers", options | {"rows": 1, "checkpointed": True}))
    ways = []
    for name, changed in tried:
        if training_memory(config, length=length, **changed).peak <= available:
            ways.append(name)
    shorter = longest_that_fits(available, lambda n: training_memory(config, rows, n, **options), most=length)
    if shorter:
        ways.append(f"rows of {shorter} tokens")
    if not ways:
        states = counted.states / GB
        ways = [f"more processes (weights and optimiser alone are {states:.1f} GB), fewer parameters that learn"]
    raise OmniLabError(
        f"{rows} x {length} tokens need {counted.peak / GB:.1f} GB and {available / GB:.1f} GB are there; "
        f"what would fit: {'; '.join(ways)}"
    )


def saved_bytes(forward: Callable[[], Tensor], parameters: Any = ()) -> int:
    """Bytes that autograd keeps for the backward pass of `forward()`, each storage once, without `parameters`."""
    known = {p.untyped_storage().data_ptr() for p in parameters}
    found: dict[int, int] = {}
    kept: list[Tensor] = []  # alive until counted, so that no address is used twice

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        result = forward()
    del result
    return sum(found.values())
