"""What the recipes of codec and talker draw: the source voice alone, another rendition's codes, parts to go on from."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_lab.codec.dit import DiT
from omni_lab.codec.speaker import SpeakerEncoder
from omni_lab.codec.speech_tokenizer import SpeechTokenizer, pairs
from omni_lab.config import preset
from omni_lab.data import music, recordings, unit_selection
from omni_lab.data.sample import Sample, user
from omni_lab.errors import ConfigError, DataError
from omni_lab.talker import Talker
from omni_lab.thinker import Thinker
from omni_lab.train import packing, parts, phoneme_bank, speech_bank, transcripts
from omni_lab.train.nano import processor
from omni_lab.train.recipes import find
from omni_lab.train.recipes import speech_tokenizer as recipe_of_tokenizer
from omni_lab.train.recipes import talker as recipes
from omni_lab.train.recipes.hearing import BESIDE

NANO = preset("nano")


@pytest.fixture(scope="module", autouse=True)
def own_speech(tmp_path_factory) -> Path:
    """A speech bank of its own, so that nothing depends on what earlier runs have left."""
    torch.set_num_threads(1)
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("build")
    patch.setattr(speech_bank, "build_folder", lambda: folder)
    speech_bank.shard.cache_clear()
    speech_bank.solo.cache_clear()
    phoneme_bank.shard.cache_clear()
    yield folder
    patch.undo()
    speech_bank.shard.cache_clear()
    speech_bank.solo.cache_clear()
    phoneme_bank.shard.cache_clear()


@pytest.fixture(scope="module")
def coded(tmp_path_factory) -> Path:
    """A folder of parts that holds a tokenizer whose entries are moments of speech."""
    folder = tmp_path_factory.mktemp("parts")
    parts.save_part(folder, "speech_tokenizer", at("speech_tokenizer").build()["tokenizer"])
    parts.save_part(folder, "mel_reader", at("mel_reader").build())
    return folder


def at(name: str, folder: Path | None = None, **changes):
    recipe = find(name).at("smoke", parts=folder)
    recipe.settings = replace(recipe.settings, **changes)
    return recipe


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_solo_shard_is_the_source_voice_in_whole_codes(own_speech: Path) -> None:
    clips = speech_bank.solo("train", 0, 4)
    assert len(clips) == 4 and {clip.speaker for clip in clips} == {"heart"}
    for clip in clips:
        assert (
            clip.wave.dtype == np.int16 and len(clip.wave) % 480 == 0 and clip.mel.shape == (len(clip.wave) // 240, 80)
        )
    again = speech_bank.make_solo("train", 0, 4)  # what the file holds is a pure function of split, number and count
    assert all(a.text == b.text and np.array_equal(a.wave, b.wave) for a, b in zip(clips, again, strict=True))
    assert [clip.text for clip in speech_bank.solo("train", 1, 4)] != [clip.text for clip in clips]
    assert (own_speech / "speech" / "timed-train-4-00000.npz").exists()


def test_a_shards_waves_are_shared_between_processes(own_speech: Path) -> None:
    """They are mapped, so that two workers do not hold 3 GB each; and are what was written, wherever in the file."""
    clips = speech_bank.solo("test", 0, 4)
    (path,) = (own_speech / "speech").glob("timed-test-4-00000.npz")
    with np.load(path) as file:
        assert np.array_equal(np.concatenate([clip.wave for clip in clips]), file["waves"])
    base = clips[1].wave
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    plain = replace(clips[1], wave=clips[1].wave.copy())
    assert torch.equal(clips[1].mel, plain.mel)
    clips[1].wave[:] = 0  # a copy's: the file stays
    assert np.array_equal(speech_bank.read(path)[1].wave, plain.wave)
    speech_bank.solo.cache_clear()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="timed-test-4-00000.npz: damaged"):
        speech_bank.solo("test", 0, 4)
    path.unlink()


def test_a_solo_shard_knows_its_phonemes(own_speech: Path) -> None:
    for clip in speech_bank.solo("train", 0, 4):
        assert len(clip.phonemes) == len(clip.mel) and clip.phonemes.any()
        loud = clip.mel.mean(1)
        assert loud[clip.phonemes > 0].mean() > loud[clip.phonemes == 0].mean() + 1


def test_shards_of_the_source_voice_come_into_play_one_after_the_other(monkeypatch) -> None:
    """Training need not wait until all of them are made."""
    monkeypatch.setattr(speech_bank, "solo", lambda split, number, count: number)
    supply, rng = speech_bank.Supply(shards=40, growth=0.5), np.random.default_rng(0)
    drawn = {index: {speech_bank.drawn_solo(supply, rng, index) for _ in range(400)} for index in (0, 20, 1000)}
    assert drawn[0] == {0, 1} and drawn[20] == set(range(12)) and drawn[1000] == set(range(40))


def test_a_damaged_solo_shard_is_named(own_speech: Path) -> None:
    (own_speech / "speech").mkdir(exist_ok=True)
    (own_speech / "speech" / "timed-train-4-00009.npz").write_bytes(b"PK not a shard")
    with pytest.raises(DataError, match=r"timed-train-4-00009\.npz: damaged .*delete it"):
        speech_bank.solo("train", 9, 4)


def test_the_tokenizer_starts_at_moments_of_the_source_voice_and_goes_to_their_middles(monkeypatch) -> None:
    built = at("speech_tokenizer", rounds=0).build()
    model, clips = built["tokenizer"], speech_bank.solo("train", 0, 4)
    vectors = torch.cat([pairs(clip.mel) for clip in clips])
    away = torch.cdist(model.codebook.detach(), vectors).amin(1)
    assert away.max() < 0.05 * 160**0.5 * 1.4  # a little noise keeps repeated moments apart
    assert len(model.codebook.detach().unique(dim=0)) == NANO.speech_tokenizer_config.codebook_size
    again = at("speech_tokenizer", rounds=0).build()
    assert same_weights(model, again["tokenizer"])
    few = replace(NANO.speech_tokenizer_config, codebook_size=32)  # fewer than moments
    monkeypatch.setattr(recipe_of_tokenizer, "new_tokenizer", lambda config: SpeechTokenizer(few))
    mel = torch.cat([clip.mel for clip in clips])[None]
    mask = torch.ones(mel.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        losses = [at("speech_tokenizer", rounds=n).build()["tokenizer"](mel, mask) for n in (0, 1, 4)]
    assert losses[2] < losses[1] < losses[0]


def test_padding_and_unknown_phonemes_teach_the_tokenizer_nothing() -> None:
    recipe = at("speech_tokenizer")
    model, clips = recipe.build(), list(speech_bank.solo("train", 0, 4))
    batch = recipe_of_tokenizer.packed(clips)
    known = batch["phonemes"] != speech_bank.IGNORED
    assert known.flatten(1).sum(1).tolist() == [min(len(c.phonemes), len(c.mel)) for c in clips]
    assert not known[~batch["mask"].unflatten(1, (-1, 2))].any()
    longer = batch | {
        "mel": torch.cat([batch["mel"], batch["mel"][:, :8]], dim=1),
        "mask": torch.nn.functional.pad(batch["mask"], (0, 8)),
        "phonemes": torch.nn.functional.pad(batch["phonemes"], (0, 0, 0, 4), value=speech_bank.IGNORED),
    }
    with torch.no_grad():
        one, other = (recipe.loss(model, each, "main")[0] for each in (batch, longer))
    assert torch.isclose(one, other, rtol=1e-4)


def test_the_tokenizers_discriminants_tell_phonemes_apart() -> None:
    """On sentences that they were not counted on, a phoneme's moments lie nearer to its middle than to others'."""
    recipe = at("speech_tokenizer", sentences=24)
    model = recipe.build()["tokenizer"]
    width = model.config.discriminants

    def right(vectors_of) -> float:
        some = [(vectors_of(c.mel)[1:], torch.from_numpy(c.phonemes[1::2].astype(int))[:-1]) for c in clips]
        half = len(some) // 2
        rows, labels = (torch.cat(part) for part in zip(*some[:half], strict=True))
        others, expected = (torch.cat(part) for part in zip(*some[half:], strict=True))
        known = [k for k in labels.unique().tolist() if (labels == k).sum() > 10]
        middles = torch.stack([rows[labels == k].mean(0) for k in known])
        kept = torch.isin(expected, torch.tensor(known))
        chosen = torch.tensor(known)[torch.cdist(others[kept], middles).argmin(1)]
        return (chosen == expected[kept]).float().mean().item()

    clips = speech_bank.solo("test", 0, 24)
    with torch.no_grad():
        assert right(lambda mel: model.vectors(mel)[:, :width]) > right(pairs) + 0.08


def test_the_dit_says_the_codes_of_one_rendition_with_the_mel_of_the_other(coded: Path) -> None:
    recipe = at("dit", coded, frames=10_000)
    for pair in speech_bank.shard("train", 0, 4):
        for said, heard in (pair, pair[::-1], (pair[0], pair[0])):
            batch = recipe.examples([(said, heard)], [*pair], np.random.default_rng(0))
            count = batch["codes"].shape[1]
            assert torch.equal(batch["codes"][0], recipe.tokenizer.codes(heard.mel)[:count])
            assert torch.equal(batch["mel"][0], said.mel[: 2 * count]) and batch["mask"].all()


@pytest.mark.parametrize("share", [0.0, 1.0, 0.5])
def test_others_may_borrow_the_source_voices_codes(coded: Path, monkeypatch, share: float) -> None:
    """Its own clips keep their own codes, and so does who said a sentence that it did not say."""
    recipe = at("dit", coded, source=0.0, other_voice=share, batch_size=200)
    monkeypatch.setattr(recipe, "examples", lambda chosen, clips, rng: chosen)
    beside = {id(clip): other for pair in speech_bank.shard("train", 0, 4) for clip, other in (pair, pair[::-1])}
    chosen = recipe.batch(0)
    lending = [s for s, _ in chosen if s.speaker != "heart" and beside[id(s)].speaker == "heart"]
    borrowed = [(said, coded_by) for said, coded_by in chosen if said is not coded_by]
    assert all(heard is beside[id(said)] and heard.speaker == "heart" for said, heard in borrowed)
    assert all(said.speaker != "heart" for said, _ in borrowed)
    assert lending and abs(len(borrowed) / len(lending) - share) <= (0.25 if share == 0.5 else 0.0)


def test_all_codes_may_be_the_source_voices(coded: Path, monkeypatch) -> None:
    """As a talker's are: of pairs in which it said the sentence, either voice is made from its codes."""
    recipe = at("dit", coded, source=0.0, lent=1.0, other_voice=0.0, batch_size=50)
    monkeypatch.setattr(recipe, "examples", lambda chosen, clips, rng: chosen)
    chosen = recipe.batch(0)
    assert all(heard.speaker == "heart" and heard.text == said.text for said, heard in chosen)
    assert {said.speaker == "heart" for said, _ in chosen} == {True, False}


