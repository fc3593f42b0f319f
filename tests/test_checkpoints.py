"""Weights on disk: what is written is read, what is wrong with a folder is named, nothing stands in memory twice."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from omni_lab import checkpoints
from omni_lab.errors import CheckpointError, ConfigError
from omni_lab.runtime import Hardware

CPU = torch.device("cpu")


class Toy(nn.Module):
    """Two layers, a tied head, a buffer that is kept and one that is computed."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.up = nn.Linear(4, 6)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("count", torch.arange(3))
        self.register_buffer("table", torch.arange(4.0).cos(), persistent=False)


def kept(name, stored):
    return stored


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    checkpoints.save_weights(Toy(), tmp_path)
    return tmp_path


def load(folder, dtype_of=kept, ignored=()):
    with checkpoints.EmptyOnMeta():
        toy = Toy()
    checkpoints.load_weights(toy, checkpoints.weight_files(folder), CPU, dtype_of, ignored)
    return toy


def expected():
    torch.manual_seed(0)
    return Toy()


@pytest.mark.parametrize("shard_bytes", [1 << 30, 120, 1])
def test_what_is_written_is_read(tmp_path, shard_bytes):
    toy = expected()
    for _ in range(2):  # over an older checkpoint too
        checkpoints.save_weights(toy, tmp_path, shard_bytes)
        loaded = load(tmp_path)
        for name, tensor in toy.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.table, toy.table)  # computed, not stored, and yet there
    assert loaded.head.weight is loaded.embed.weight  # still tied
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) == {1 << 30: 1, 120: 3, 1: 4}[shard_bytes] and not list(tmp_path.glob("*.tmp"))


def test_sharded_and_whole_replace_each_other(tmp_path):
    toy = expected()
    for shard_bytes in (1, 1 << 30, 120, 1):
        checkpoints.save_weights(toy, tmp_path, shard_bytes)
        assert torch.equal(load(tmp_path).up.weight, toy.up.weight)


def test_saving_takes_away_its_own_old_shards_and_nothing_else(tmp_path):
    toy, strangers = expected(), ("model_ema.safetensors", "model-best.safetensors", "model.safetensors.bak")
    for name in strangers:
        (tmp_path / name).write_bytes(b"mine")
    for shard_bytes in (1, 120, 1 << 30, 1, 1 << 30):
        checkpoints.save_weights(toy, tmp_path, shard_bytes)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", *strangers}
    assert all((tmp_path / name).read_bytes() == b"mine" for name in strangers)


def test_tensors_go_straight_to_the_type_asked_for(folder):
    loaded = load(folder, lambda name, stored: torch.bfloat16 if name.startswith("up") else stored)
    assert loaded.up.weight.dtype == torch.bfloat16 and loaded.embed.weight.dtype == torch.float32
    assert loaded.count.dtype == torch.int64


def test_loaded_weights_train_without_touching_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    loaded = load(folder)
    loaded.up(torch.ones(4)).sum().backward()
    with torch.no_grad():
        loaded.up.weight.add_(1.0)
    assert loaded.up.weight.grad is not None and (folder / "model.safetensors").read_bytes() == before


def test_parts_that_are_not_wanted_may_be_there(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"talker.extra": torch.zeros(2)}, folder / "model.safetensors")
    load(folder, ignored=("talker.",))
    with pytest.raises(CheckpointError, match="no place for, first 'talker.extra'"):
        load(folder)


def damage(folder, kind):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if kind == "missing":
        del tensors["up.bias"]
    elif kind == "extra":
        tensors["down.bias"] = torch.zeros(3)
    elif kind == "mis-shaped":
        tensors["up.bias"] = torch.zeros(5)
    elif kind == "of another kind":
        tensors["up.bias"] = torch.zeros(6, dtype=torch.int32)
    save_file(tensors, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    elif kind == "cut in the head":
        path.write_bytes(path.read_bytes()[:40])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a pickle":
        torch.save(tensors, path)
    elif kind == "only a pickle":
        path.unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    elif kind == "absent":
        path.unlink()


@pytest.mark.parametrize(
    "kind,message",
    [
        ("missing", "1 tensors are missing, first 'up.bias'"),
        ("extra", "first 'down.bias'"),
        ("mis-shaped", r"'up.bias' has shape \(5,\), the model expects \(6,\)"),
        ("of another kind", "'up.bias' is of type torch.int32"),
        ("truncated", "model.safetensors: damaged"),
        ("cut in the head", "model.safetensors: damaged"),
        ("empty", "model.safetensors: damaged"),
        ("a pickle", "pickle in disguise"),
        ("only a pickle", "pytorch_model.bin: a pickle can run code"),
        ("absent", "no weights"),
    ],
)
def test_damage_is_named_in_one_line(folder, kind, message):
    damage(folder, kind)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_damaged_indexes_are_named(tmp_path):
    checkpoints.save_weights(expected(), tmp_path, 120)
    index = tmp_path / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    shard = good["weight_map"]["up.weight"]
    cases = [
        ("{", "not JSON"),
        ("[]", "no weight_map"),
        (json.dumps({"weight_map": {"up.weight": 3}}), "no weight_map"),
        (json.dumps({"weight_map": good["weight_map"] | {"up.weight": "../secret.safetensors"}}), "beside it"),
        (json.dumps({"weight_map": good["weight_map"] | {"up.weight": "absent.safetensors"}}), "shard is missing"),
        (json.dumps({"weight_map": good["weight_map"] | {"up.bias": good["weight_map"]["count"]}}), "places it here"),
    ]
    for text, message in cases:
        index.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path)
    index.write_text(json.dumps(good))
    (tmp_path / shard).unlink()
    with pytest.raises(CheckpointError, match=f"{shard}: shard is missing"):
        load(tmp_path)


