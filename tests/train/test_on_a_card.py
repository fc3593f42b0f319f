"""Every recipe on a pretend card (tests/pretend_card.py): it trains, is saved, resumes, evaluates and leaves its parts.

What is checked is that tensors, generators and types meet as CUDA lets them; the numbers are a CPU's.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omni_lab.cli import main
from omni_lab.omni import OmniModel
from omni_lab.train import parts, phoneme_bank, speech_bank
from omni_lab.train.loop import Result, Run, train
from omni_lab.train.recipes import RECIPES, find
from tests.pretend_card import L4, T4, Card, on_card, pretend_card

NANO = Path(__file__).parents[2] / "data_samples" / "checkpoints" / "nano"
HUB = "llava_hub"  # needs two published models: tests/test_llava.py
SHORTER = {"clip": {"steps": 2}, "talker_dpo": {"longest": 20, "texts": 1}}
# For all who have them: few sentences in the speech bank, and no cuts of recordings, which take long to find.
FEW = {"sentences": 4, "emphasis": "asr_recorded:0"}
# Recipes whose loss is another's: that one stands for them where a run goes on, and on the second card.
ALIKE = {"thinker_1", "thinker_3", "audio_encoder", "llava_1", "llava_2", "llava_align", "llava_instruct", "speakers",
         "talker_dpo", "clip"}  # fmt: skip


# Those of them that are also evaluated as another is.
JUDGED_ALIKE = ALIKE - {"llava_2", "speakers", "talker_dpo", "clip"}


@pytest.fixture(scope="module", autouse=True)
def own_speech(tmp_path_factory) -> None:
    """A speech bank of its own, so that nothing depends on what earlier runs have left."""
    torch.set_num_threads(1)
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("build")
    patch.setattr(speech_bank, "build_folder", lambda: folder)
    kept = (speech_bank.shard, speech_bank.solo, phoneme_bank.shard)
    for cached in kept:
        cached.cache_clear()
    yield
    patch.undo()
    for cached in kept:
        cached.cache_clear()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """The shipped checkpoint taken apart: what recipes read."""
    folder, model = tmp_path_factory.mktemp("run") / "parts", OmniModel.from_pretrained(NANO, "cpu", torch.float32)
    for place, names in parts.SOURCES.items():
        for name in names:
            parts.save_part(folder, name, model.get_submodule(place))
    parts.save_part(folder, "llava_1", model.thinker)
    for name in ("llava_language", "llava_align", "mel_reader"):
        parts.save_part(folder, name, find(name).at("smoke", parts=folder).build())
    return folder


def run(name: str, card: Card, folder: Path, shipped: Path, minutes: float = 10, **changes) -> Result:
    """One sitting of a recipe on a card, in `folder`, which reads the shipped parts and leaves its own there."""
    here = folder / "parts"
    here.mkdir(exist_ok=True)
    for path in shipped.iterdir():
        if not (here / path.name).exists():
            (here / path.name).symlink_to(path)
    recipe = find(name).at("smoke", parts=here)
    few = {setting: value for setting, value in FEW.items() if hasattr(recipe.settings, setting)}
    recipe.settings = replace(recipe.settings, **few, **SHORTER.get(name, {}), **changes)
    with pretend_card(card):
        return train(recipe, folder / name, resume=True, device="cuda", minutes=minutes, progress=False)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != HUB])
def test_a_recipe_trains_in_float16_resumes_evaluates_and_leaves_its_parts(
    name: str, shipped: Path, tmp_path: Path, monkeypatch
) -> None:
    if name in JUDGED_ALIKE:
        monkeypatch.setattr(Run, "evaluate", lambda run: None)
    if name not in ALIKE:
        first = run(name, T4, tmp_path, shipped, minutes=0)
        assert first.step == 1 and not first.finished
    last = run(name, T4, tmp_path, shipped)
    assert last.finished and all(map(on_card, last.model.parameters()))
    for part in find(name).writes:
        path = parts.part_path(tmp_path / "parts", part)
        if part == "clip":  # a folder, which loads by itself
            path = tmp_path / "parts" / part / "model.safetensors"
        assert not path.is_symlink() and all(t.isfinite().all() for t in load_file(path).values()), part


@pytest.mark.parametrize("name", [name for name in RECIPES if name != HUB and name not in ALIKE])
def test_a_recipe_trains_in_bfloat16(name: str, shipped: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Run, "evaluate", lambda run: None)  # in float32 on either card
    assert run(name, L4, tmp_path, shipped).finished


def test_a_run_that_began_in_bfloat16_goes_on_in_float16(shipped: Path, tmp_path: Path) -> None:
    assert not run("talker", L4, tmp_path, shipped, minutes=0).finished
    assert run("talker", T4, tmp_path, shipped).finished


def test_blocks_are_computed_again_in_the_backward_pass(shipped: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Run, "evaluate", lambda run: None)
    assert run("thinker_2", T4, tmp_path, shipped, checkpoint_activations=True).finished


def test_batches_come_from_workers_and_pinned_memory(shipped: Path, tmp_path: Path) -> None:
    assert run("language", T4, tmp_path, shipped, workers=1).finished


def test_the_command_trains_on_the_card_that_is_there(tmp_path: Path, capsys) -> None:
    with pretend_card(T4):
        assert main(["train", "speech_tokenizer", "--scale", "smoke", "--out", str(tmp_path), "--device", "cuda"]) == 0
        assert main(["train", "speech_tokenizer", "--scale", "smoke", "--out", str(tmp_path), "--resume"]) == 0
    assert "speech_tokenizer" in capsys.readouterr().out
