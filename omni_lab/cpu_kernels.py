"""Operations for which torch has no fast path on a CPU, written with kernels that it does have.

They fall back to the ordinary functions under torch.compile, on other devices and for other dtypes; products also under
autocast.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Self
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules import module as modules
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

# Below so many rows MKL, which repacks nothing, is faster than oneDNN.
ONEDNN_ROWS = 48
# So many keys at most for which attention is written out: their weights are kept for the backward pass.
SPELLED_UP_TO = 1024
LEAST = -1e9  # a score that attends to nothing, and of which no gradient is NaN


def applies(x: Tensor, weight: Tensor) -> bool:
    """Whether the products of this file may be used: float32 on a CPU, outside autocast and torch.compile.

    Weights of a class of their own (quantised ones) have kernels of their own."""
    return norm_applies(x, weight) and not torch.is_autocast_enabled("cpu")


def norm_applies(x: Tensor, weight: Tensor) -> bool:
    """Whether RMSNormOnCPU may be used: as `applies`, and under autocast, which leaves the residual stream float32."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and type(weight) in (Tensor, nn.Parameter)
    )


PACKED: WeakKeyDictionary[nn.Module, dict[Any, tuple[Any, Any]]] = WeakKeyDictionary()
PACKED_LIMIT = 16  # copies of one module


def kept(owner: nn.Module, make: Callable[..., Any], *how: Any) -> Any:
    """`make(owner, *how)`, something computed from a module's weights alone, made again only when they have changed.

    A change is seen by the weights' addresses and version counters. Fused optimisers raise no counter: copies are
    forgotten after the step of any torch optimiser that holds the module's weights, and when the module runs with
    gradients (`forget`), after which it may be moved by any means. Not seen is what else goes behind the back of the
    counters: `weight.data.mul_(2)` between two replies, or weights that came into being under inference_mode, which
    count nothing. how: hashable. The oldest of more than PACKED_LIMIT are forgotten."""
    state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in owner.parameters()]
    copies = PACKED.setdefault(owner, {})
    known = copies.pop((make, how), None)
    if known is None or known[0] != state:
        with torch.no_grad():
            known = (state, make(owner, *how))
    copies[make, how] = known  # at the end: the newest
    while len(copies) > PACKED_LIMIT:
        del copies[next(iter(copies))]
    return known[1]


def forget(owner: nn.Module) -> None:
    """Drop the copies of a module that runs with gradients, hence may learn: for its `forward` to call."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or owner not in PACKED:
        return
    if any(p.requires_grad for p in owner.parameters()):
        PACKED.pop(owner, None)


def forget_moved(optimiser: Optimizer, *_: Any) -> None:
    """Drop the copies of all modules whose weights an optimiser has moved. Called after each step of each."""
    if not PACKED:
        return
    moved = {id(p) for group in optimiser.param_groups for p in group["params"]}
    for reference in PACKED.keyrefs():
        owner = reference()
        if owner is not None and any(id(p) in moved for p in owner.parameters()):
            PACKED.pop(owner, None)


register_optimizer_step_post_hook(forget_moved)


def listened(module: nn.Module) -> bool:
    """Whether somebody wants to be told when the module is called: what stands for it must then step aside."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or modules._global_forward_hooks
        or modules._global_forward_pre_hooks
    )


