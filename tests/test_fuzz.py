"""Whatever comes in, only our own errors come out, one line each: thousands of broken inputs, files and checkpoints."""

import base64
import io
import json
from pathlib import Path

import av
import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image
from safetensors.torch import save, save_file
from transformers import WhisperConfig, WhisperModel

from omni_lab import OmniModel, OmniProcessor, checkpoints, clip, llava
from omni_lab.bpe import read_tokenizer
from omni_lab.clip_config import CLIPConfig, ImageTowerConfig, TextTowerConfig
from omni_lab.config import OmniConfig, TextConfig, preset
from omni_lab.encoders import whisper
from omni_lab.errors import OmniLabError
from omni_lab.processing.audio import load_audio
from omni_lab.processing.image import PixelConfig, load_image
from omni_lab.processing.video import load_video

from .encoders.test_whisper import ctranslate2_bytes
from .test_omni import CONFIGS

NANO = Path(__file__).parents[1] / "data_samples" / "checkpoints" / "nano"
PROCESSOR = OmniProcessor.from_pretrained(NANO)
CASES = {"tensors": 300, "media": 600, "messages": 500, "files": 650, "configurations": 250, "weights": 250}
CASES |= {"recognisers": 150, "towers": 150}


def cases(kind):
    """Always the same cases, so that a failure can be found again; not stored, not timed."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=CASES[kind], derandomize=True, database=None, deadline=None, suppress_health_check=quiet
    )


def only_ours(action, *arguments, **named):
    """Run it: it works, or it fails with one readable line of our own."""
    try:
        action(*arguments, **named)
    except OmniLabError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 1000, text


def test_there_are_two_thousand_cases():
    assert sum(CASES.values()) >= 2000


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = OmniModel(CONFIGS["3 heads to 1"]).eval()
    model.processor = PROCESSOR
    return model


# Arrays that pretend to be media: any shape of up to four small sides, any number type, some poisoned.
SIDES = st.sampled_from([0, 1, 2, 3, 4, 5, 14, 28, 57, 401])
TYPES = st.sampled_from(
    ["uint8", "int16", "int32", "int64", "float16", "float32", "float64", "bool", "complex64", "U3", "O"]
)


@st.composite
def arrays(draw):
    shape = draw(st.lists(SIDES, min_size=0, max_size=4))
    if np.prod(shape, dtype=float) > 200_000:
        shape = shape[:2]
    kind, seed = draw(TYPES), draw(st.integers(0, 99))
    values = np.random.default_rng(seed).uniform(-1, 300, shape)
    if draw(st.booleans()):
        values = np.abs(values) / 301
    array = np.asarray(values).astype(kind)
    if array.dtype.kind == "f" and array.size and draw(st.integers(0, 3)) == 0:
        array.reshape(-1)[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    if array.dtype.kind in "uifb" and draw(st.booleans()):
        return torch.from_numpy(array)
    return array


WIDE = st.sampled_from([(1, 1), (1, 200), (1, 201), (20000, 1), (20000, 100), (100, 20000), (1, 20000), (3, 3)])
PICTURES = st.builds(lambda size: Image.new("RGB", size, (9, 90, 200)), WIDE)
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**6), st.floats(), st.text(max_size=8), st.binary(max_size=40),
    st.just("data:image/png;base64,AAAA"), st.just("http://localhost/x.png"), st.just("\0"), st.just("x" * 5000),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
RATES = st.one_of(st.sampled_from([0, -1, 1, 999, 8000, 16000, 44101, 10**9, 16000.5, float("nan")]), ODD)
MEDIA = st.one_of(
    arrays(), PICTURES, ODD, st.tuples(arrays(), RATES), st.lists(arrays(), max_size=3),
    st.fixed_dictionaries({}, optional={"frames": st.one_of(arrays(), ODD), "fps": RATES,
                                        "audio": st.one_of(arrays(), ODD),
                                        "sample_rate": RATES}),
)  # fmt: skip


@cases("media")
@given(MEDIA, st.sampled_from(["image", "audio", "video"]), st.one_of(st.none(), RATES))
def test_arrays_that_pretend_to_be_media(source, kind, fps):
    if kind == "image":
        only_ours(PROCESSOR, text="<|IMAGE|>", images=[source])
    elif kind == "audio":
        only_ours(PROCESSOR, text="<|AUDIO|>", audio=[source], longest_audio=True)
    else:
        how = dict(use_audio_in_video=True, longest_audio=True, fps=fps)
        only_ours(PROCESSOR, text="<|VIDEO|>", videos=[source], **how)


PARTS = st.one_of(
    ODD,
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(st.sampled_from(["text", "image", "audio", "video", "smell"]), ODD),
            "text": st.one_of(st.text(max_size=20), st.just("<|IMAGE|><|im_end|><|AUDIO|>"), ODD),
            "image": MEDIA, "audio": MEDIA, "video": MEDIA,
        },
    ),
)  # fmt: skip
MESSAGES = st.one_of(
    ODD,
    st.lists(
        st.one_of(
            ODD,
            st.fixed_dictionaries(
                {"role": st.one_of(st.sampled_from(["user", "assistant", "system"]), ODD)},
                optional={"content": st.one_of(ODD, st.text(max_size=20), st.lists(PARTS, max_size=3))},
            ),
        ),
        max_size=3,
    ),
)


@cases("messages")
@given(MESSAGES, st.booleans(), st.booleans())
def test_messages_of_any_form(messages, labels, heard):
    only_ours(PROCESSOR, messages=messages, labels=labels, use_audio_in_video=heard, longest_audio=True)


def written_media():
    """One small real file of each kind: its bytes."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    made = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        made[kind] = buffer.getvalue()
    sound = np.sin(np.arange(4000) / 9).astype(np.float32)
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, 16000, format=kind)
        made[kind] = buffer.getvalue()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(8):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), i * 9, np.uint8), format="rgb24"))
            )
        container.mux(stream.encode())
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    made["MP4"] = buffer.getvalue()
    return made