@pytest.mark.parametrize("length", [640, int.from_bytes(b"PK", "little")])
def test_a_good_file_is_read_whatever_the_length_of_its_head(folder, length):
    """The first two bytes of a head of 640 bytes are those of a pickle, of 19,280 those of a zip."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for size in range(length - 600, length):
        save_file(tensors, path, {"note": "x" * max(0, size)})
        if int.from_bytes(path.read_bytes()[:8], "little") == length:
            break
    assert path.read_bytes()[:2] in (b"\x80\x02", b"PK")
    assert torch.equal(load(folder).up.weight, tensors["up.weight"])


def test_a_shard_with_a_name_that_no_disk_takes_is_missing(tmp_path):
    name = "x" * 5000 + ".safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"up.weight": name}}))
    with pytest.raises(CheckpointError, match="shard is missing"):
        checkpoints.weight_files(tmp_path)


def test_the_type_to_compute_in_is_asked_of_a_file_that_holds_the_tensor(tmp_path):
    here = Hardware(CPU, torch.float32, "a test", 1 << 40)
    path = tmp_path / "model.safetensors"
    save_file({"thinker.a": torch.zeros(2, dtype=torch.bfloat16)}, path)
    assert checkpoints.compute_type({"thinker.a": path}, here) == torch.float32
    with pytest.raises(CheckpointError, match="'thinker.b' is missing, though .* places it here"):
        checkpoints.compute_type({"thinker.b": path}, here)


def test_types_have_names():
    for name in ("float32", "bfloat16", "float16"):
        assert checkpoints.float_type(name) == checkpoints.float_type(getattr(torch, name)) == getattr(torch, name)
    assert checkpoints.float_type(None) is None and checkpoints.float_type(torch.float64) == torch.float64
    for wrong in ("half", "", torch.int8, torch.float8_e4m3fn, 16, [torch.float32]):
        with pytest.raises(ConfigError, match="expected one of float32, bfloat16, float16"):
            checkpoints.float_type(wrong)


def test_shards_of_two_saves_do_not_mix(tmp_path):
    for name in ("one", "other"):
        checkpoints.save_weights(expected(), tmp_path / name, 120)
    shard = sorted(path.name for path in (tmp_path / "one").glob("*.safetensors"))[1]
    other = (tmp_path / "other" / shard).read_bytes()
    (tmp_path / "one" / shard).write_bytes(other)
    with pytest.raises(CheckpointError, match=f"{shard}: of another save .* than model.safetensors.index.json"):
        load(tmp_path / "one")
    index = tmp_path / "one" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    load(tmp_path / "one")  # as the hub's, which have no such stamp


def test_a_folder_or_hub_id_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (tmp_path / "absent", "a/b/c", "", "\0", "x" * 5000, __file__):
        with pytest.raises(CheckpointError) as caught:
            checkpoints.resolve(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="without network, give a local folder"):
        checkpoints.resolve("nobody-at-all/no-such-model")


def test_a_write_that_fails_leaves_the_old_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(RuntimeError), checkpoints.replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (folder / "model.safetensors").read_bytes() == before and len(list(folder.iterdir())) == 1


def test_a_disk_that_refuses_is_named_in_one_line(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config.json: cannot be written \(.*directory"):
        checkpoints.write_json(tmp_path / "config.json", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoints.write_json(tmp_path / "file" / "config.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "file"]


MEMORY = """
import re, sys, torch
from torch import nn
from omni_lab import checkpoints
with checkpoints.EmptyOnMeta():
    model = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(24)])
files = checkpoints.weight_files(__import__("pathlib").Path(sys.argv[1]))
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
checkpoints.load_weights(model, files, torch.device("cpu"), lambda name, stored: getattr(torch, sys.argv[2]))
total = sum(p.double().sum() for layer in model for p in [layer.weight[:, ::64]])  # touches every page of it
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's peak from /proc")
@pytest.mark.parametrize("dtype,allowed", [("float32", 1.25)])
def test_nothing_stands_in_memory_twice(tmp_path, dtype, allowed):
    torch.manual_seed(0)
    layers = {f"{i}.weight": torch.rand(2048, 2048) for i in range(24)} | {
        f"{i}.bias": torch.rand(2048) for i in range(24)
    }
    save_file(layers, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    del layers
    run = [sys.executable, "-c", MEMORY, str(tmp_path), dtype]
    grown = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert 0.9 * size < grown < allowed * size, grown / size