class Linear(nn.Linear):
    """nn.Linear, which on a CPU with AVX-512 multiplies large float32 matrices with oneDNN.

    torch sends them to MKL, which on AMD's then stays at half of what oneDNN reaches; without AVX-512 it leads.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() >= ONEDNN_ROWS * x.shape[-1] and applies(x, self.weight) and onednn_leads():
            return OneDNNLinear.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class DecoderLinear(Linear):
    """Linear of a decoder. In eval mode on a CPU its weight lies columns first; else rows first, as everywhere.

    So MKL reads it at up to twice the speed when a single token is decoded, oneDNN multiplies it as fast or faster,
    and no copy is held beside it. Values, shape and name stay; `train()` and `to()` put it in order again.
    Several that multiply the same input may lie side by side in one matrix: see `Joined`.
    """

    LIMIT = 8 * 2**20  # bytes; larger weights come from memory-mapped files and are not read all over for this

    def forward(self, x: Tensor) -> Tensor:
        # For a view into a wider matrix oneDNN has its reference kernel alone, a thousand times slower than MKL.
        wide = self.weight.stride(0) == 1 and self.weight.stride(1) > self.weight.shape[0]
        return F.linear(x, self.weight, self.bias) if wide else super().forward(x)

    def train(self, mode: bool = True) -> Self:
        """As in torch; then the weight is laid out."""
        super().train(mode)
        self.lay_out()
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """What `to`, `cuda` and `float` call."""
        super()._apply(*args, **kwargs)
        self.lay_out()
        return self

    def movable(self) -> bool:
        """Whether the weight is an ordinary tensor, whose order may be changed."""
        weight = self.weight
        return type(weight) in (Tensor, nn.Parameter) and not weight.is_meta and not weight.is_inference()

    def by_columns(self) -> bool:
        """Whether the weight is to lie columns first."""
        return not self.training and applies(self.weight, self.weight) and self.weight.nbytes <= self.LIMIT

    def lay_out(self) -> None:
        """Put the weight in the order that suits its device and mode."""
        if not self.movable():
            return
        columns, weight = self.by_columns(), self.weight
        with torch.inference_mode(False), torch.no_grad():  # it may have to learn later
            laid = weight.detach().t() if columns else weight.detach()
            if not laid.is_contiguous() and not (columns and laid.stride(1) == 1):
                laid = laid.contiguous()
                weight.data = laid.t() if columns else laid


class Joint(NamedTuple):
    """Weights side by side: (in, out of all), their biases (out of all,) or None, and how wide each is."""

    columns: Tensor
    bias: Tensor | None
    widths: tuple[int, ...]

    def __deepcopy__(self, memo: dict) -> None:
        """Nothing: the copied weights are views of nothing, and their module joins them anew."""


class Joined(nn.Module):
    """A module with several DecoderLinears that multiply the same input, named in `JOINED`.

    In eval mode on a CPU their weights are views into one matrix, and one product stands for all of them: when a single
    token is decoded, most of a product's time is that of calling it. Names, values and shapes stay those of separate
    layers; in train mode they are separate, and so they are wherever a gradient is wanted.

    Weights that lie so are not contiguous, nor do they own their storage, and `state_dict` gives them as they are: it
    must, since who loads or resumes writes into its tensors. What flattens by `view` or wants a storage for each
    (`nn.utils.parameters_to_vector`, `safetensors.torch.save_file`) takes them after `train()`, or made `contiguous()`.
    """

    JOINED: ClassVar[tuple[str, ...]] = ()
    joint: Joint | None = None

    def train(self, mode: bool = True) -> Self:
        """As in torch; then the weights are joined or parted."""
        super().train(mode)
        self.join()
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """What `to`, `cuda` and `float` call."""
        super()._apply(*args, **kwargs)
        self.join()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `copy.deepcopy` and unpickling call: a copy of joined weights is joined."""
        super().__setstate__(state)
        self.join()

    def members(self) -> list[DecoderLinear] | None:
        """The layers, where each is still a plain DecoderLinear that nobody replaced or listens to."""
        found = [getattr(self, name) for name in self.JOINED]
        plain = all(type(part) is DecoderLinear and not listened(part) and part.movable() for part in found)
        return found if plain else None

    def join(self) -> None:
        """Put the weights side by side where they are to lie columns first; else forget that they were.

        They are then not contiguous: see the class."""
        parts = self.members()
        if self.whole(parts) is not None:
            return
        self.joint = None
        if not parts or not all(part.by_columns() for part in parts):
            return
        biases = [part.bias for part in parts if part.bias is not None]
        if len(biases) not in (0, len(parts)):
            return
        with torch.inference_mode(False), torch.no_grad():
            columns = torch.cat([part.weight.detach().t() for part in parts], dim=1)
            bias = torch.cat([each.detach() for each in biases]) if biases else None
            widths = tuple(part.out_features for part in parts)
            for part, weight in zip(parts, columns.split(widths, dim=1), strict=True):
                part.weight.data = weight.t()
            for kept_bias, values in zip(biases, bias.split(widths) if bias is not None else (), strict=True):
                kept_bias.data = values
        self.joint = Joint(columns, bias, widths)

    def whole(self, parts: list[DecoderLinear] | None) -> Joint | None:
        """The joint weights, if the layers' weights still are views into them."""
        joint = self.joint
        if joint is None or not parts:
            return None
        matrix, row = joint.columns.data_ptr(), None if joint.bias is None else joint.bias.data_ptr()
        for part, width in zip(parts, joint.widths, strict=True):
            if part.training or part.weight.data_ptr() != matrix or part.weight.stride() != (1, joint.columns.shape[1]):
                return None
            if row is not None and (part.bias is None or part.bias.data_ptr() != row):
                return None
            matrix += width * joint.columns.element_size()
            row = None if row is None else row + width * joint.columns.element_size()
        return joint

    def products(self, x: Tensor) -> Iterator[Tensor]:
        """What each of the layers makes of x, (..., in) -> (..., out) each; apart, each is made when it is taken."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # once, not in each product
        plain = self.joint is None or torch.is_grad_enabled() or torch.compiler.is_compiling()
        joint = None if plain else self.whole(self.members())
        if joint is None or not applies(x, joint.columns):
            return (getattr(self, name)(x) for name in self.JOINED)
        product = onednn_product if x.numel() >= ONEDNN_ROWS * x.shape[-1] and onednn_leads() else F.linear
        return iter(product(x, joint.columns.t(), joint.bias).split(joint.widths, dim=-1))


@functools.lru_cache(maxsize=1)
def onednn_leads() -> bool:
    """Whether oneDNN, if this torch has it, is expected to multiply large matrices faster than what torch chooses.

    Measured on one core of two EPYCs, products of the nano thinker: with AVX-512 up to twice as fast; with AVX2 alone
    as fast forwards, and 61 against 83 GFLOP/s in the gradients of weights, for which it copies both factors."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight^T + bias by oneDNN: (..., in), (out, in), (out,) -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class OneDNNLinear(torch.autograd.Function):
    """The three products of a linear layer, each by oneDNN."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])  # (rows, out)
        grad_x = onednn_product(grad, weight.t()) if need_x else None
        grad_weight = onednn_product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if need_weight else None
        return grad_x, grad_weight, rows.sum(0) if need_bias else None


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, causal: bool = False, grouped: bool = False
) -> Tensor:
    """torch's scaled_dot_product_attention, (batch, heads, length, head_dim) each; `bias` additive or bool.

    In 16 bits torch's kernel for a CPU takes two to seven times as long for its backward pass as plain products do."""
    if spelled_out(query) and key.shape[2] <= SPELLED_UP_TO:
        return spelled_attention(query, key, value, bias, causal)
    if grouped and query.device.type == "cuda" and not (bias is None and flashes(query)):
        # What else keeps no scores takes no groups, and torch would write them all down.
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        grouped = False
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal, enable_gqa=grouped)


