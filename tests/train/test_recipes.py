"""Every recipe at smoke scale: settings tables, batches as pure functions, a chain of parts, a loss that falls."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from omni_lab.codec.speech_tokenizer import SpeechTokenizer
from omni_lab.config import SpeechTokenizerConfig
from omni_lab.data import world
from omni_lab.data.sample import assistant
from omni_lab.data.world import emphasised
from omni_lab.errors import CheckpointError, ConfigError, DataError
from omni_lab.runtime import SCALES
from omni_lab.thinker import Thinker
from omni_lab.train import packing, parts, speech_bank
from omni_lab.train.commands import changed
from omni_lab.train.loop import train
from omni_lab.train.nano import processor
from omni_lab.train.recipes import ALL, GROUPS, RECIPES, find
from omni_lab.train.recipes import speech_tokenizer as recipe_of_tokenizer
from omni_lab.train.recipes.talker_dpo import own_first


@pytest.fixture(scope="module", autouse=True)
def own_speech(tmp_path_factory) -> None:
    """A speech bank of its own, so that nothing depends on what earlier runs have left."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("build")
    patch.setattr(speech_bank, "build_folder", lambda: folder)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Parts left by the codec's recipes and the first text recipe at smoke scale."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("language", "hearing", "seeing", "speech_tokenizer", "mel_reader", "dit", "bigvgan"):
        run(name, folder)
    return folder / "parts"


def run(name: str, folder: Path, **changes):
    recipe = find(name).at("smoke", parts=folder / "parts")
    recipe.settings = replace(recipe.settings, **changes)
    return train(recipe, folder / name, resume=True, device="cpu", progress=False)


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_settings_for_every_scale(name: str) -> None:
    kind = find(name)
    assert kind.name == name and set(kind.scales) == set(SCALES)
    assert all(s.accumulate >= 1 and s.steps >= 1 for s in kind.scales.values())
    assert kind.at("smoke").settings.steps <= 20


@pytest.mark.parametrize("scale", ["cpu", "t4", "gpu"])
def test_preferences_are_learned_from_enough_pairs_and_not_by_heart(scale: str) -> None:
    settings = find("talker_dpo").scales[scale]
    pairs = settings.texts / 3
    assert pairs >= 240 and settings.steps * settings.batch_size * settings.accumulate <= 10 * pairs


def test_what_a_recipe_reads_is_written_before() -> None:
    written: set[str] = set()
    for name in ALL:
        assert set(find(name).reads) <= written, name
        written |= set(find(name).writes)
    assert set(GROUPS["thinker"]) | set(GROUPS["codec"]) | set(GROUPS["speech"]) == set(ALL)
    assert {source for names in parts.SOURCES.values() for source in names} <= written


def test_parts_chain_and_what_is_frozen_stays(trained: Path) -> None:
    before = {name: p.clone() for name, p in run_model("audio_encoder", trained).named_parameters()}
    result = run("audio_encoder", trained.parent)
    assert any(not torch.equal(p, before[name]) for name, p in result.model.named_parameters())
    first = run("thinker_1", trained.parent).model
    after = dict(first.named_parameters())
    for name, p in result.model.named_parameters():
        if not name.startswith(("visual.", "audio_tower.")):
            assert torch.equal(p, after[name]), name


def run_model(name: str, folder: Path):
    torch.manual_seed(0)
    return find(name).at("smoke", parts=folder).build()


@pytest.mark.parametrize(
    "name",
    [
        "language",
        "hearing",
        "seeing",
        "thinker_2",
        "thinker_3",
        "speech_tokenizer",
        "mel_reader",
        "dit",
        "bigvgan",
        "talker",
        "speakers",
    ],
)
def test_batches_are_pure_functions_of_their_index(name: str, trained: Path) -> None:
    one, other = (find(name).at("smoke", parts=trained) for _ in range(2))
    other.batch(5)
    assert same(one.batch(2), other.batch(2)) and not same(one.batch(2), one.batch(3))


@pytest.mark.parametrize("name", ["talker", "speakers", "joint", "talker_dpo"])
def test_talker_recipes_train(name: str, trained: Path) -> None:
    for part in ("talker", "speakers"):
        if part == name:
            break
        if not parts.part_path(trained, part).exists():
            run(part, trained.parent)
    result = run(name, trained.parent)
    assert result.finished and all(parts.part_path(trained, part).exists() for part in find(name).writes)


@pytest.mark.parametrize("name", ["talker", "speakers", "joint", "talker_dpo"])
def test_talkers_need_a_thinker_and_the_talker_before(name: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "parts", ignore=lambda _, names: [n for n in names if "thinker" in n])
    for missing in ("language", "hearing", "seeing", "audio_encoder"):
        parts.part_path(tmp_path / "parts", missing).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=f"{name} needs a trained part 'thinker_3' or"):
        find(name).at("smoke", parts=tmp_path / "parts").build()
    shutil.copyfile(parts.part_path(trained, "language"), parts.part_path(tmp_path / "parts", "language"))
    for before in ("talker", "talker_dpo", "speakers"):
        parts.part_path(tmp_path / "parts", before).unlink(missing_ok=True)
    if name != "talker":
        with pytest.raises(ConfigError, match=f"{name} needs a trained part .*'talker'"):
            find(name).at("smoke", parts=tmp_path / "parts").build()