def test_the_dit_may_learn_from_the_source_voice_alone(coded: Path, monkeypatch) -> None:
    recipe = at("dit", coded, source=0.5, other_voice=1.0, batch_size=3)
    monkeypatch.setattr(recipe, "examples", lambda chosen, clips, rng: chosen)
    alone = {clip.text for clip in speech_bank.solo("train", 0, 20)}
    batches = [recipe.batch(index) for index in range(40)]
    own = [all(said is heard and said.text in alone for said, heard in batch) for batch in batches]
    assert 10 <= sum(own) <= 30
    assert {said.speaker for batch, yes in zip(batches, own, strict=True) if yes for said, _ in batch} == {"heart"}
    assert [said.text for said, _ in recipe.batch(7)] == [said.text for said, _ in batches[7]]


def test_crops_keep_mel_and_codes_in_step(coded: Path) -> None:
    recipe = at("dit", coded, source=0.0, other_voice=0.0, batch_size=6)
    for index in range(3):
        batch = recipe.batch(index)
        assert batch["mel"].shape[1] == 96
        cut = recipe.tokenizer.config.window // 2 - 1  # codes that are chosen by frames before the crop
        assert torch.equal(recipe.tokenizer.codes(batch["mel"])[:, cut:], batch["codes"][:, cut:])