def flashes(query: Tensor) -> bool:
    """Whether flash attention takes this on its card: in 16 bits, from compute capability 8.0 on."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    return dtype != torch.float32 and torch.cuda.get_device_properties(query.device).major >= 8


def spelled_out(query: Tensor) -> bool:
    """Whether attention that learns is better written in products: on a CPU, in bfloat16, outside torch.compile."""
    if query.device.type != "cpu" or not query.requires_grad or torch.compiler.is_compiling():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return dtype == torch.bfloat16


@functools.lru_cache(maxsize=2)
def later(dtype: torch.dtype) -> Tensor:
    """LEAST at every place later than its row's, 0 elsewhere: (SPELLED_UP_TO, SPELLED_UP_TO), to be cut to size."""
    return torch.full((SPELLED_UP_TO, SPELLED_UP_TO), LEAST, dtype=dtype).triu(1)


def spelled_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    """softmax(query key^T / sqrt(head_dim) + bias) value, with as many queries to a key as there are more heads."""
    batch, heads, length, head_dim = query.shape
    kv_heads, places = key.shape[1:3]
    rows = (query * head_dim**-0.5).reshape(batch, kv_heads, -1, head_dim)  # queries of one key side by side
    scores = (rows @ key.transpose(-1, -2)).view(batch, heads, length, places)
    if causal:
        weights = (scores + later(scores.dtype)[places - length : places, :places]).softmax(-1)
    elif bias is None:
        weights = scores.softmax(-1)
    elif bias.dtype == torch.bool:
        weights = scores.masked_fill(~bias, LEAST).softmax(-1).masked_fill(~bias.any(-1, keepdim=True), 0.0)
    else:  # where nothing may be seen there is no gradient and, as in torch's kernel, nothing comes out
        blind = (bias == -torch.inf).all(-1, keepdim=True)
        weights = (scores + bias.clamp(min=LEAST).to(scores.dtype)).softmax(-1).masked_fill(blind, 0.0)
    return (weights.view(batch, kv_heads, -1, places) @ value).reshape(batch, heads, length, head_dim)


class RMSNormOnCPU(torch.autograd.Function):
    """RMSNorm in few passes over memory: on a CPU, torch has a fused kernel for LayerNorm but none for RMSNorm.

    Backward borrows LayerNorm's kernel with the mean set to zero. LayerNorm's gradient holds one term more, that of its
    mean, -rstd * mean(weight * grad); adding it back leaves RMSNorm's gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, weight, rstd)
        return (x * rstd).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, rstd = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, weight.shape, torch.zeros_like(rstd), rstd, weight, None, [True, True, False]
        )
        of_mean = (grad @ weight).unsqueeze(-1).mul_(rstd).div_(x.shape[-1])  # (..., 1)
        return grad_x.add_(of_mean), grad_weight, None
