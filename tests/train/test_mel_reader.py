"""Who reads words off a mel, and what the DiT learns by it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_lab.errors import ConfigError
from omni_lab.train import parts, speech_bank
from omni_lab.train.loop import train
from omni_lab.train.mel_reader import MelReader, unread
from omni_lab.train.recipes import find
from omni_lab.train.speech_bank import IGNORED, Clip


@pytest.fixture(scope="module", autouse=True)
def own_speech(tmp_path_factory) -> None:
    """A speech bank of its own, so that nothing depends on what earlier runs have left."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("build")
    patch.setattr(speech_bank, "build_folder", lambda: folder)
    speech_bank.shard.cache_clear()
    speech_bank.solo.cache_clear()
    yield
    patch.undo()
    speech_bank.shard.cache_clear()
    speech_bank.solo.cache_clear()


def at(name: str, folder: Path | None = None, **changes):
    recipe = find(name).at("smoke", parts=folder)
    recipe.settings = replace(recipe.settings, **changes)
    return recipe


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A folder of parts with a tokenizer, and a reader that knows its sentences."""
    folder = tmp_path_factory.mktemp("run")
    parts.save_part(folder / "parts", "speech_tokenizer", at("speech_tokenizer").build()["tokenizer"])
    recipe = at("mel_reader", folder / "parts", steps=60, batch_size=8, learning_rate=5e-3, ema=0.0)
    result = train(recipe, folder / "mel_reader", resume=True, device="cpu", progress=False)
    assert result.finished
    return folder / "parts"


def test_the_reader_sees_a_third_of_a_second_to_both_sides() -> None:
    torch.manual_seed(0)
    reader, mel = MelReader(width=12), torch.randn(1, 90, 80)
    other = mel.clone()
    other[0, 45] += 1.0
    moved = (reader(mel) != reader(other)).any(-1)[0].nonzero().flatten()
    assert (moved.min(), moved.max()) == (45 - 30, 45 + 30)


def test_what_is_not_labelled_is_not_asked_for() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    known = torch.nn.functional.cross_entropy(logits[0, :3], labels[0, :3])
    labels[0, 3:], labels[1] = IGNORED, IGNORED
    assert torch.allclose(unread(logits, labels), known)
    assert unread(logits, torch.full_like(labels, IGNORED)) == 0


def test_labels_are_those_of_the_crop() -> None:
    recipe = at("mel_reader", frames=24, batch_size=6)
    clips = {clip.text: clip for clip in speech_bank.solo("train", 0, 4)}
    batch = recipe.batch(3)
    assert batch["mel"].shape[:2] == batch["phonemes"].shape and batch["samples"] == 6
    for mel, labels in zip(batch["mel"], batch["phonemes"], strict=True):
        places = [(c, i) for c in clips.values() for i in range(len(c.mel)) if torch.equal(c.mel[i], mel[0])]
        assert any(
            labels[: len(c.phonemes) - i].tolist() == c.phonemes[i : i + len(labels)].tolist() for c, i in places
        )


def test_frames_behind_the_known_ones_have_no_label() -> None:
    clip = Clip("a", "heart", np.zeros(4800, np.int16), np.full(13, 5, np.uint8))
    assert speech_bank.labels(clip).tolist() == [5] * 13 + [IGNORED] * (len(clip.mel) - 13)
    assert set(speech_bank.labels(replace(clip, phonemes=speech_bank.NONE)).tolist()) == {IGNORED}


def test_the_reader_learns_and_evaluates(taught: Path) -> None:
    reader, fresh = MelReader(), at("mel_reader").build()
    assert parts.load_part(taught, "mel_reader", reader)
    batch = at("mel_reader", roughness=0.0).batch(0)
    with torch.no_grad():
        losses = [float(unread(model(batch["mel"]), batch["phonemes"])) for model in (reader, fresh)]
        told = at("mel_reader").evaluate(reader)
    assert losses[0] < 0.7 * losses[1], losses
    assert 0 < told["phonemes"] < 1 and told["phonemes, nats"] > 0


def test_words_are_a_second_loss_whose_gradient_is_the_dits_alone(taught: Path) -> None:
    with_words = at("dit", taught, words=0.5, source=1.0, batch_size=4, guidance_dropout=0.0)
    torch.manual_seed(0)
    model = with_words.build().train()
    batch, losses = with_words.batch(0), []
    assert (batch["phonemes"] != IGNORED).any(1).all() and batch["phonemes"].shape == batch["mask"].shape
    for weight in (0.0, 0.5, 1.0):
        recipe = at("dit", taught, words=weight, guidance_dropout=0.0)
        torch.manual_seed(1)
        losses.append(recipe.loss(model, batch, "main"))
    plain, half, one = (loss for loss, _ in losses)
    assert torch.allclose(half - plain, 0.5 * losses[1][1]["phonemes"]) and torch.allclose(one - half, half - plain)
    assert half > plain and not losses[0][1]
    assert torch.allclose(losses[1][1]["flow matching"], plain)
    half.backward()
    assert all(p.grad is None for p in with_words.reader.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model["dit"].parameters())


def test_rows_without_codes_are_not_to_be_read(taught: Path) -> None:
    recipe = at("dit", taught, words=1.0, source=1.0, batch_size=4, guidance_dropout=1.0)
    _, figures = recipe.loss(recipe.build().train(), recipe.batch(0), "main")
    assert figures["phonemes"] == 0
    both = at("dit", taught, words=1.0, source=0.0, batch_size=4)  # two voices: nobody knows when they say what
    loss, figures = both.loss(both.build(), both.batch(0), "main")
    assert figures == {"flow matching": loss}


@pytest.mark.parametrize(("own", "figure"), [(0.0, "phonemes"), (1.0, "own phonemes")])
def test_pushing_along_that_gradient_makes_words_readable(taught: Path, own: float, figure: str) -> None:
    """Few steps on one batch lower what the reader misses, and more than flow matching alone does."""
    left = []
    for weight in (0.0, 3.0):
        recipe = at("dit", taught, words=weight, own=own, source=1.0, batch_size=4, guidance_dropout=0.0)
        torch.manual_seed(0)
        model, batch = recipe.build().train(), recipe.batch(0)
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(25):
            torch.manual_seed(2)
            loss, _ = recipe.loss(model, batch, "main")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        asked = at("dit", taught, words=1.0, own=own, guidance_dropout=0.0)
        torch.manual_seed(2)
        left.append(asked.loss(model, batch, "main")[1][figure].item())
    assert left[1] < 0.9 * left[0], left


def test_words_may_be_read_off_what_the_dit_makes_by_itself(taught: Path) -> None:
    torch.manual_seed(0)
    recipe = at("dit", taught, words=0.5, own=0.5, source=1.0, batch_size=4, guidance_dropout=0.0)
    model, batch = recipe.build().train(), recipe.batch(0)
    losses = []
    for own in (0.0, 0.5, 1.0):
        recipe.settings = replace(recipe.settings, own=own)
        torch.manual_seed(1)
        losses.append(recipe.loss(model, batch, "main"))
    (lines, of_lines), (half, of_both), (alone, of_own) = losses
    assert "own phonemes" not in of_lines and of_both["phonemes"] == of_lines["phonemes"]
    assert torch.allclose(lines - half, 0.25 * (of_both["phonemes"] - of_both["own phonemes"]))
    assert torch.allclose(alone, of_own["flow matching"] + 0.5 * of_own["own phonemes"])
    assert all(torch.allclose(figures["flow matching"], of_lines["flow matching"]) for _, figures in losses)
    assert of_own["own phonemes"] != of_both["own phonemes"]  # of twice as many rows
    alone.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model["dit"].parameters())
    assert all(p.grad is None for p in recipe.reader.parameters())


def test_the_dit_goes_its_own_way_guided_and_without_the_real_mel(taught: Path) -> None:
    recipe = at("dit", taught, words=1.0, source=1.0, batch_size=2)
    model, batch = recipe.build().eval(), recipe.batch(0)
    seen = (batch["codes"], model["speaker_encoder"](batch["cond"]), batch["reference"])
    asked: list[tuple[int, bool]] = []
    watched = model["dit"].register_forward_hook(lambda _, given, out: asked.append((len(out), out.requires_grad)))
    mel = recipe.own_mel(model["dit"], seen, batch["mask"])
    watched.remove()
    assert mel.shape == batch["mel"].shape and mel.requires_grad
    assert asked == [(4, False), (4, False), (2, True)]  # guided twice, and then where that points


def test_a_missing_reader_is_one_line(tmp_path: Path, taught: Path) -> None:
    part = parts.part_path(taught, "speech_tokenizer")
    parts.part_path(tmp_path, "speech_tokenizer").write_bytes(part.read_bytes())
    with pytest.raises(ConfigError, match="dit needs the trained part 'mel_reader'"):
        at("dit", tmp_path, words=0.3).build()
    at("dit", tmp_path, words=0.0).build()  # nobody reads
