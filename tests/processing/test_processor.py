"""The processor against the reference's own, tensor for tensor, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from omni_lab.errors import CheckpointError, InputError
from omni_lab.processing import OmniProcessor, chat, interleave

from .conftest import NANO

FRAME = {"shortest_edge": 56 * 56, "longest_edge": 224 * 224}  # the reference takes video sizes from the call only


def same(ours, theirs):
    """Every tensor of the reference is there, of its type and shape, and equal (log-mel to the last bit or two)."""
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype and ours[name].shape == expected.shape, name
        if name == "input_features":
            assert (ours[name] - expected).abs().max() < 1e-6
        else:
            assert torch.equal(ours[name], expected), name


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_pictures_from_files(processor, reference, files):
    names = ("picture.png", "picture.jpg", "picture.webp", "alpha.png", "palette.png", "grey.png")
    text = "".join("<|vision_bos|><|IMAGE|><|vision_eos|>" for _ in names) + "what?"
    pictures = [Image.open(files[name]) for name in names]
    same(processor(text=text, images=[files[name] for name in names]),
         reference(text=text, images=pictures, return_tensors="pt"))  # fmt: skip


@pytest.mark.parametrize("height,width", [(1, 1), (28, 28), (56, 300), (113, 113), (700, 500), (20, 3000)])
def test_pictures_of_every_size(processor, reference, height, width):
    pixels = Image.fromarray(noise(height, width, 3))
    text = "<|IMAGE|>"
    same(processor(text=text, images=[pixels]), reference(text=text, images=[pixels], return_tensors="pt"))


def test_a_batch_of_everything(processor, reference):
    texts = [
        "a<|vision_bos|><|IMAGE|><|vision_eos|>b<|audio_bos|><|AUDIO|><|audio_eos|>",
        "<|IMAGE|> and <|AUDIO|><|AUDIO|> and <|VIDEO|>or<|VIDEO|>",
    ]
    images = [noise(112, 112, 3), noise(80, 231, 3)]
    audio = [
        np.random.default_rng(i).normal(size=n).astype(np.float32) * 0.1 for i, n in enumerate((321, 16000, 40127))
    ]
    videos = [noise(6, 112, 112, 3), noise(5, 80, 120, 3)]
    theirs = reference(
        text=texts, images=images, audio=audio, videos=videos, return_tensors="pt", padding=True,
        videos_kwargs={"size": FRAME},
    )  # fmt: skip
    ours = processor(text=texts, images=images, audio=audio, videos=videos)
    same(ours, theirs)
    assert set(ours) == set(theirs)


@pytest.mark.parametrize(
    "frames,seconds,fps", [(14, 3.0, 2.0), (8, 9.7, 2.0), (30, 4.1, 4.0), (3, 0.5, 1.0), (2, 6.0, 0.1)]
)
def test_sound_in_video_interleaves_as_the_reference_s(processor, reference, frames, seconds, fps):
    sound = (np.random.default_rng(0).normal(size=int(16000 * seconds)) * 0.1).astype(np.float32)
    other = sound[:5000]
    text = "<|vision_bos|><|VIDEO|><|vision_eos|> and <|audio_bos|><|AUDIO|><|audio_eos|>"
    pixels = noise(frames, 56, 112, 3)
    theirs = reference(
        text=text, audio=[sound, other], videos=[pixels], return_tensors="pt", load_audio_from_video=True,
        audio_from_video_indices=[0, None], videos_kwargs={"size": FRAME, "fps": fps},
    )  # fmt: skip
    film = {"frames": pixels, "fps": fps, "audio": sound, "sample_rate": 16000}
    processor_frames = processor.video_config
    assert processor_frames.min_frames <= 4
    ours = processor(text=text, audio=[other], videos=[film], use_audio_in_video=True, fps=fps)
    if frames % 2 == 0 and ours["video_grid_thw"][0, 0] == frames // 2:
        ours.pop("use_audio_in_video")
        same(ours, theirs)
    assert theirs["input_ids"].shape[0] == ours["input_ids"].shape[0]


def test_chunks_are_the_reference_s(reference):
    rng = np.random.default_rng(0)
    for _ in range(500):
        positions = np.sort(rng.integers(0, 400, rng.integers(1, 60))) * rng.choice([1.0, 0.5, 7.3])
        positions[0] = 0
        chunk = int(rng.integers(1, 80))
        spans = reference.get_chunked_index(positions, chunk)
        assert interleave.chunk_sizes(positions, chunk) == [end - start for start, end in spans]


def test_the_chat_template_writes_what_the_released_one_writes(processor, reference):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [
            {"type": "image", "image": noise(56, 56, 3)}, {"type": "audio", "audio": np.zeros(4000)},
            {"type": "video", "video": noise(4, 56, 56, 3)}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A dog."},
    ]  # fmt: skip
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_bos|><|IMAGE|><|vision_eos|><|audio_bos|>"
        "<|AUDIO|><|audio_eos|><|vision_bos|><|VIDEO|><|vision_eos|>What?<|im_end|>\n<|im_start|>assistant\nA dog."
        "<|im_end|>\n"
    )
    plain = chat.read_messages(messages).messages
    assert processor.prompt(plain, open_turn=False) == expected
    assert reference.apply_chat_template(plain, tokenize=False) == expected
    assert processor.prompt(plain[1:2]).startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_")
    assert processor.prompt(plain).endswith("<|im_end|>\n<|im_start|>assistant\n")
    batch = processor(messages=messages)
    assert batch["input_features"].shape[0] == batch["video_grid_thw"].shape[0] == len(batch["image_grid_thw"]) == 1


def test_labels_are_the_assistant_s_words_alone(processor):
    first = [{"role": "user", "content": "assistant, who is the user?"}, {"role": "assistant", "content": "You are."},
             {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No more."}]  # fmt: skip
    second = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you and to all."}]
    batch = processor(messages=[first, second], labels=True)
    labels = batch["labels"]
    spoken = [processor.tokenizer.decode(row[row != chat.IGNORED]) for row in labels]
    assert spoken == ["You are.<|im_end|>No more.<|im_end|>", "Hello to you and to all.<|im_end|>"]
    kept = labels != chat.IGNORED
    assert torch.equal(labels[kept], batch["input_ids"][kept])
    assert (batch["attention_mask"][kept] == 1).all()


def test_special_tokens_stand_at_the_ids_of_the_configuration(processor):
    from omni_lab.config import NANO_FIRST_SPECIAL, NANO_SPECIAL_TOKENS, preset

    config, tokenizer = preset("nano"), processor.tokenizer
    assert (
        len(tokenizer) == NANO_FIRST_SPECIAL + len(NANO_SPECIAL_TOKENS) <= config.thinker_config.text_config.vocab_size
    )
    for i, token in enumerate(NANO_SPECIAL_TOKENS):
        assert tokenizer.encode(token) == [NANO_FIRST_SPECIAL + i]
    assert tokenizer.encode("<|im_start|>user\n")[1] == config.thinker_config.user_token_id
    assert processor.decode(tokenizer.encode("the user and its users<|im_end|>")) == "the user and its users"
    for text in ("naïve 你好 🐶 Übung\t\n  x", "ends in space ", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_longest_audio_pads_to_the_longest_clip_only(processor):
    clips = [np.random.default_rng(0).normal(size=n).astype(np.float32) for n in (16000, 8100)]
    whole = processor(text="<|AUDIO|><|AUDIO|>", audio=clips)
    short = processor(text="<|AUDIO|><|AUDIO|>", audio=clips, longest_audio=True)
    assert whole["input_features"].shape == (2, 128, 30000) and short["input_features"].shape == (2, 128, 100)
    assert torch.equal(whole["input_features"][..., :100], short["input_features"])
    assert short["feature_attention_mask"].sum(dim=1).tolist() == [100, 51]


def test_what_does_not_pair_up_is_refused(processor):
    picture, sound = noise(56, 56, 3), np.zeros(4000, np.float32)
    cases = [
        (dict(text="no place", images=[picture]), "0 <|IMAGE|> for 1"),
        (dict(text="<|AUDIO|><|AUDIO|>", audio=[sound]), "2 <|AUDIO|> for 1"),
        (dict(), "nothing to process"),
        (dict(text=""), "empty"),
        (dict(text=[]), "empty"),
        (dict(text=3), "text must be"),
        (dict(text=[3]), "text must be"),
        (dict(text="<|IMAGE|>", images=picture), "must be a list"),
        (dict(text="<|AUDIO|>", audio=[sound[:320]]), "too short"),
        (dict(text="<|AUDIO|>", audio=[np.zeros(16000 * 301, np.float32)]), "longer than the 300 s"),
        (dict(text="<|IMAGE|>", images=[noise(2, 401, 3)]), "too narrow"),
        (dict(messages=[{"role": "user", "content": "x"}], text="y"), "not both"),
        (dict(messages=[]), "at least one"),
        (dict(messages=[{"content": "x"}]), "messages[0]"),
        (dict(messages=[{"role": "user", "content": [{"type": "smell"}]}]), "smell"),
        (dict(messages=[{"role": "user", "content": [{"type": "image"}]}]), "needs its content"),
        (dict(messages=[{"role": "user", "content": None}]), "content must be"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError) as caught:
            processor(**arguments)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_its_files_says_which(tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        OmniProcessor.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((NANO / "tokenizer.json").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="no processor"):
        OmniProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((NANO / "preprocessor_config.json").read_bytes())
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        OmniProcessor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder|no hub id"):
        OmniProcessor.from_pretrained(tmp_path / "absent")


def test_what_is_saved_are_its_own_files_and_no_others_of_their_names(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (source / name).write_bytes((NANO / name).read_bytes())
    for name in ("vocab.json", "merges.txt", "chat_template.jinja", "config.json"):
        (target / name).write_text("another's")
    processor = OmniProcessor.from_pretrained(source)
    processor.save_pretrained(source)
    processor.save_pretrained(target)
    here = {path.name for path in source.iterdir()}
    assert here == {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"}
    assert {path.name for path in target.iterdir()} == here | {"config.json"}
    for path in source.iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="are gone"):
        processor.save_pretrained(target)
    assert {path.name for path in target.iterdir()} == here | {"config.json"}


def test_without_torchvision_everything_still_works(files, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from omni_lab import OmniProcessor\n"
        f"p = OmniProcessor.from_pretrained({str(NANO)!r})\n"
        f"image, film = {str(files['picture.png'])!r}, {str(files['film.mp4'])!r}\n"
        "b = p(text='<|IMAGE|><|VIDEO|>', images=[image], videos=[film])\n"
        "assert b['pixel_values'].shape[1] == b['pixel_values_videos'].shape[1] == 1176\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