FILES = written_media()


@st.composite
def damaged(draw, contents):
    """One of `contents`, cut, with bytes overwritten, doubled, or with its bytes swapped for another's."""
    name = draw(st.sampled_from(sorted(contents)))
    content = bytearray(contents[name])
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        action = draw(st.sampled_from(["cut", "write", "drop", "repeat", "head"]))
        if action == "cut":
            del content[place:]
        elif action == "write":
            content[place : place + 4] = draw(st.binary(min_size=4, max_size=4))
        elif action == "drop":
            del content[place : place + draw(st.integers(1, 50))]
        elif action == "repeat":
            content[place:place] = content[place : place + 100]
        else:  # the first bytes hold most sizes and kinds
            content[place % 64 : place % 64 + 1] = draw(st.binary(min_size=1, max_size=1))
    return name, bytes(content)


@cases("files")
@given(damaged(FILES), st.sampled_from([load_image, "audio", "video"]), st.booleans())
def test_damaged_files(tmp_path, file, loader, inline):
    _, content = file
    source = tmp_path / "file"
    source.write_bytes(content)
    if inline:
        source = "data:;base64," + base64.b64encode(content).decode()
    if loader == "audio":
        only_ours(load_audio, source, 16000)
    elif loader == "video":
        only_ours(load_video, source, PixelConfig(), 16000)
    else:
        only_ours(load_image, source)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.sampled_from([10**6, 10**12]), st.floats(), st.text(max_size=5),
    st.lists(st.integers(-2, 40), max_size=6), st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip


def leaves(table, path=()):
    for name, value in table.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))


CONFIG = CONFIGS["tied, small windows"].to_dict()
CONFIG["token2wav_config"]["bigvgan_config"] |= {  # few layers, so that many can be tried
    "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]], "upsample_rates": [2],
    "upsample_kernel_sizes": [4],
}  # fmt: skip