def test_the_talker_learns_the_source_voices_codes_under_anybodys_token(coded: Path) -> None:
    recipe = at("talker", coded, batch_size=32, longest=50, continued=0.5)
    tokenizer, clips = recipe.tokenizer, speech_bank.solo("train", 0, 4)
    expected = {clip.text: tokenizer.codes(clip.mel)[:50] for clip in clips}
    spoken = recipe.spoken(0, [])
    assert len(spoken) == 32 and len({s.speaker for s in spoken}) > 3
    for row in spoken:
        assert torch.equal(row.codes, expected[row.sample.answer]) and 0 <= row.given < len(row.codes)
    assert {row.given > 0 for row in spoken} == {False, True}
    assert all(row.given == 0 for row in at("talker", coded, continued=0.0).spoken(0, []))


def test_preferences_begin_with_the_talker_of_their_run(coded: Path) -> None:
    with pytest.raises(ConfigError, match="leave `start` empty"):
        at("talker_dpo", coded, start="elsewhere").build()


def test_a_cut_sentence_has_no_end(coded: Path) -> None:
    recipe = at("talker", coded, longest=20)
    end = recipe.config.talker_config.tts_codec_end_token_id
    conversation = recipes.said("A dog.")
    cut, whole = (recipes.Spoken(conversation, torch.arange(count), 0) for count in (20, 12))
    targets = recipe.pack([cut, whole])["targets"]
    assert (targets[0] == end).sum() == 0 and targets[1].tolist()[:13] == [*range(12), end]


