"""A pretend card: device errors that only a GPU would show, on a CPU.

    with pretend_card(T4):
        train(recipe, folder, device="cuda")

Inside the block `omni_lab` believes in one CUDA card. Tensors on it are `OnCard`: a CPU tensor's memory under a class
whose `device` says cuda:0 and whose dispatch keys are CUDA's, so that autocast follows CUDA's rules. How it works:

- `PretendCard` (a TorchFunctionMode) sees each call from Python: it moves tensors between host and card, makes new ones
  where `device=` says, and raises what CUDA raises when tensors or generators of both places meet;
- `OnCard.__torch_dispatch__` sees each kernel: it runs the CPU's, and refuses those that CUDA has not;
- `torch.cuda` is replaced where a program asks for a card, streams, memory or graphs. A recorded graph is a list of
  kernels that `replay` runs again on the same memory; what may not be recorded raises.

In C++ the device stays "cpu", since autograd would ask the driver for a stream of any other; nothing in Python sees
that. It can't see: what a real kernel computes (numbers, determinism, speed, memory), races between streams, two cards,
NCCL, torch.compile, and mixed devices inside one C++ function that a program calls with tensors of one place.
"""

import gc
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import safetensors
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SUBCLASSES_ASIDE = torch._C.DisableTorchFunctionSubclass


@dataclass(frozen=True)
class Card:
    """What the card says of itself."""

    name: str
    major: int  # of the compute capability; bfloat16 is native from 8 on
    minor: int
    total_memory: int = 15 * 10**9  # bytes


T4 = Card("Pretend T4", 7, 5)  # computes in float16
L4 = Card("Pretend L4", 8, 9)  # computes in bfloat16


class OnCard(Tensor):
    """A tensor on the card; `inner` is a CPU tensor with the same memory."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnCard":
        inner = inner.detach() if inner.requires_grad else inner
        made = Tensor._make_subclass(cls, inner, False, device_for_backend_keys=CUDA)
        made.inner = inner
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    get_device = lambda self: 0  # noqa: E731

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.inner!r} on {CUDA}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OnCard, (self.inner,)

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return called(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def on_card(value: Any) -> bool:
    """Whether this is a tensor of the card."""
    return isinstance(value, OnCard)


def is_cuda(device: Any) -> bool:
    """Whether `device` (a torch.device, a name, a number or None) is a card. Raises RuntimeError if it is not there."""
    if device is None:
        return False
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return device.type == "cuda"


# Kernels: what runs below autograd and autocast.


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run a kernel for tensors of the card on the CPU."""
    need_kernel(func, args)
    known: dict[int, Any] = {}  # results that are arguments (in-place kernels) keep their identity

    def inside(value: Any) -> Any:
        if isinstance(value, Tensor):
            inner = value.inner if on_card(value) else value
            known[id(inner)] = value
            return inner
        if isinstance(value, (list, tuple)):
            return type(value)(map(inside, value))
        return CPU if isinstance(value, torch.device) and value.type == "cuda" else value

    def outside(value: Any) -> Any:
        if isinstance(value, Tensor):
            return known[id(value)] if id(value) in known else OnCard(value)
        return type(value)(map(outside, value)) if isinstance(value, (list, tuple)) else value

    inner_args, inner_kwargs = inside(tuple(args)), {name: inside(value) for name, value in kwargs.items()}
    with torch._C.DisableTorchFunction():
        if Graph.recording is not None:
            made = Graph.recording.record(func, inner_args, inner_kwargs)
        else:
            made = computed(func, inner_args, inner_kwargs)
        if func._schema.is_mutable:
            for written in filter(on_card, known.values()):
                if written.shape != written.inner.shape or written.stride() != written.inner.stride():
                    Tensor.data.__set__(written, OnCard(written.inner))  # as `squeeze_` leaves it
        return outside(made)


@cache
def has_kernel(name: str) -> bool:
    """Whether CUDA has the kernel, or one that is composed of others. The CPU's own fast paths count as had."""
    if "mkldnn" in name or "_cpu" in name:
        return True
    return torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA")


# Products that CUDA has for floats only.
PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::mv", "aten::addmv", "aten::dot",
            "aten::convolution"}  # fmt: skip


