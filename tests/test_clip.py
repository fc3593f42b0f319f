"""CLIP: parity with open_clip, its functions, files and tokenizer."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer, VisionTransformer

from omni_lab import bpe, clip, runtime
from omni_lab.clip_config import CLIPConfig, ImageTowerConfig, TextTowerConfig
from omni_lab.errors import CheckpointError, ConfigError, InputError

TEXT = TextTowerConfig(300, 10, 32, 4, 2)
RESNET = CLIPConfig(24, ImageTowerConfig(64, 16, (1, 2, 1, 1), 4), TEXT)
VIT = CLIPConfig(24, ImageTowerConfig(32, 32, (2,), 4, patch_size=8), TEXT)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def gradients_agree(ours, theirs, ours_in, theirs_in):
    (ours(ours_in) ** 2).sum().backward()
    (theirs(theirs_in) ** 2).sum().backward()
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(g.abs().max().item() for g in grads.values())
    for name, p in ours.named_parameters():  # some are zero but for rounding, such as a key's bias
        torch.testing.assert_close(
            p.grad, grads[name], rtol=1e-3, atol=1e-5 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_modified_resnet_is_open_clips():
    theirs = ModifiedResNet([1, 2, 1, 1], 24, 4, 64, 16)
    for p in theirs.parameters():  # its zeroed norms would hide the blocks
        p.data.normal_(0, 0.2)
    ours = clip.CLIP(RESNET).visual
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        for mode in (True, False):  # batch statistics, then running ones
            ours.train(mode), theirs.train(mode)
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    gradients_agree(ours, theirs, x, x)


def test_vision_transformer_is_open_clips():
    theirs = VisionTransformer(32, 8, 32, 2, 4, 4, output_dim=24)
    ours = clip.CLIP(VIT).visual
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    gradients_agree(ours, theirs, x, x)


def test_text_transformer_is_open_clips():
    theirs = TextTransformer(10, 300, 32, 4, 2, output_dim=24)
    ours = clip.CLIP(VIT).text
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randint(2, 299, (4, 10))
    tokens[range(4), [3, 9, 5, 1]] = 299
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)
    gradients_agree(ours, theirs, tokens, tokens)


def test_info_nce_knows_nothing_and_everything():
    same = torch.ones(16, 4)
    assert clip.info_nce(same, same, 0.1).item() == pytest.approx(math.log(16))
    apart = torch.eye(16)
    assert clip.symmetric_loss(apart, 5 * apart, 0.01).item() < 1e-6
    q, k = torch.randn(6, 8), torch.randn(6, 8)
    assert clip.symmetric_loss(q, k, 0.1).item() == pytest.approx(clip.symmetric_loss(k, q, 0.1).item(), rel=1e-6)


def test_temperature_is_clamped_and_still_learns_below():
    assert clip.temperature(torch.tensor(9.0)).item() == pytest.approx(0.01)
    scale = torch.tensor(2.0, requires_grad=True)
    clip.temperature(scale).backward()
    assert scale.grad.item() == pytest.approx(-math.exp(-2))


def test_attention_pooling_is_torchs():
    query, keys, values = torch.randn(2, 12), torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    expected = [
        F.scaled_dot_product_attention(q[:, None], k, v)[:, 0]
        for q, k, v in zip(query.chunk(3, -1), keys.chunk(3, -1), values.chunk(3, -1), strict=True)
    ]
    torch.testing.assert_close(clip.attention_pooling(query, keys, values, 3), torch.cat(expected, -1))


def test_eot_pooling_takes_the_first_end_and_nothing_after_it_matters():
    model = clip.CLIP(VIT).eval()
    tokens = torch.tensor([[1, 7, 299, 0, 0], [1, 7, 299, 299, 299], [1, 7, 299, 42, 9]])
    with torch.no_grad():
        x = model.encode_text(tokens)
    torch.testing.assert_close(x[0], x[1])
    torch.testing.assert_close(x[0], x[2])


def test_zero_shot_and_ensembles():
    classes = clip.prompt_ensemble(torch.eye(4)[:, None] * torch.tensor([1.0, 9.0])[None, :, None])
    torch.testing.assert_close(classes, torch.eye(4))
    chances = clip.zero_shot(torch.eye(4)[:2], classes)
    assert chances.argmax(1).tolist() == [0, 1] and torch.allclose(chances.sum(1), torch.ones(2))


def test_recall_counts_ties_for_the_true_key():
    scores = torch.tensor([[1.0, 2, 3], [2, 2, 2], [0, 1, 2]])
    assert clip.recall_at_k(scores, 1) == pytest.approx(2 / 3)
    assert clip.recall_at_k(scores, 3) == 1
    assert clip.recall_at_k(scores, 1, torch.tensor([2, 0, 0])) == pytest.approx(2 / 3)
    assert clip.recall_at_k(scores.T, 1) == pytest.approx(1 / 3)


@pytest.mark.parametrize("count", [1, None])
def test_a_step_lowers_the_loss_and_is_the_same_each_time(count):
    """On one thread and on all cores."""
    with runtime.threads(count):
        losses = [losses_of_four_steps() for _ in range(2)]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def losses_of_four_steps() -> list[float]:
    """Of a small model on random data, from the same seed each time."""
    torch.manual_seed(1)
    model = clip.CLIP(VIT)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    x, tokens = torch.randn(6, 3, 32, 32), torch.randint(2, 299, (6, 8))
    tokens[:, -1] = 299
    losses = []
    for _ in range(4):
        loss = model(x, tokens)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def saved(tmp_path):
    tokenizer = bpe.train_tokenizer(["red apple", "green pear", "an apple a day"], 300)
    text = TextTowerConfig(tokenizer.get_vocab_size(), 10, 32, 4, 2)
    model = clip.CLIP(CLIPConfig(24, RESNET.vision, text), tokenizer).eval()
    model.save(tmp_path / "clip")
    return tmp_path / "clip", model


def test_saved_model_comes_back(saved):
    folder, model = saved
    back = clip.CLIP.load(folder)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(back.encode_image(x), model.encode_image(x))
        classes = back.embed_classes(["apple", "pear"], ("{}", "a {}"))
        assert torch.equal(classes, model.embed_classes(["apple", "pear"], ("{}", "a {}")))
    assert not back.training and not list(folder.glob("*.part"))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_damaged_checkpoint_is_one_line(saved, file):
    folder, _ = saved
    path = folder / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError) as caught:
        clip.CLIP.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_checkpoint_of_another_shape_is_named(saved):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    config["embed_dim"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has shape .* but config.json asks for"):
        clip.CLIP.load(folder)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (None, dict(embed_dim=10**13)),
        (None, dict(embed_dim=10**7)),
        (None, dict(embed_dim=True)),
        ("vision", dict(patch_size=-8)),
        ("vision", dict(patch_size=2.5)),
        ("vision", dict(patch_size="8")),
        ("vision", dict(patch_size=1, width=10**6, heads=1, image_size=10**4)),
        ("vision", dict(layers=[10**9], patch_size=8)),
        ("vision", dict(layers="12")),
        ("text", dict(width="wide")),
        ("text", dict(layers=10**9)),
        ("text", dict(vocab_size=10**7)),
        ("text", dict(context_length=10**7)),
    ],
)
def test_sizes_that_the_file_does_not_hold_take_no_memory(saved, part, settings):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part]).update(settings)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        clip.CLIP.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 10**5, "[]", "3", '{"vision": 3}', '{"vision": {"layers": 3}}', "\0"])
def test_configurations_that_are_none(saved, content):
    folder, _ = saved
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="no readable CLIP"):
        clip.CLIP.load(folder)


def test_a_tokenizer_of_something_else_is_named(saved):
    folder, model = saved
    other = bpe.train_tokenizer(["red apple", "an apple a day"], 280)
    assert other.get_vocab_size() < model.config.text.vocab_size
    (folder / "tokenizer.json").write_text(other.to_str())
    with pytest.raises(CheckpointError, match="another vocabulary than the text tower"):
        clip.CLIP.load(folder)
    (folder / "tokenizer.json").write_text(other.to_str().replace("<|startoftext|>", "<s>").replace("<|pad|>", "<p>"))
    with pytest.raises(CheckpointError, match=r"tokenizer.json knows no <\|pad\|>, <\|startoftext\|>"):
        clip.CLIP.load(folder)


@pytest.mark.parametrize("config", [RESNET, VIT, CLIPConfig()])
def test_a_shape_knows_how_many_numbers_it_takes(config):
    count = sum(tensor.numel() for tensor in clip.CLIP(config).state_dict().values())
    assert 0.6 * count < config.numbers() <= count


def test_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no readable CLIP"):
        clip.CLIP.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "vision",
    [
        ImageTowerConfig(50),
        ImageTowerConfig(48, 30, (1,), 7),
        ImageTowerConfig(48, 0),
        ImageTowerConfig(layers=()),
        ImageTowerConfig(48, 32, (1,), 4, patch_size=-8),
        ImageTowerConfig(48, 32, (1,), 4, patch_size=96),
    ],
)
def test_impossible_configurations(vision):
    with pytest.raises(ConfigError):
        CLIPConfig(24, vision, TEXT)


def test_wrong_inputs():
    model = clip.CLIP(RESNET)
    with pytest.raises(InputError, match="64, 64"):
        model.encode_image(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match="no tokenizer"):
        model.embed_captions(["x"])
    for wrong in (np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 4, 4, 4), np.uint8)):
        with pytest.raises(InputError, match="RGB pictures"):
            clip.to_input(wrong, 8)


def test_tokenizer_ends_every_caption_and_knows_every_byte():
    tokenizer = bpe.train_tokenizer(["red apple"] * 3 + ["green pear"], 290)
    size = tokenizer.get_vocab_size()
    rows = bpe.tokenize(tokenizer, ["Red apple", "日本語 " * 20, ""], 8)
    assert rows.shape == (3, 8) and rows[:, 0].eq(1).all() and (rows == size - 1).sum(1).eq(1).all()
    assert rows[2].tolist() == [1, size - 1, 0, 0, 0, 0, 0, 0]
    assert tokenizer.decode(tokenizer.encode("日本").ids).strip() == "日本"
    with pytest.raises(InputError):
        bpe.tokenize(tokenizer, [], 8)


def test_a_save_that_breaks_off_leaves_the_old_files(saved, monkeypatch):
    folder, model = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(state, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(clip, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        model.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".part"} == before
    assert clip.CLIP.load(folder)
