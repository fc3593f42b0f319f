"""Weights on disk: the reference's layout, in safetensors, sharded or not.

Reading is memory-mapped and puts each tensor straight where it belongs (device, type) in a module that was made without
storage, so that a checkpoint never stands in memory twice. Writing is atomic: a reader sees the old folder or the new.
Whatever is wrong with a folder comes out as a CheckpointError naming the culprit.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import CheckpointError, ConfigError
from .runtime import Hardware

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 << 30
SMALL, ALIGNMENT = 4 << 20, 64  # bytes
SHARD = re.compile(r"model((-[0-9a-f]{8})?-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")  # names that saving gives
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STAMP = "saved"  # names one call of save_weights, in the index and in each of its shards
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "spk_dict.pt"]  # of a hub repository: nothing else is fetched


def resolve(folder: str | Path) -> Path:
    """The folder itself, or that of a hub id ("Qwen/Qwen2.5-Omni-3B"), fetched if it is not at hand.

    Raises CheckpointError when there is neither, or no network to fetch it."""
    path = Path(folder)
    try:
        if path.is_dir() and str(folder).strip():
            return path
        what = "a file, not a folder" if path.exists() else "no such folder"
    except (OSError, ValueError):
        what = "not a usable path"
    if (
        what != "no such folder"
        or not HUB_ID.fullmatch(str(folder))
        or path.parent.is_dir()
        and str(path.parent) != "."
    ):
        raise CheckpointError(f"{str(folder)[:200]!r}: {what}, and no hub id of the form owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), allow_patterns=WANTED))
    except Exception as error:  # noqa: BLE001 - the hub client raises its own, requests', httpx's and OS errors
        kind = type(error).__name__
        raise CheckpointError(
            f"{folder}: no such folder, and the hub cannot be reached or has no such model ({kind}); "
            "without network, give a local folder"
        ) from None


def read_json(path: Path, missing: Any = None) -> Any:
    """The content of a JSON file; `missing` if it does not exist and `missing` is not None. Raises CheckpointError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({one_line(error)})") from None


def one_line(error: BaseException) -> str:
    """An exception's message in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def replacing(path: Path) -> Any:
    """Yield a temporary path in the same folder that becomes `path` when the block ends well, and vanishes when not.

    Raises CheckpointError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({one_line(error)})") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically. Raises CheckpointError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class EmptyOnMeta(TorchFunctionMode):
    """Inside this block layers get parameters without storage, while computed buffers (rotary tables) are real.

    torch.device("meta") would take the buffers too, which no checkpoint holds."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        if getattr(func, "__module__", None) == "torch.nn.init" and kwargs["tensor"].is_meta:
            return kwargs["tensor"]  # nothing to fill, and torch would load its compiler to find that out
        return func(*args, **kwargs)


def is_file(path: Path) -> bool:
    """Whether it is one; a name that the file system cannot even look for is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def weight_files(folder: Path) -> dict[str, Path]:
    """Each tensor's name and the file that the folder says it is in. Raises CheckpointError."""
    if is_file(folder / INDEX):
        index = read_json(folder / INDEX)
        table = index.get("weight_map") if isinstance(index, Mapping) else None
        if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table.values()):
            raise CheckpointError(f"{folder / INDEX}: no weight_map of tensor names to file names")
        for name in set(table.values()):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(f"{folder / INDEX}: {name!r} is not the name of a safetensors file beside it")
            if not is_file(folder / name):
                raise CheckpointError(f"{folder / name}: shard is missing")
        need_one_save(folder, index.get("metadata"), sorted(set(table.values())))
        return {tensor: folder / name for tensor, name in table.items()}
    if is_file(folder / WEIGHTS):
        return tensor_names(folder / WEIGHTS)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    pickles = [name for name in pickles if name != "spk_dict.pt"]
    if pickles:
        raise CheckpointError(f"{folder / pickles[0]}: a pickle can run code; convert it to {WEIGHTS} first")
    raise CheckpointError(f"{folder}: no weights ({WEIGHTS} or {INDEX})")


def need_one_save(folder: Path, told: Any, shards: list[str]) -> None:
    """Raise CheckpointError for a shard of another save than the index's. Others' checkpoints carry no stamp and pass.

    Shards of two trainings have the same names and shapes: nothing else would notice."""
    stamp = told.get(STAMP) if isinstance(told, Mapping) else None
    for name in shards if stamp is not None else ():
        with opened(folder / name) as file:
            found = (file.metadata() or {}).get(STAMP)
        if found != stamp:
            raise CheckpointError(f"{folder / name}: of another save ({found!r}) than {INDEX} ({stamp!r})")


