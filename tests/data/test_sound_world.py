"""What is said of a sound is in the sound: voices, order of events, key and tempo, sentences and their translations."""

import itertools
import json

import numpy as np
import pytest

from omni_lab.data import bank, build, music, recordings, sentences, sounds, speech, texts, words
from omni_lab.data.splits import generator
from omni_lab.errors import DataError, MediaError

RATE = 24_000
LINE = "The lion is left of the moon."


def pitch_of(wave: np.ndarray) -> float:
    """Median fundamental of the loud frames, in Hz, by autocorrelation."""
    found = []
    for begin in range(0, len(wave) - 2400, 1200):
        frame = wave[begin : begin + 2400]
        if np.sqrt(np.mean(frame**2)) < 0.05:
            continue
        product = np.correlate(frame, frame, "full")[2399:]
        lags = slice(RATE // 450, RATE // 60)
        found.append(RATE / (lags.start + int(np.argmax(product[lags]))))
    return float(np.median(found))


def test_a_microphone_changes_the_colour_of_a_voice_and_nothing_else():
    wave, rng = speech.heard(speech.say(LINE)), np.random.default_rng(0)
    clear = np.abs(np.fft.rfft(wave)) ** 2
    tilts = []
    for _ in range(24):
        heard = speech.in_any_room(wave, rng)
        assert heard.dtype == np.float32 and np.isfinite(heard).all()
        assert len(wave) <= len(heard) <= len(wave) + 0.4 * 16_000 and np.abs(heard).max() < 1.3
        power = np.abs(np.fft.rfft(heard, len(wave))) ** 2
        bass, treble = slice(1, len(power) // 20), slice(len(power) // 3, None)  # below 400 Hz, above 2.7 kHz
        tilts.append(np.log(power[bass].sum() / power[treble].sum() * clear[treble].sum() / clear[bass].sum()))
    plain = [speech.in_a_room(wave, rng) for _ in range(3)]
    assert all(np.abs(x).max() < 1.3 for x in plain) and np.std(tilts) > 0.7  # nepers
    silent = speech.in_any_room(np.zeros(8000, np.float32), rng)
    assert np.isfinite(silent).all()


def test_a_speaker_has_the_pitch_that_the_table_says_and_is_the_same_on_every_call():
    curve = np.array([0, 180, 220, 200, 0], np.float32)  # Hz; 0 is unvoiced
    assert np.allclose(speech.bend(curve, 0.5, 1.0), curve / 2)
    assert np.ptp(speech.bend(curve, 1.0, 0.5)[1:4]) < 0.6 * np.ptp(curve[1:4])
    base = pitch_of(speech.say(LINE, "heart"))
    for name in ("hugo", "pia", "theo"):  # a rough measure: frames that are half voiced pull it about
        assert pitch_of(speech.say(LINE, name)) / base == pytest.approx(speech.SPEAKERS[name].pitch, rel=0.2)
    assert np.array_equal(speech.say(LINE, "mina", seed=3), speech.say(LINE, "mina", seed=3))
    assert len(speech.say(LINE, speed=1.25)) < 0.9 * len(speech.say(LINE))
    with pytest.raises(DataError, match="nothing to say"):
        speech.say("...!")


def test_shipped_speech_is_what_its_table_says():
    found = speech.shipped()
    assert len(found) == 96 and {s.about["speaker"] for s in found} == set(speech.REPLY_SPEAKERS)
    seconds = sum(len(s.wave) for s in found) / RATE
    assert 200 < seconds < 400 and all(np.isfinite(s.wave).all() for s in found)


def test_a_bank_comes_back_and_its_damage_is_named(tmp_path):
    path = tmp_path / "some.opus"
    tone = 0.5 * np.sin(np.arange(16_000) * 0.2).astype(np.float32)
    bank.write(path, [bank.Sound("low", tone, {"label": "a"}), bank.Sound("short", tone[:800], {"label": "b"})], 16_000)
    low, short = bank.read(path)
    assert (len(low.wave), len(short.wave), short.about) == (16_000, 800, {"label": "b"})
    assert np.abs(np.fft.rfft(low.wave)).argmax() == pytest.approx(np.abs(np.fft.rfft(tone)).argmax(), abs=1)
    path.write_bytes(b"OggS" + bytes(100))
    with pytest.raises(MediaError, match=r"some\.opus"):
        bank.read(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(DataError, match=r"some\.json: damaged"):
        bank.read(path)


def test_transcripts_are_words_only():
    notes = "; comment\nbeep: [a tone]\na: Press 1 for sales...\nb: Please press 162\nc: hello"
    assert build.transcripts(notes) == [("a", "Press one for sales"), ("c", "Hello")]
    assert all(p.text and len(p.wave) >= 0.3 * 16_000 for p in recordings.everything())


def test_the_first_of_two_sounds_comes_first():
    for index in range(12):
        sample = sounds.audio_order(generator("order", "train", 0, index), "train")
        wave = sample.messages[0]["content"][0]["audio"]
        loud = np.abs(wave).reshape(-1, 1600).max(1) > 0.05  # tenths of a second
        assert loud[:5].any() and loud[16:26].any() and sample.answer in sample.meta["options"]


def test_two_sounds_of_the_test_are_never_met_together_in_training_in_either_order():
    def pair(split, index):
        return tuple(sounds.audio_order(generator("order", split, 0, index), split).meta["sounds"])

    pairs = {split: [pair(split, index) for index in range(150)] for split in ("train", "test")}
    assert {frozenset(pair) for pair in pairs["train"]}.isdisjoint(frozenset(pair) for pair in pairs["test"])
    met = set(pairs["test"])
    assert any((b, a) in met for a, b in met), "both orders are asked"


def test_music_has_its_key_and_tempo():
    piece = music.Piece(key=9, mode="minor", beats=4, tempo=120)  # A minor
    wave = music.render(piece, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    frequencies = np.fft.rfftfreq(len(wave), 1 / 16_000)
    heard = (frequencies > 100) & (frequencies < 2000)
    semitone = np.round(12 * np.log2(frequencies[heard] / 261.63)).astype(int) % 12
    chroma = np.bincount(semitone, spectrum[heard], minlength=12)
    scale = {(9 + step) % 12 for step in music.SCALES["minor"]}
    assert sum(chroma[n] for n in scale) > 0.8 * chroma.sum()
    loudness = np.abs(wave).reshape(-1, 160).max(1)  # hundredths of a second
    rise = np.maximum(np.diff(loudness), 0)
    rise -= rise.mean()
    product = np.correlate(rise, rise, "full")[len(rise) - 1 :]
    assert abs(int(np.argmax(product[30:75])) + 30 - 50) <= 1  # a beat is half a second
    assert music.parse(piece.words) == ("a minor", "4/4", 120.0) and music.parse("nothing") is None


@pytest.mark.parametrize("german, english", [
    ("Der Hund ist links von der Katze.", "The dog is left of the cat."),
    ("Ich sehe den Hund und die Katze.", "I see the dog and the cat."),
    ("Die Katze ist unter dem Löwen.", "The cat is below the lion."),
])  # fmt: skip
def test_german_bends_its_articles(german, english):
    def all_pairs():
        chosen = [words.BY_WORD[w] for w in ("dog", "cat", "lion")]
        for one, other in itertools.permutations(chosen, 2):
            for index in range(12):
                for make in (sentences._seen, sentences._placed):
                    yield make(generator("g", "train", 0, index), one, other, "de")

    assert (english, german) in set(all_pairs())


def test_french_and_spanish_contract():
    assert sentences.contract("à gauche de le chien") == "à gauche du chien"
    assert sentences.contract("encima de el perro") == "encima del perro"
    assert sentences.contract("à gauche de la souris") == "à gauche de la souris"


def test_facts_and_sums_are_right():
    for index in range(300):
        _, asked = texts.question_and_answer(generator("facts", "train", 0, index), "train")
        question, answer, kind, thought = asked
        numbers = [words.NUMBERS.index(w) for w in question.lower().strip("?.").split() if w in words.NUMBERS]
        if kind == "sum":
            assert int(answer) == sum(numbers) and thought == f"{numbers[0]} + {numbers[1]}"
        if kind == "difference":
            assert int(answer) == abs(numbers[0] - numbers[1]) and thought == f"{max(numbers)} - {min(numbers)}"
    assert texts.facts("bee") == "The bee is an insect. It has six legs. It lives in the air. It says buzz."


def test_data_command_shows_samples(capsys):
    from omni_lab.cli import main

    assert main(["data", "show", "text_qa", "--count", "2"]) == 0
    assert capsys.readouterr().out.count("->") == 2
    assert main(["data", "show", "nonsense"]) == 1
    assert main(["data", "build", "nonsense"]) == 1
    assert capsys.readouterr().err.count("\n") == 2


def test_shipped_videos_as_the_models_processor_sees_them():
    from omni_lab.data import readers
    from omni_lab.data.folders import samples_folder
    from omni_lab.processing.processor import OmniProcessor

    processor = OmniProcessor.from_pretrained(samples_folder() / "checkpoints" / "nano")
    folder = samples_folder() / "video"
    about = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    clips = list(readers.videos(folder))
    assert [clip.answer for clip in clips] == [entry["answer"] for entry in about] and len(clips) == 12
    for clip, entry in list(zip(clips, about, strict=True))[::5]:
        path = [{"role": "user", "content": [{"type": "video", "video": str(folder / entry["file"])}]}]
        for messages in (clip.messages, path):
            inputs = processor(messages=messages, use_audio_in_video=True, longest_audio=True)
            assert inputs["video_grid_thw"].tolist() == [[4, 8, 8]]  # four seconds, 112 x 112 pixels
            assert float(inputs["video_second_per_grid"][0]) == pytest.approx(1.0)
            assert ("input_features" in inputs) == (entry["task"] != "video_order")