def test_a_sentences_triple_is_collected_once_and_by_whom_it_falls_to(trained: Path, monkeypatch) -> None:
    assert own_first(7, 0, 1) == [*range(7)]
    assert own_first(7, 1, 3) == [2, 3, 6, 5, 4, 1, 0] and sorted(own_first(7, 2, 3)) == [*range(7)]
    if not parts.part_path(trained, "talker").exists():
        run("talker", trained.parent)
    recipe = find("talker_dpo").at("smoke", parts=trained, seed=3)
    recipe.settings = replace(recipe.settings, texts=3)
    model = recipe.build()
    wanted, known = [vars(t) for t in recipe.triples], recipe.fingerprint(model, trained)
    folder = trained / f"triples_{known:08x}"
    (folder / "00001.json").unlink()  # as if killed before it
    said: list[int] = []
    attempts = type(recipe).attempts
    monkeypatch.setattr(type(recipe), "attempts", lambda *given: (said.append(given[3:]), attempts(*given))[1])
    recipe.build()
    # Said as a reply, then hotter.
    assert said == [(1, 1, parts.DRAWN), (1, recipe.settings.tries, recipe.settings.temperature)] and len(wanted) == 3
    for before, after in zip(wanted, (vars(t) for t in recipe.triples), strict=True):
        assert before["text"] == after["text"]
        assert all(torch.equal(before[name], after[name]) for name in ("chosen", "rejected"))
    assert not [path for path in folder.iterdir() if path.suffix != ".json"]
    with torch.no_grad():
        next(model["thinker"].parameters())[0] += 1  # what another thinker has its talker say is not the same
    assert recipe.fingerprint(model, trained) != known


def test_dpo_changes_where_the_talker_looks_and_leaves_the_change(trained: Path, tmp_path: Path) -> None:
    for name in ("talker", "talker_dpo"):
        if not parts.part_path(trained, name).exists():
            run(name, trained.parent)
    change = parts.added_by_dpo(trained)
    assert change and all(".self_attn." in name for name in change)
    before, after = (load_file(parts.part_path(trained, name)) for name in ("talker", "talker_dpo"))
    assert all(torch.equal(before[name], after[name]) for name in after if name not in change)
    assert parts.added_by_dpo(tmp_path) == {}


def test_the_tokenizer_learns(tmp_path: Path, monkeypatch) -> None:
    few = SpeechTokenizerConfig(codebook_size=32)  # as many entries as the nano's would just learn a few clips by heart
    monkeypatch.setattr(recipe_of_tokenizer, "new_tokenizer", lambda config: SpeechTokenizer(few))
    start = run("speech_tokenizer", tmp_path / "a", steps=1, sentences=24)
    end = run("speech_tokenizer", tmp_path / "b", steps=80, sentences=24, batch_size=4, learning_rate=5e-3, ema=0.0)
    assert end.figures["phonemes, nats"] < 0.75 * start.figures["phonemes, nats"]
    assert end.figures["mel"] < 1.1 * start.figures["mel"] and 10 < end.figures["perplexity"] <= 32


def run_beside(trained: Path, name: str, **changes):
    """The hearing recipe in a folder of its own, on the parts that are there."""
    recipe = find("hearing").at("smoke", parts=trained)
    recipe.settings = replace(recipe.settings, **changes)
    return train(recipe, trained.parent / name, device="cpu", progress=False)


def test_hearing_learns_to_spell_and_leaves_the_language_model_alone(trained: Path) -> None:
    before = dict(run_model("hearing", trained)["thinker"].named_parameters())
    start = run_beside(trained, "start", steps=1)
    end = run_beside(trained, "end", steps=20, learning_rate=2e-3, ema=0.0)
    assert end.figures["sentences"] < 0.96 * start.figures["sentences"]
    assert 0 < end.figures["sentences, letters wrong"] <= 1.5
    for name, p in end.model["thinker"].named_parameters():
        assert name.startswith("audio_tower.") or torch.equal(p, before[name]), name


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dit needs the trained part 'speech_tokenizer'"):
        find("dit").at("smoke", parts=tmp_path).build()
    parts.part_path(tmp_path, "speech_tokenizer").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="speech_tokenizer.safetensors"):
        find("dit").at("smoke", parts=tmp_path).build()


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "shard.npz").write_bytes(b"PK not a shard")
    with pytest.raises(DataError, match=r"shard\.npz: damaged .*delete it"):
        speech_bank.read(tmp_path / "shard.npz")