def tensor_names(path: Path) -> dict[str, Path]:
    """The tensors of one safetensors file, each with that file. Raises CheckpointError."""
    if not is_file(path):
        raise CheckpointError(f"{path}: missing")
    with opened(path) as file:
        return dict.fromkeys(file.keys(), path)


@contextmanager
def opened(path: Path, device: str = "cpu") -> Any:
    """A safetensors file, memory-mapped. Raises CheckpointError when it is damaged, truncated or none."""
    try:
        file = safe_open(str(path), framework="pt", device=device)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if begins_as_pickle(path):
            raise CheckpointError(f"{path}: a pickle in disguise, expected safetensors") from None
        raise CheckpointError(f"{path}: damaged or no safetensors file ({one_line(error)})") from None
    with file as content:
        yield content


def begins_as_pickle(path: Path) -> bool:
    """Whether the first bytes are a pickle's or a zip's. In a good safetensors file the same two may be its length."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")
    return False


def float_type(given: torch.dtype | str | None) -> torch.dtype | None:
    """The type itself, or the one of that name; None stays None. Raises ConfigError for none that weights can have."""
    if given is None:
        return None
    found = TYPES.get(given) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise ConfigError(f"dtype {given!r}: expected one of {', '.join(TYPES)}, or a torch type of floats")
    return found


def compute_type(files: Mapping[str, Path], here: Hardware) -> torch.dtype | None:
    """The type for thinker and talker: None (as stored) for float32, what `here` computes in for 16 bits.

    On a CPU, which is slow in 16 bits, they are widened, unless the wide model would take over half of the memory.
    Raises CheckpointError for a file that lacks what the index places there."""
    name = next((name for name in files if name.startswith("thinker.")), None)
    if name is None:
        return None
    with opened(files[name]) as file:
        need_tensor(file.keys(), files[name], name)
        stored = file.get_slice(name).get_dtype()
    if stored not in ("F16", "BF16"):
        return None
    size = sum(path.stat().st_size for path in set(files.values()))
    return None if here.device.type == "cpu" and 2 * size > here.memory / 2 else here.dtype


def need_tensor(held: Collection[str], path: Path, name: str) -> None:
    """Raise CheckpointError unless the file at `path`, of these tensors, holds the one that the index places there."""
    if name not in held:
        raise CheckpointError(f"{path}: tensor {name!r} is missing, though {INDEX} places it here")


def load_weights(
    module: nn.Module,
    files: Mapping[str, Path],
    device: torch.device,
    dtype_of: Callable[[str, torch.dtype], torch.dtype],
    ignored: tuple[str, ...] = (),
    kept_as: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Give `module` the tensors of `files`, one at a time, straight to `device` in the type that `dtype_of` says.

    dtype_of: (name, stored type) -> type. Names that begin with one of `ignored` may be there without being wanted.
    kept_as: (name, tensor) -> what is kept of a tensor that has been read (quantise.py).
    On the CPU a large tensor that keeps its type stays memory-mapped: it costs memory only once it is touched.
    Raises CheckpointError for the first missing, extra, mis-shaped or unreadable tensor; `module` is then of no use."""
    wanted = {name: (module.get_submodule(name.rpartition(".")[0]), tensor) for name, tensor in persistent(module)}
    tied = tied_names(wanted)
    missing = [name for name in wanted if name not in files and not any(twin in files for twin in tied[name])]
    extra = [name for name in files if name not in wanted and not name.startswith(ignored)]
    source = next(iter(files.values()), Path("(no file)")).parent
    if missing:
        raise CheckpointError(f"{source}: {len(missing)} tensors are missing, first {sorted(missing)[0]!r}")
    if extra:
        raise CheckpointError(
            f"{source}: {len(extra)} tensors that the model has no place for, first {sorted(extra)[0]!r}"
        )
    by_file: dict[Path, list[str]] = {}
    for name in wanted:
        if name in files:
            by_file.setdefault(files[name], []).append(name)
    done: dict[int, Tensor] = {}  # one new tensor for each old one, so that tied weights stay tied
    for path, names in by_file.items():
        with opened(path, str(device)) as file:
            held = set(file.keys())
            for name in names:
                owner, old = wanted[name]
                need_tensor(held, path, name)
                if id(old) not in done:
                    read = read_tensor(file, path, name, old, device, dtype_of)
                    done[id(old)] = read if kept_as is None else kept_as(name, read)
                place(owner, name.rpartition(".")[2], done[id(old)])
    for name, (owner, old) in wanted.items():
        if name not in files:
            place(owner, name.rpartition(".")[2], done[id(old)])


