"""What is streamed equals what is generated at once; it stops when told to; its time is accounted for."""

import threading

import pytest
import torch

from omni_lab.errors import InputError
from omni_lab.sampling import Sampling
from omni_lab.streaming import SOURCES, AudioChunk, TextDelta, stream
from omni_lab.streaming.reply import in_bursts

from .conftest import QUICK

QUESTION = "What is on the left? Tell me."


def split(events):
    """Text, sound, number of chunks."""
    events = list(events)
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    chunks = [e.samples for e in events if isinstance(e, AudioChunk)]
    return text, torch.cat(chunks) if chunks else torch.empty(0), len(chunks)


@pytest.mark.parametrize("drawn", [False, True])
def test_text_and_codes_are_those_of_generate(model, drawn):
    how = {"max_new_tokens": 24, "max_codes": 40, "seed": 3, **QUICK}
    if drawn:
        how["sampling"] = Sampling(1.0, 40, 0.9, 1.1)
    whole = model.generate(QUESTION, **how)
    reply = model.stream(QUESTION, **how)
    text, sound, chunks = split(reply)
    assert text == reply.text == whole.text
    assert reply.codes == whole.codes.tolist()
    assert reply.ids == whole.ids.tolist()
    assert sound.shape == whole.audio.shape and chunks > 1


def test_sound_starts_before_the_text_has_ended(model):
    how = {"max_new_tokens": 60, "max_codes": 60, "talker_sampling": never_ending(model), **QUICK}
    kinds = [type(event) for event in model.stream(QUESTION, **how)]
    assert kinds[0] is TextDelta
    assert TextDelta in kinds[kinds.index(AudioChunk) :]


def never_ending(model):
    return Sampling(0.9, 40, 0.8, 1.05, (model.config.talker_config.tts_codec_start_token_id, *model.talker.end_tokens))


def test_the_thinker_writes_in_bursts():
    drawn = []
    vectors = in_bursts((drawn.append(i) or i for i in range(7)), 3, 2)
    assert [(next(vectors), len(drawn)) for _ in range(7)] == [(0, 3), (1, 3), (2, 3), (3, 5), (4, 5), (5, 7), (6, 7)]


def test_text_alone(model):
    whole = model.generate(QUESTION, speak=False, max_new_tokens=12)
    text, sound, _ = split(stream(model, QUESTION, speak=False, max_new_tokens=12))
    assert text == whole.text and not len(sound)


def test_stop_from_another_thread_ends_it_and_close_frees_it(model):
    ended = []
    reply = model.stream(QUESTION, max_new_tokens=200, ended=ended.append, **QUICK)
    next(reply)
    thread = threading.Thread(target=reply.stop)
    thread.start()
    thread.join()
    assert list(reply) == [] and ended == [reply]
    reply.close()
    assert ended == [reply], "it ended twice"
    assert reply.events.gi_frame is None, "the generator still holds its caches"


def test_an_error_inside_frees_it_too(model):
    reply = model.stream(QUESTION, max_new_tokens=8, noise=torch.zeros(1, 2, 80), max_codes=40, **QUICK)
    with pytest.raises(InputError, match="noise given ends"):
        list(reply)
    assert reply.over and list(reply) == []


def test_mistakes_are_named_at_once(model):
    for wrong, words in (
        ({"speaker": "Zoe"}, "no speaker named"),
        ({"max_codes": 0}, "at least 1"),
        ({"margin": -1}, "margin is -1"),
        ({"fade": -0.1}, "fade is -0.1"),
        ({"first_ahead": -2}, "first_ahead is -2"),
        ({"ahead": 0.5}, "ahead is 0.5"),
        ({"most_blocks": 0}, "most_blocks is 0"),
        ({"steps": 3}, "unknown argument 'steps'"),
    ):
        with pytest.raises(InputError, match=words):
            model.stream(QUESTION, **wrong)
    with pytest.raises(InputError):
        model.stream()


def test_sources_of_delay_add_up_to_the_first_sound(model):
    reply = model.stream(QUESTION, max_new_tokens=8, max_codes=60, talker_sampling=never_ending(model), **QUICK)
    list(reply)
    account = reply.account
    sources = account.sources()
    assert tuple(sources) == SOURCES
    assert sum(list(sources.values())[:3]) == pytest.approx(account.marks["first sound"], abs=1e-6)
    ordered = sorted((start, end) for _, start, end in account.spans)
    assert all(a[1] <= b[0] + 1e-9 for a, b in zip(ordered, ordered[1:], strict=False)), "work is counted twice"
    spoken = sum(code <= model.config.token2wav_config.dit_config.num_embeds for code in reply.codes)
    assert account.codes == len(reply.codes) == 60 and account.seconds == pytest.approx(spoken / 50)
    assert all(name in account.table() for name in SOURCES)