@cases("configurations")
@given(st.lists(st.tuples(st.sampled_from(sorted(leaves(CONFIG))), VALUES), min_size=1, max_size=2))
def test_configurations_of_any_content(tmp_path, changes):
    raw = json.loads(json.dumps(CONFIG))
    for path, value in changes:
        table = raw
        for name in path[:-1]:
            table = table.get(name) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file({"thinker.lm_head.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    only_ours(OmniModel.from_pretrained, tmp_path, device="cpu")


def weights():
    """A small checkpoint's files: name -> bytes."""
    torch.manual_seed(0)
    toy = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    whole = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (2, 4), "1.bias": (2,)}
    tensors = {name: torch.rand(shape) for name, shape in whole.items()}
    index = {"metadata": {}, "weight_map": {"0.weight": "a.safetensors", "0.bias": "a.safetensors",
                                            "1.weight": "b.safetensors", "1.bias": "b.safetensors"}}  # fmt: skip
    return toy, {
        "a.safetensors": save({name: tensors[name] for name in ("0.weight", "0.bias")}),
        "b.safetensors": save({name: tensors[name] for name in ("1.weight", "1.bias")}),
        "model.safetensors": save(tensors),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


TOY, WEIGHTS = weights()


@cases("weights")
@given(damaged(WEIGHTS), st.sets(st.sampled_from(sorted(WEIGHTS)), max_size=2))
def test_damaged_weights(tmp_path, file, absent):
    for path in tmp_path.iterdir():
        path.unlink()
    for name, content in (WEIGHTS | dict([file])).items():
        if name not in absent:
            (tmp_path / name).write_bytes(content)

    def load():
        files = checkpoints.weight_files(tmp_path)
        checkpoints.load_weights(TOY, files, torch.device("cpu"), lambda name, stored: stored)

    only_ours(load)


def recogniser():
    """A small Whisper encoder as CTranslate2 writes it."""
    sizes = {"d_model": 64, "encoder_attention_heads": 1, "decoder_attention_heads": 1, "num_mel_bins": 8}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = WhisperConfig(vocab_size=9, max_source_positions=50, **sizes, **layers, **ids)
    return ctranslate2_bytes(WhisperModel(config))


@cases("recognisers")
@given(damaged({"model.bin": recogniser()}))
def test_damaged_recognisers(tmp_path, file):
    (tmp_path / "model.bin").write_bytes(file[1])
    only_ours(whisper.encoder_from_whisper, tmp_path, output_dim=8)


def two_towers():
    """A small CLIP, and the LLaVA that looks through it."""
    torch.manual_seed(0)
    towers = clip.CLIP(CLIPConfig(8, ImageTowerConfig(16, 8, (1,), 4), TextTowerConfig(40, 8, 16, 2, 1))).eval()
    text = TextConfig(2048, 16, 8, 1, 2, 1, mrope_section=(4,))
    return towers, llava.LLaVA(llava.LlavaConfig(text, 16), read_tokenizer(NANO / "tokenizer.json"), towers.visual)


TOWERS, SEER = two_towers()


@cases("towers")
@given(st.booleans(), st.data())
def test_towers_of_any_shape(tmp_path, seer, data):
    model = SEER if seer else TOWERS
    model.save(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    path = data.draw(st.sampled_from(sorted(leaves(raw))))
    table = raw
    for name in path[:-1]:
        table = table[name]
    table[path[-1]] = data.draw(VALUES)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    only_ours(*((llava.LLaVA.load, tmp_path, TOWERS.visual) if seer else (clip.CLIP.load, tmp_path)))


IDS = st.lists(st.integers(2010, 2045), min_size=0, max_size=12)
GRIDS = st.one_of(st.none(), st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), max_size=2), ODD)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 128, 1176]), max_size=3).filter(lambda s: np.prod(s) < 1e5)


@cases("tensors")
@given(IDS, SHAPES, GRIDS, SHAPES, st.booleans(), st.sampled_from([0.0, float("nan"), float("inf")]))
def test_tensors_that_do_not_fit(model, ids, patches, grid, mel, video, poison):
    inputs = {"input_ids": torch.tensor([ids], dtype=torch.long)}
    if patches:
        suffix, kind = ("_videos", "video") if video else ("", "image")
        inputs[f"pixel_values{suffix}"] = torch.full(patches, 0.1) + poison
        if isinstance(grid, list) and all(isinstance(row, list) for row in grid):
            inputs[f"{kind}_grid_thw"] = torch.tensor(grid, dtype=torch.long).reshape(-1, 3)
    if mel:
        inputs["input_features"] = torch.full(mel, 0.1) + poison
        inputs["feature_attention_mask"] = torch.ones(mel[0], mel[-1], dtype=torch.long)
    only_ours(model.respond, inputs, speak=False, max_new_tokens=1)


def test_presets_survive_their_own_spelling():
    for name in ("nano", "small", "qwen2_5_omni_3b", "qwen2_5_omni_7b"):
        assert OmniConfig.from_dict(json.loads(json.dumps(preset(name).to_dict()))) == preset(name)