def need_kernel(func: Any, args: Any) -> None:
    """Raise what CUDA raises for a kernel, or a type, that it has not."""
    name = func._schema.name
    if not has_kernel(func.name()):
        raise NotImplementedError(f"Could not run {name!r} with arguments from the 'CUDA' backend")
    if name in PRODUCTS and not (args[0].is_floating_point() or args[0].is_complex()):
        raise RuntimeError(f'"{name[6:]}_cuda" not implemented for {str(args[0].dtype)[6:]!r}')


SIXTEEN_BITS = (torch.float16, torch.bfloat16)


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The CPU's kernel; in float32 where 16 bits have none or a slow one, as CUDA adds up in float32."""
    if func._schema.name in PRODUCTS or func._schema.name == "aten::convolution_backward":
        return widened(func, args, kwargs)
    func = OF_CUDA_ALONE.get(func, func)
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if not re.search(r"not implemented for '(Half|BFloat16)'", str(error)) or func._schema.is_mutable:
            raise
    return widened(func, args, kwargs)


def widened(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The CPU's kernel for float32, its results in the arguments' type."""
    kinds = {t.dtype for t in tensors_in(args) if t.is_floating_point()}
    if len(kinds) != 1 or not kinds & {*SIXTEEN_BITS}:
        return func(*args, **kwargs)  # types that do not go together, or nothing to widen
    (kind,) = kinds

    def cast(value: Any, old: torch.dtype, new: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            return value.to(new) if value.dtype == old else value
        return type(value)(cast(v, old, new) for v in value) if isinstance(value, (list, tuple)) else value

    made = func(*cast(args, kind, torch.float32), **{k: cast(v, kind, torch.float32) for k, v in kwargs.items()})
    return cast(made, torch.float32, kind)


def rms_norm_backward(
    grad: Tensor, x: Tensor, shape: list[int], rstd: Tensor, weight: Tensor | None, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `F.rms_norm`, in float32."""
    dims, grad, normed = tuple(range(-len(shape), 0)), grad.float(), x.float() * rstd
    inner = grad if weight is None else grad * weight.float()
    along = (inner - normed * (inner * normed).mean(dims, keepdim=True)) * rstd
    if weight is None or not wanted[1]:
        return along.to(x.dtype), None
    return along.to(x.dtype), (grad * normed).flatten(0, -len(shape) - 1).sum(0).to(weight.dtype)


# Kernels that the CPU has not.
OF_CUDA_ALONE = {torch.ops.aten._fused_rms_norm_backward.default: rms_norm_backward}


# Calls: what a program writes.


class PretendCard(TorchFunctionMode):
    """Sees each call of torch from Python, those without a tensor of the card too."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return called(func, args, kwargs or {})


def seen() -> bool:
    """Whether calls are seen here and now: not within one that is."""
    return any(isinstance(mode, PretendCard) for mode in torch.overrides._get_current_function_mode_stack())


def tensors_in(*values: Any) -> list[Tensor]:
    """Tensors in nested lists, tuples and dicts."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            if value and not isinstance(value[0], (int, float, str)):
                found += tensors_in(*value)
        elif isinstance(value, dict) and value:
            found += tensors_in(*value.values())
    return found


def called(func: Callable, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do what `func` does on a machine with a card."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # of a property
        with SUBCLASSES_ASIDE():
            return func(*args)
    if func in SPECIAL:
        return SPECIAL[func](*args, **kwargs)
    given = tensors_in(*args, kwargs)
    some = any(type(t) is OnCard for t in given)
    made_there = "device" in kwargs and is_cuda(kwargs["device"])
    drawn = [g for g in (*args, *kwargs.values()) if isinstance(g, torch._C.Generator)]
    if not (some or made_there or (drawn and is_cuda(drawn[0].device))):
        return func(*args, **kwargs)
    need_one_place(name, args, kwargs, given)
    there = (some and kwargs.get("device") is None) or made_there
    if drawn and is_cuda(drawn[0].device) != there:
        expected, found = ("cuda", "cpu") if there else ("cpu", "cuda")
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}'")
    learns = False
    if "device" in kwargs:
        kwargs = {**kwargs, "device": CPU if made_there else kwargs["device"]}
        learns = made_there and kwargs.pop("requires_grad", False)
    with SUBCLASSES_ASIDE():
        made = func(*args, **kwargs)
    if Graph.recording is not None and made_there and not some:
        Graph.recording.made_by(func, args, kwargs, made)
    if name in FOLLOWING and not on_card(args[0]):
        return made
    made = settled(made, there, given)
    return made.requires_grad_() if learns else made


def settled(value: Any, there: bool, given: list[Tensor]) -> Any:
    """A result where it belongs: the arguments, and what is there already, as they are."""
    if isinstance(value, Tensor):
        if on_card(value) == there or value.is_meta or any(value is t for t in given):
            return value
        if not there:
            return value.inner
        return Adopted.apply(value) if value.requires_grad else OnCard(value)
    if isinstance(value, (list, tuple)):
        parts = [settled(part, there, given) for part in value]
        return type(value)(parts) if type(value) in (list, tuple) else value
    return value


# Their result is where the first argument is.
FOLLOWING = {"__getitem__", "view_as", "expand_as", "reshape_as", "broadcast_tensors", "copy_"}
# These take tensors of both places.
BETWEEN = {"copy_", "_foreach_copy_", "view_as", "expand_as", "reshape_as", "type_as", "broadcast_tensors",
           "is_same_size", "result_type", "_pack_padded_sequence", "split", "__deepcopy__"}  # fmt: skip
# These take no scalar of the host either.
SAME_PLACE = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "index_select", "gather", "scatter",
              "scatter_", "scatter_add", "scatter_add_", "embedding", "take", "take_along_dim", "index_copy",
              "index_copy_", "index_add", "index_add_", "equal", "searchsorted", "bucketize"}  # fmt: skip