def test_what_is_thought_is_neither_said_nor_in_the_talkers_context(coded: Path, tmp_path: Path) -> None:
    """As when it speaks: the context is the prompt, the reply what stands behind the thought."""
    shutil.copytree(coded, tmp_path / "parts")
    parts.save_part(tmp_path / "parts", "thinker_1", Thinker(NANO.thinker_config))
    parts.save_part(tmp_path / "parts", "talker", Talker(NANO.talker_config))
    recipe = at("joint", tmp_path / "parts")
    with torch.no_grad():
        model, tokenizer = recipe.build().eval(), processor().tokenizer
        question, codes = [user("What is two and two?")], torch.arange(5)
        thinks, knows = (
            recipes.Spoken(Sample(question, "spoken_reply", "four", thought=thought), codes, 0)
            for thought in ("two and two make four", "")
        )
        short = recipes.Spoken(Sample([user("A?")], "spoken_reply", "four"), codes, 0)
        batch = recipe.pack([thinks, knows, short])
        heard = model["thinker"](**batch["thinker"], logits_to_keep=0)
        context, reply = recipes.talker_view(model["thinker"], model["talker"], heard, batch)
        alone = recipe.pack([thinks])
        states = model["thinker"](**alone["thinker"], logits_to_keep=0)
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(context.input_ids, context.attention_mask, strict=True)]
    assert prompts[0] == prompts[1] and tokenizer.decode(prompts[0]).endswith("assistant\n")
    assert (context.attention_mask.diff(dim=1) >= 0).all(), "padded on the left alone"
    assert batch["reply_lengths"].tolist() == 3 * [len(tokenizer("four").input_ids)]
    said = (states.last_hidden_state + states.inputs_embeds)[0, alone["before"]]
    assert torch.allclose(reply[0, 0], said, atol=1e-5) and not torch.allclose(reply[1, 0], said, atol=1e-2)
    taught = batch["labels"][0][batch["labels"][0] != packing.IGNORED]
    assert "two and two make four" in tokenizer.decode(taught), "the thinker goes on learning to think"
    visual = {id(p) for p in model["thinker"].visual.parameters()}
    assert not any(id(p) in visual for group in recipe.groups(model)["main"] for p in group["params"])