def test_shards_hold_the_same_words_in_the_same_time(tmp_path: Path) -> None:
    for clip, other in speech_bank.shard("train", 0, 4):
        assert clip.text == other.text and len(clip.wave) == len(other.wave) and len(clip.wave) % 480 == 0
        assert clip.mel.shape == (len(clip.wave) // 240, 80) and clip.wave.dtype == np.int16


def test_settings_from_the_command_line() -> None:
    settings = find("dit").scales["smoke"]
    assert changed(settings, ["steps=7", "compile=true", "dtype=float32"]).steps == 7
    for wrong in ("steps=many", "colour=red", "steps"):
        with pytest.raises(ConfigError, match="--set"):
            changed(settings, [wrong])


def test_settings_of_several_values_from_the_command_line() -> None:
    settings = find("clip").scales["smoke"]
    made = changed(settings, ["betas=0.8, 0.99", "styles=noto", "tests=fluent,openmoji"])
    assert (made.betas, made.styles, made.tests) == ((0.8, 0.99), ("noto",), ("fluent", "openmoji"))
    assert changed(find("clip").scales["cpu"], ["styles=noto,twemoji"]).styles == ("noto", "twemoji")  # was empty
    assert changed(settings, ["styles="]).styles == ()
    for wrong in ("betas=0.9", "betas=0.9,0.98,0.1", "betas=0.9,high", "betas=", "styles=noto,"):
        with pytest.raises(ConfigError, match=f"--set {wrong}: .* separated by commas") as error:
            changed(settings, [wrong])
        assert "\n" not in str(error.value)


def test_what_is_frozen_stays_out_of_the_optimiser() -> None:
    recipe = find("thinker_2").at("smoke")
    thinker = Thinker(recipe.config.thinker_config)
    for frozen, kept in (("", thinker), ("visual[.]|audio_tower[.]", thinker.model)):
        recipe.settings = replace(recipe.settings, frozen=frozen)
        learning = {id(p) for group in recipe.groups(thinker)["main"] for p in group["params"]}
        assert learning == {id(p) for p in kept.parameters()}


def test_words_that_are_read_are_answered_letter_by_letter() -> None:
    recipe, tokenizer = find("thinker_2").at("smoke"), processor().tokenizer
    for place in range(3):
        sample = world.sample("ocr", "train", 0, place)
        encoded = recipe.encode(sample)
        plain = processor()(messages=[*sample.messages, assistant(sample.answer)], labels=True)
        ids, labels = encoded["input_ids"][0], encoded["labels"][0]
        answer = labels[labels != packing.IGNORED].tolist()
        assert [tokenizer.decode([i]) for i in answer] == [*sample.answer, "<|im_end|>"]
        assert tokenizer.decode(ids) == tokenizer.decode(plain["input_ids"][0])
        lengths = [encoded[n].shape[-1] for n in ("input_ids", "labels", "attention_mask", "position_ids")]
        assert len(set(lengths)) == 1 and (labels[labels != packing.IGNORED] == ids[labels != packing.IGNORED]).all()


def test_some_tasks_can_be_drawn_more_often_than_others() -> None:
    factors = emphasised("sound_events:6 ocr:0 music:0.5")
    assert factors == {"sound_events": 6.0, "ocr": 0.0, "music": 0.5} and emphasised("") == {}
    tasks = ("sound_events", "music", "ocr", "picture_qa")
    drawn = [world.schedule(tasks, 0, place, emphasis=factors)[0] for place in range(400)]
    assert drawn.count("ocr") == 0 < drawn.count("music") < drawn.count("picture_qa") < drawn.count("sound_events")
    for wrong in ("sound_events", "sound_events:loud", "sound_events:-1", "sound:2"):
        with pytest.raises(ConfigError, match="emphasis is"):
            emphasised(wrong)


def test_a_mixture_of_which_nothing_is_left_is_told() -> None:
    with pytest.raises(ConfigError, match="all of text_qa, equation have the weight 0"):
        world.schedule(("text_qa", "equation"), 0, 0, text=0.0)


def test_a_world_of_which_no_sample_can_be_used_ends_in_a_line(monkeypatch) -> None:
    """It was asked for more for ever: rows that nothing fills are never full."""
    recipe = find("language").at("smoke")

    def broken(*_):
        raise DataError("no samples here")

    monkeypatch.setattr(recipe, "sample", broken)
    with pytest.raises(DataError, match="50 samples in a row are bad, stopping: no samples here"):
        recipe.batch(0)


def test_a_task_that_is_never_drawn_is_evaluated_all_the_same() -> None:
    recipe = find("language").at("smoke")
    recipe.settings = replace(recipe.settings, emphasis="text_qa:0")
    with torch.no_grad():
        model = recipe.build().eval()
        figures, again = recipe.evaluate(model), recipe.evaluate(model)
    assert list(figures) == ["text_qa"] and figures["text_qa"] > 0 and again == figures
    assert list(recipe.held_out) == ["text_qa"]  # made once