def need_one_place(name: str, args: Any, kwargs: dict[str, Any], given: list[Tensor]) -> None:
    """Raise RuntimeError, as CUDA does, where tensors of host and card meet that may not."""
    if name == "__getitem__":
        return need_index(args[0], args[1])
    if name in ("index_put", "index_put_", "_index_put_impl_"):
        return need_values(args[0], args[2] if len(args) > 2 else kwargs["values"], args[1])
    if name in BETWEEN:
        return
    if name.startswith("_fused_"):  # its counters too; of the rest the optimiser takes care
        given = tensors_in(*(a for a in args if isinstance(a, (list, tuple))))
    if not any(map(on_card, given)):
        return
    in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    wrong = [t for t in given if not on_card(t) and (t.dim() or name in SAME_PLACE or name.startswith("_fused_"))]
    if in_place and args and isinstance(args[0], Tensor) and not on_card(args[0]):
        wrong.append(args[0])
    if wrong:
        raise mixed(name)


def mixed(name: str) -> RuntimeError:
    """What CUDA says."""
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        f"(when calling {name})"
    )


def need_index(indexed: Tensor, index: Any) -> None:
    """An index may be on the host, or with what is indexed; a single number anywhere."""
    if not on_card(indexed) and any(on_card(t) and t.dim() for t in tensors_in(index)):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")


def need_values(written: Tensor, values: Any, index: Any) -> None:
    """Values for an index of tensors or lists must be with what is written, unless they are a single number."""
    need_index(written, index)
    if isinstance(values, Tensor) and values.dim() and on_card(values) != on_card(written):
        raise mixed("index_put_")


def set_item(written: Tensor, index: Any, values: Any) -> None:
    """`written[index] = values`: by whole slices a copy, which may cross; by numbers listed it may not."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, list) or (isinstance(p, Tensor) and p.dim()) for p in parts):
        need_values(written, values, index)
    with SUBCLASSES_ASIDE():
        Tensor.__setitem__(written, index, values)


class Uploaded(torch.autograd.Function):
    """Host to card."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return OnCard(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.inner.clone() if on_card(grad) else grad


class Downloaded(torch.autograd.Function):
    """Card to host."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.inner.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad if on_card(grad) else OnCard(grad.clone())


class Adopted(torch.autograd.Function):
    """What a C++ function made beside its arguments, which it took to be on the host."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return OnCard(x.detach())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`x.to(...)`, and what comes down to it."""
    if kwargs.pop("other", None) is not None or (args and isinstance(args[0], Tensor)):
        other, *args = args
        args = [other.device, other.dtype, *args]
    copy = kwargs.pop("copy", False) or (len(args) > 3 and args.pop(3))
    device, kind, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
    there = on_card(x) if device is None else is_cuda(device)
    with SUBCLASSES_ASIDE():
        if there and x.is_meta:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        if device is not None and device.type == "meta":
            return torch.empty_like(x, device="meta", dtype=kind)
        if not there and on_card(x):
            assert not non_blocking, "a copy to the host without waiting: what is read may not be there yet"
            if Graph.recording is not None:
                raise not_recorded()
            x, copy = Downloaded.apply(x), False
        elif there and not on_card(x):
            if Graph.recording is not None:
                raise not_recorded()
            x, copy = Uploaded.apply(x), False
        return x.to(kind or x.dtype, copy=bool(copy))


