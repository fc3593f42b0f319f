"""Words put together from the recorded person's sounds: of which, how few pieces, and whether they can be heard."""

from itertools import groupby

import numpy as np
import pytest

from omni_lab.data import recordings, speech, spoken, unit_selection, word_cuts
from omni_lab.data.splits import generator
from omni_lab.evaluate import ears

LEXICON = [word for word in recordings.vocabulary() if any(map(str.isalnum, word))]


def sounds(track: np.ndarray) -> list[int]:
    """The phonemes of a track, one a stretch, without silence."""
    return [i for i, _ in groupby(track.tolist()) if i]


def test_every_word_of_the_lexicon_can_be_said_and_few_sounds_are_lost():
    lost = 0
    for place, word in enumerate(LEXICON):
        made = unit_selection.said(word, generator("units", "train", 0, place))
        assert made is not None, word
        wave, track = made
        assert len(wave) == 160 * len(track) and np.isfinite(wave).all() and np.abs(wave).max() <= 2
        lost += sounds(track) != unit_selection.chain(word)[1:-1]
    assert lost < 0.05 * len(LEXICON)


def test_what_is_played_is_training_s_recordings_in_as_few_pieces_as_it_takes():
    pieces = []
    for place, word in enumerate(LEXICON[::9]):
        rng = generator("units", "train", 1, place)
        joins = unit_selection.chosen(unit_selection.chain(word), rng)
        played = unit_selection.stretches(joins)
        for prompt, first, last in played:
            assert 0 <= first < last <= len(unit_selection.of_prompt(prompt)[0])
        said = [runs[2] - runs[1] for runs in (unit_selection.runs(p)[n] for (p, n), _ in joins)]
        assert len(said) == len(unit_selection.chain(word)) - 1
        pieces.append(len(played) / len(joins))
    assert np.mean(pieces) < 0.6  # a pair of phonemes each would be 1, and their halves 2


def test_a_phoneme_that_no_prompt_has_is_not_said(monkeypatch: pytest.MonkeyPatch):
    number = speech.PHONEMES.index("ʒ") + 1
    assert number not in unit_selection.places()[1]
    assert unit_selection.said("vision", generator("units", "train", 2, 0)) is None
    assert unit_selection.phrase("Your vision.", generator("units", "train", 2, 0)) is None
    assert unit_selection.phrase("...", generator("units", "train", 2, 0)) is None


def test_an_independent_recogniser_hears_what_is_said():
    """Two words a time that tell nothing of each other, by letters; backwards it hears others."""
    from torchaudio.functional import edit_distance

    rng, long = generator("units", "train", 3, 0), [word for word in LEXICON if word.isalpha() and len(word) > 5]
    pairs = [" ".join(long[int(i)] for i in rng.integers(len(long), size=2)) for _ in range(24)]
    made = [unit_selection.phrase(pair, rng)[1] for pair in pairs]

    def missed(waves: list[np.ndarray]) -> float:
        heard = zip(pairs, ears.write_all_down(waves, 16_000), strict=True)
        wrong = [edit_distance(list(pair), list(text.lower()[: 2 * len(pair)])) for pair, text in heard]
        return sum(wrong) / sum(map(len, pairs))

    forward, backward = missed(made), missed([wave[::-1].copy() for wave in made])
    assert forward < 0.6 < 0.75 < backward, (forward, backward)


def test_the_recorded_person_is_made_to_say_none_of_the_tests_prompts():
    rng = generator("units", "train", 4, 0)
    heard = {word_cuts.key_of(spoken.recorded(rng)[0]) for _ in range(400)}
    assert not heard & word_cuts.tested()
    known = {prompt.key for prompt in recordings.prompts("train")}
    words = {word for prompt in recordings.prompts("train") for word in word_cuts.key_of(prompt.text).split()}
    assert sum(not set(text.split()) <= words for text in heard) > 30  # words that training's prompts lack
    assert len(heard & known) > 20