def persistent(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Names and tensors that a checkpoint of `module` holds, tied ones under each of their names."""
    state = module.state_dict(keep_vars=True)
    return state.items()


def tied_names(wanted: Mapping[str, tuple[nn.Module, Tensor]]) -> dict[str, list[str]]:
    """For each name, all names of the same tensor."""
    groups: dict[int, list[str]] = {}
    for name, (_, tensor) in wanted.items():
        groups.setdefault(id(tensor), []).append(name)
    return {name: groups[id(tensor)] for name, (_, tensor) in wanted.items()}


def read_tensor(file: Any, path: Path, name: str, old: Tensor, device: torch.device, dtype_of: Callable) -> Tensor:
    """Read one tensor and check its shape. Raises CheckpointError."""
    try:
        shape = tuple(file.get_slice(name).get_shape())
        if shape != tuple(old.shape):
            raise CheckpointError(f"{path}: {name!r} has shape {shape}, the model expects {tuple(old.shape)}")
        tensor = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: {name!r} cannot be read ({one_line(error)})") from None
    if tensor.is_floating_point() != old.is_floating_point():
        raise CheckpointError(f"{path}: {name!r} is of type {tensor.dtype}, the model expects {old.dtype}")
    tensor = tensor.to(device, dtype_of(name, tensor.dtype) if tensor.is_floating_point() else old.dtype)
    if tensor.device.type == "cpu" and tensor.nbytes < SMALL and tensor.data_ptr() % ALIGNMENT:
        tensor = tensor.clone()  # in a file nothing is aligned, and a CPU's sums depend on that in their last bit
    return nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor


def place(owner: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a loaded tensor where a parameter or buffer was."""
    if isinstance(tensor, nn.Parameter):
        owner._parameters[name] = tensor
    else:
        owner._buffers[name] = tensor


def save_weights(
    module: nn.Module,
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
    prefixes: tuple[str, ...] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Write the tensors of `module` whose names begin with one of `prefixes` (none: all) in the reference's layout.

    dtype: the type in which floats are stored (default: their own).

    One file, or shards of at most `shard_bytes` with an index. Tied tensors are written once, as the reference does.
    New shards get names of their own and the index is replaced last, so that a reader never mixes old and new."""
    shards: list[dict[str, Tensor]] = [{}]
    size, seen = 0, set()
    for name, tensor in persistent(module):
        if id(tensor) in seen or not name.startswith(prefixes or ""):
            continue
        seen.add(id(tensor))
        tensor = stored(tensor, dtype)
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    old = {path.name for path in folder.iterdir() if SHARD.fullmatch(path.name)} if folder.is_dir() else set()
    if len(shards) == 1:
        write_tensors(folder / WEIGHTS, shards[0])
        kept = {WEIGHTS}
        (folder / INDEX).unlink(missing_ok=True)
    else:
        tag = uuid.uuid4().hex[:8] if old else ""
        names = [
            f"model{tag and '-' + tag}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
        ]
        stamp = {STAMP: uuid.uuid4().hex[:12]}
        for name, tensors in zip(names, shards, strict=True):
            write_tensors(folder / name, tensors, stamp)
        total = sum(tensor.nbytes for tensors in shards for tensor in tensors.values())
        table = {tensor: name for name, tensors in zip(names, shards, strict=True) for tensor in tensors}
        write_json(folder / INDEX, {"metadata": {"total_size": total} | stamp, "weight_map": table})
        kept = {*names, INDEX}
    for name in old - kept:
        (folder / name).unlink(missing_ok=True)


def stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`tensor` as it goes to disk: floats in `dtype`, if one is given."""
    return tensor.detach().to(dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], stamp: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file atomically, `stamp` in its header. Raises CheckpointError when the disk refuses."""
    about = {"format": "pt", **(stamp or {})}
    with replacing(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, about)