def test_a_speakers_sentences_come_from_the_bank_and_others_are_said_anew(coded: Path, monkeypatch) -> None:
    alone = speech_bank.solo("train", 0, 20)
    pairs = tuple((replace(clip, speaker="hugo"), replace(clip, speaker="nobody")) for clip in alone[:2])
    monkeypatch.setattr(speech_bank, "shard", lambda split, number, count: pairs)
    live, banked = (
        at("speakers", coded, batch_size=16, sentences=20, longest=50, banked=banked).spoken(0, [])
        for banked in (False, True)
    )
    known = [row.sample.answer in {clip.text for clip in alone} for row in banked]
    assert {row.speaker for row, yes in zip(banked, known, strict=True) if yes} == {0, 1}
    for one, other, yes in zip(live, banked, known, strict=True):
        assert 0 < len(other.codes) <= 50
        assert one.sample.task == "say_this" if yes else torch.equal(one.codes, other.codes)
    assert {one.sample.task for one, yes in zip(live, known, strict=True) if not yes} == {"say_this", "spoken_reply"}
    banks = {scale: settings.banked for scale, settings in find("speakers").scales.items()}
    assert banks == {"smoke": False, "cpu": False, "t4": True, "gpu": True}


def test_the_recorded_prompts_are_aligned_before_there_are_workers_if_they_are_heard(coded: Path, monkeypatch) -> None:
    aligned: list[bool] = []
    monkeypatch.setattr(unit_selection, "places", lambda: aligned.append(True))
    at("hearing", coded, recorded=0.0).warm()
    assert not aligned
    at("hearing", coded).warm()
    assert aligned