def cpu(x: Tensor, memory_format: Any = None) -> Tensor:
    """`x.cpu()`."""
    return to(x, CPU)


def cuda(x: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
    """`x.cuda()`."""
    return to(x, CUDA if device is None else device)


def as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """`torch.as_tensor`."""
    if not isinstance(data, Tensor):
        made = torch.as_tensor(data, dtype=dtype)
        return to(made, device) if device is not None else made
    return to(data, device, dtype) if device is not None else to(data, dtype or data.dtype)


def numbers(value: Any) -> Any:
    """Nested numbers without the card: tensors of one number there count as numbers."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(numbers, value))
    return value.inner if on_card(value) else value


def tensor(data: Any, *, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Tensor:
    """`torch.tensor`: numbers are the host's unless it says otherwise."""
    there = on_card(data) if device is None else is_cuda(device)
    made = torch.tensor(numbers(data), device=None if is_cuda(device) else device, **kwargs)
    return (to(made, CUDA) if there else made).requires_grad_(requires_grad)


def new_tensor(x: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """`x.new_tensor`."""
    return tensor(data, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def only_host(func: Callable) -> Callable:
    """A method that shares the host's memory."""

    def method(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if on_card(x):
            raise TypeError(
                f"can't convert {CUDA} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                "first."
            )
        return func(x, *args, **kwargs)

    return method


def of_inner(func: Callable) -> Callable:
    """A method that asks for the memory, or for numbers, whichever place they are in."""
    return lambda x, *args, **kwargs: func(x.inner if on_card(x) else x, *args, **kwargs)


def set_data(x: Tensor, value: Tensor) -> None:
    """`x.data = value`, which may take x, and its gradient, to the other place."""
    with SUBCLASSES_ASIDE(), torch.no_grad():
        if on_card(x) == on_card(value):
            Tensor.data.__set__(x, value)
            if on_card(x):
                x.inner = value.inner
            return
        fresh = value.detach()
        if isinstance(x, torch.nn.Parameter):
            fresh = torch.nn.Parameter(fresh, requires_grad=x.requires_grad)
        if x.grad is not None:
            fresh.grad = to(x.grad, value.device)
        if x._use_count() > 1:
            gc.collect()  # graphs of earlier passes that still hold x
        torch.utils.swap_tensors(x, fresh)


def set_grad(x: Tensor, grad: Tensor | None) -> None:
    """`x.grad = grad`."""
    if grad is not None and on_card(grad) != on_card(x):
        raise RuntimeError("attempting to assign a gradient with device type of the other place to a tensor")
    with SUBCLASSES_ASIDE():
        Tensor.grad.__set__(x, grad)


def pin_memory(x: Tensor, device: Any = None) -> Tensor:
    """`x.pin_memory()`: nothing to do."""
    if on_card(x):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return x


SPECIAL: dict[Callable, Callable] = {
    Tensor.to: to,
    Tensor.cpu: cpu,
    Tensor.cuda: cuda,
    Tensor.pin_memory: pin_memory,
    Tensor.is_pinned: lambda x, *_: not on_card(x),
    Tensor.__setitem__: set_item,
    Tensor.data.__set__: set_data,
    Tensor.grad.__set__: set_grad,
    Tensor.new_tensor: new_tensor,
    torch.tensor: tensor,
    torch.as_tensor: as_tensor,
    torch._has_compatible_shallow_copy_type: lambda x, other: True,
    **{func: only_host(func) for func in (Tensor.numpy, Tensor.__array__)},
    **{func: of_inner(func) for func in (Tensor.tolist, Tensor.data_ptr, Tensor.untyped_storage, Tensor.storage)},
}


class Generator(torch.Generator):
    """A generator that remembers its device; the card's draws what the CPU's would."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls, CPU if is_cuda(device) else device)
        made.place = CUDA if is_cuda(device) else torch.device(device)
        return made

    device = property(lambda self: self.place)


# Autocast: torch decides by the C++ device whether to cast, so the lists are read from its header and applied here.


HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
# Macro of the header -> how its operations treat their arguments.
POLICIES = {"LOWER_PRECISION_FP": "lower", "FP32": "float32", "FP32_SET_OPT_DTYPE": "result", "PROMOTE": "promote"}


def autocast_lists() -> Iterator[tuple[str, str]]:
    """(operation, policy) of CUDA's autocast."""
    text = HEADER.read_text()
    for macro, policy in POLICIES.items():
        (body,) = re.findall(rf"#define AT_FORALL_{macro}\(_\)((?:.*\\\n)*.*)", text)
        for found in re.findall(r"_\((\w+(?:, \w+)?)\)", body):
            yield found.replace(", ", "."), policy
    for found in re.findall(r'"(norm\.\w+)"', text):
        yield found, "result"


def casting(name: str, policy: str) -> Callable:
    """The kernel of an operation under autocast."""
    packet, _, overload = name.partition(".")
    operation = typed = getattr(getattr(torch.ops.aten, packet), overload or "default")
    names = [argument.name for argument in operation._schema.arguments]
    if packet == "norm":  # a result of another type has overloads of its own
        typed = torch.ops.aten.norm.ScalarOpt_dtype if overload == "Scalar" else torch.ops.aten.norm.ScalarOpt_dim_dtype
    aside = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def cast(value: Any, kind: torch.dtype) -> Any:
        if on_card(value) and value.is_floating_point() and value.dtype != torch.float64:
            return value.to(kind) if value.dtype != kind else value
        return type(value)(cast(v, kind) for v in value) if isinstance(value, (list, tuple)) else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        low, kind = torch.get_autocast_dtype("cuda"), None
        floats = [t for t in tensors_in(args, kwargs) if on_card(t) and t.is_floating_point()]
        if policy == "lower":
            kind = low
        elif policy == "float32":
            kind = torch.float32
        elif policy == "promote":
            kind = torch.float32 if any(t.dtype == torch.float32 for t in floats) else low
        elif floats and floats[0] is args[0]:
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
            args, kwargs["dtype"] = (), kwargs.get("dtype") or torch.float32
        with torch._C._ExcludeDispatchKeyGuard(aside), SUBCLASSES_ASIDE():
            if kind is not None:
                args, kwargs = cast(args, kind), {k: cast(v, kind) for k, v in kwargs.items()}
            return (typed if "dtype" in kwargs else operation)(*args, **kwargs)

    return kernel


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """CUDA's autocast rules for tensors of the card."""
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings(action="ignore"):  # that torch's own are overridden
            for name, policy in autocast_lists():
                known = torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCUDA")
                if known and "imname" not in name:
                    library.impl(name, casting(name, policy), "AutocastCUDA", allow_override=True)
        yield
    finally:
        library._destroy()


# What optimisers and the clipping of gradients ask.


def by_place_and_type(lists: list[list[Tensor | None]], with_indices: bool = False) -> dict[Any, Any]:
    """`torch._C._group_tensors_by_device_and_dtype`, which looks at the C++ device."""
    groups: dict[Any, Any] = {}
    for i, row in enumerate(zip(*[part or [None] * len(lists[0]) for part in lists], strict=True)):
        parts, indices = groups.setdefault((row[0].device, row[0].dtype), ([[] for _ in lists], []))
        for part, value, whole in zip(parts, row, lists, strict=True):
            if whole:
                part.append(value)
        indices.append(i)
    return groups


# Files, from which safetensors reads past Python straight to a card.


class SafeOpen:
    """`safetensors.safe_open`."""

    def __init__(self, path: Any, framework: str, device: Any = "cpu") -> None:
        self.device = device
        self.file = safetensors.safe_open(path, framework=framework, device="cpu" if is_cuda(device) else device)

    def __enter__(self) -> "SafeOpen":
        self.file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def get_tensor(self, name: str) -> Tensor:
        """A tensor, where it was asked for."""
        return self.file.get_tensor(name).to(self.device)


# Graphs and the rest of torch.cuda.


def not_recorded() -> RuntimeError:
    """What CUDA says when a recording would have to wait for the host."""
    return RuntimeError("CUDA error: operation not permitted when stream is capturing")


@dataclass
class Graph:
    """A CUDA graph: kernels and their memory."""

    recording: ClassVar["Graph | None"] = None
    kernels: list[tuple[Callable, Any, dict[str, Any], list[Tensor]]] = field(default_factory=list)

    def record(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Take a kernel in. Nothing that is there already changes; what is new holds no numbers yet."""
        if func._schema.name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"):
            raise not_recorded()
        if func._schema.is_mutable:
            self.kernels.append((func, args, kwargs, []))
            described = zip(args, func._schema.arguments, strict=False)
            written = [value for value, about in described if about.alias_info is not None]
            return (written[0] if len(written) == 1 else written) if func._schema.returns else None
        made = computed(func, args, kwargs)
        new = [] if func.is_view else tensors_in(made)
        self.kernels.append((func, args, kwargs, new))
        return made

    def made_by(self, func: Callable, args: Any, kwargs: dict[str, Any], made: Tensor) -> None:
        """Take in the making of a tensor."""
        self.kernels.append((func, args, kwargs, [made.inner if on_card(made) else made]))

    def replay(self) -> None:
        """Run the kernels again, on the same memory."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for func, args, kwargs, old in self.kernels:
                kernel = isinstance(func, torch._ops.OpOverload)
                made = computed(func, args, kwargs) if kernel else func(*args, **kwargs)
                for memory, value in zip(old, tensors_in(made), strict=False):
                    if memory.data_ptr() != value.data_ptr():
                        memory.copy_(value)


@contextmanager
def capture(graph: Graph, *args: Any, **kwargs: Any) -> Iterator[None]:
    """`torch.cuda.graph`."""
    Graph.recording = graph
    try:
        yield
    finally:
        Graph.recording = None


class Stream:
    """A stream on which everything is done at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = CUDA

    def nothing(self, *args: Any, **kwargs: Any) -> "Stream":
        return self

    wait_stream = wait_event = synchronize = record_event = record = wait = nothing
    query = lambda self: True  # noqa: E731


class Event(Stream):
    """A moment in a stream."""

    def elapsed_time(self, other: "Event") -> float:
        """Milliseconds between two events."""
        return 1.0


def torch_cuda(card: Card) -> dict[str, Any]:
    """What stands in `torch.cuda` while the card is there."""
    about = SimpleNamespace(**vars(card), multi_processor_count=40, warp_size=32)

    def giving(value: Any) -> Callable:  # one function a name: torch's compiler keeps a table of them
        return lambda *args, **kwargs: value

    answers = {
        "is_available": True,
        "_is_in_bad_fork": False,
        "device_count": 1,
        "current_device": 0,
        "is_initialized": True,
        "get_device_properties": about,
        "get_device_name": card.name,
        "get_device_capability": (card.major, card.minor),
        "mem_get_info": (card.total_memory - 10**9, card.total_memory),
        **dict.fromkeys(("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"), 0),
        **dict.fromkeys(("_lazy_init", "_lazy_call", "init", "synchronize", "empty_cache", "set_device"), None),
        **dict.fromkeys(("reset_peak_memory_stats", "manual_seed", "manual_seed_all", "seed", "seed_all"), None),
    }
    return {name: giving(value) for name, value in answers.items()} | {
        "is_bf16_supported": lambda including_emulation=True: including_emulation or card.major >= 8,
        "is_current_stream_capturing": lambda: Graph.recording is not None,
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": capture,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
    }


def torch_accelerator() -> dict[str, Any]:
    """What stands in `torch.accelerator`, which the loader of batches asks."""
    return {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "set_device_index": lambda device: None,
    }


@contextmanager
def pretend_card(card: Card = T4) -> Iterator[Card]:
    """Inside the block there is one card. Threads that are started in it see it too."""
    assert not seen(), "there is a card already"

    def with_card(function: Callable) -> Callable:
        def same(*args: Any, **kwargs: Any) -> Any:
            with nullcontext() if seen() else PretendCard():
                return function(*args, **kwargs)

        return same

    precision = torch.get_float32_matmul_precision()
    try:
        with (
            mock.patch.multiple(torch.cuda, **torch_cuda(card)),
            mock.patch.multiple(torch.accelerator, **torch_accelerator()),
            mock.patch.object(torch, "Generator", Generator),
            mock.patch("omni_lab.checkpoints.safe_open", SafeOpen),
            mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", by_place_and_type),
            mock.patch.object(threading.Thread, "run", with_card(threading.Thread.run)),
            # What is recomputed in a backward pass makes tensors on the card.
            mock.patch.object(torch.autograd, "_engine_run_backward", with_card(torch.autograd._engine_run_backward)),
            cuda_autocast(),
            PretendCard(),
        ):
            yield card
    finally:
        torch.set_float32_matmul_precision(precision)