def test_a_recipe_goes_on_from_parts_with_a_schedule_of_its_own(coded: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    talker, dit = Talker(NANO.talker_config), DiT(NANO.token2wav_config.dit_config)
    encoder = SpeakerEncoder(NANO.token2wav_config.dit_config)
    with pytest.raises(ConfigError, match="talker needs a trained part 'thinker_3' or"):
        at("talker", coded).build()
    parts.save_part(coded, "language", Thinker(NANO.thinker_config))
    with pytest.raises(ConfigError, match="talker needs the trained part 'talker'"):
        at("talker", coded, start=str(tmp_path)).build()
    for name, part in (("talker", talker), ("dit", dit), ("speaker_encoder", encoder)):
        parts.save_part(tmp_path, name, part)
    assert same_weights(at("talker", coded, start=str(tmp_path)).build()["talker"], talker)
    assert not same_weights(at("talker", coded).build()["talker"], talker)
    started = at("dit", coded, start=str(tmp_path)).build()
    assert same_weights(started["dit"], dit) and same_weights(started["speaker_encoder"], encoder)


def test_a_tokenizer_goes_on_from_the_codes_of_another(coded: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speech_tokenizer needs the trained part 'speech_tokenizer'"):
        at("speech_tokenizer", start=str(tmp_path)).build()
    torch.manual_seed(8)
    other = SpeechTokenizer(NANO.speech_tokenizer_config)
    parts.save_part(tmp_path, "speech_tokenizer", other)
    started = at("speech_tokenizer", start=str(tmp_path)).build()["tokenizer"]
    assert same_weights(started, other) and not same_weights(at("speech_tokenizer").build()["tokenizer"], other)
    assert all(p.requires_grad for p in started.parameters()), "discriminants learn on, too"


def test_hearing_can_listen_to_the_source_voice_more_often(tmp_path: Path) -> None:
    parts.save_part(tmp_path, "hearing", Thinker(NANO.thinker_config))
    shares = dict.fromkeys([*BESIDE, "timed"], 0.0)
    hearing = at("hearing", tmp_path, start=str(tmp_path), source=1.0, hidden=0, batch_size=3, **shares)
    hearing.build()  # from the part that it goes on from: the language model's is not there
    told = hearing.batch(0)["letters"]
    alone = [transcripts.spell(clip.text) for clip in speech_bank.solo("train", 0, 20)]
    assert [[i for i in row.tolist() if i >= 0] in alone for row in told] == [True] * 3


@pytest.mark.parametrize(
    ("share", "likely"),
    [
        ("", lambda text, bank: text in bank),
        ("questions", lambda text, bank: text not in bank and text[-1] in "?."),
        ("timed", lambda text, bank: text in {clip.text for n in range(2) for clip in phoneme_bank.shard(n, 20)}),
        ("recorded", lambda text, bank: set(re.findall(r"[\w'-]+", text.lower())) <= prompted()),
        ("prompts", lambda text, bank: set(re.findall(r"[\w'-]+", text.lower())) <= prompted()),
        ("music", lambda text, bank: music.parse(text) is not None),
    ],
)
def test_hearing_listens_to_what_the_bank_does_not_hold(coded: Path, share: str, likely) -> None:
    shares = dict.fromkeys([*BESIDE, "timed"], 0.0) | ({share: 1.0} if share else {})
    hearing = at("hearing", coded, batch_size=4, **shares)
    tokenizer = processor().tokenizer
    said = [tokenizer.decode(row[row != transcripts.NOTHING]) for row in hearing.batch(0)["words"]]
    bank = {clip.text for pair in speech_bank.drawn(hearing.settings, 0, 0)[0] for clip in pair}
    assert len(said) == 4 and all(likely(text, bank) for text in said), said
    assert torch.equal(hearing.batch(1)["words"], hearing.batch(1)["words"])


def prompted() -> set[str]:
    """Words of the recorded prompts."""
    return {word for text in recordings.transcripts("train") for word in re.findall(r"[\w'-]+", text.lower())} | {
        part for word in recordings.vocabulary() for part in re.findall(r"[\w'-]+", word.lower())
    }


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_thinker_can_listen_to_the_source_voice_more_often(coded: Path, share: float) -> None:
    thinker = at("thinker_2", coded, source=share, shards=1, sentences=20)
    heard = {thinker.sample("asr", "train", place).answer for place in range(12)}
    alone = {clip.text for clip in speech_bank.solo("train", 0, 100)}
    both = {clip.text for pair in speech_bank.shard("train", 0, 20) for clip in pair}
    assert heard & (alone if share else both) and not heard & ((both if share else alone) - (both & alone))


def test_the_vocoder_learns_on_mels_as_quiet_as_it_will_be_given(coded: Path) -> None:
    dit = NANO.token2wav_config.dit_config
    parts.save_part(coded, "dit", DiT(dit))
    parts.save_part(coded, "speaker_encoder", SpeakerEncoder(dit))
    (clip,) = speech_bank.solo("train", 0, 4)[:1]
    mels = [
        at("bigvgan", coded, temperature=temperature).predicted_mel(clip, [clip])
        for temperature in (parts.TEMPERATURE, parts.TEMPERATURE, 0.0)
    ]
    assert torch.equal(mels[0], mels[1]) and not torch.equal(mels[0], mels[2])
    assert at("bigvgan", coded).settings.temperature == parts.TEMPERATURE
    batch = at("bigvgan", coded, source=1.0, predicted=1.0, batch_size=2).batch(0)
    assert batch["mel"].isfinite().all() and batch["wave"].abs().max() > 0


def test_the_vocoder_can_learn_with_its_weights_rounded_as_they_will_be_stored(coded: Path) -> None:
    """It makes the sound of the stored weights, and every weight still learns."""
    recipe = at("bigvgan", coded, rounded=True)
    vocoder, mel = recipe.build()["vocoder"], torch.randn(1, 8, 80)
    made = recipe.vocode(vocoder, mel)
    made.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vocoder.parameters())
    plain = at("bigvgan", coded).vocode(vocoder, mel)
    with torch.no_grad():
        for p in vocoder.parameters():
            p.copy_(p.bfloat16().float())
    assert torch.equal(made, vocoder(mel)) and not torch.equal(made, plain)
