"""A conversation taken in while it is held: the same as all of it at once, and consistent whenever it is cut short."""

import threading
import time

import numpy as np
import pytest
import torch

from omni_lab.errors import InputError, MediaError
from omni_lab.processing import audio as sounds
from omni_lab.streaming import AudioChunk, Session, TextDelta
from omni_lab.streaming.hearing import MelFrames

from .conftest import QUICK

HOW = {"max_new_tokens": 10, "max_codes": 30, **QUICK}


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (112, 140, 3), dtype=np.uint8)


def packets(session, wave, size=1600):
    for start in range(0, len(wave), size):
        session.push(audio=wave[start : start + size])


def output(model, messages):
    inputs = model.moved(model.prepare(messages=messages))
    with torch.no_grad():
        out = model.thinker.prefill(**inputs)
        heard = model.talker.prefill(model.talker_context(out, inputs, model.voice("Ada")))
    return out, heard


def compare(model, session, messages):
    """Everything that a reply depends on, against the whole conversation prefilled at once."""
    whole, heard = output(model, messages)
    with torch.no_grad():
        session.reply(**HOW)
        memory = session.memory
        ours = memory.talk(session.voice)
    length = whole.cache.length
    assert memory.place.length == length
    torch.testing.assert_close(memory.output.logits, whole.logits, atol=2e-3, rtol=2e-3)
    assert memory.thinker.next_position.tolist() == whole.cache.next_position.tolist()
    for mine, theirs in ((memory.thinker, whole.cache), (memory.talker, heard.cache)):
        for a, b in zip(mine.keys, theirs.keys, strict=True):
            torch.testing.assert_close(a[:, :, :length], b[:, :, :length], atol=3e-3, rtol=3e-3)
    assert ours.position.tolist() == heard.position.tolist()
    assert ours.next_position.tolist() == heard.next_position.tolist()
    session.interrupt()


def test_log_mel_in_packets_is_that_of_the_clip(model):
    extractor, wave = model.processor.feature_extractor, noise(4.73)
    whole, mask = sounds.log_mel([wave], extractor, None)
    stream = MelFrames(extractor)
    pieces = []
    for start in range(0, len(wave), 777):
        stream.add(wave[start : start + 777])
        while stream.ready(200):
            pieces.append(stream.take(200))
    pieces.append(stream.take(stream.left()))
    mel = torch.cat(pieces, dim=1)
    torch.testing.assert_close(mel, whole[0, :, : int(mask.sum())], atol=2e-4, rtol=0)
    assert len(stream.samples) < 1000


@pytest.mark.parametrize(("rate", "size"), [(48000, 9600), (44100, 128), (24000, 1000), (8000, 1), (44101, 3000)])
def test_packets_at_another_rate_are_the_clip_resampled(model, rate, size):
    wave = np.random.default_rng(1).normal(0, 0.1, min(rate, 300 * size)).astype(np.float32)
    stream = MelFrames(model.processor.feature_extractor)
    for start in range(0, len(wave), size):
        stream.add(wave[start : start + size], rate)
        assert len(stream.packets.samples) <= size + 4 * stream.packets.reach + 2 * stream.packets.into
    stream.finish()
    whole = sounds.resample(wave, rate, 16000)
    assert stream.total == len(whole)
    np.testing.assert_allclose(stream.samples, whole, atol=1e-6)


def test_a_rate_that_changes_and_one_that_is_none_lose_nothing(model):
    stream, low, high = MelFrames(model.processor.feature_extractor), noise(0.5), noise(0.75, 1)
    stream.add(low)
    stream.add(high, 48000)
    with pytest.raises(InputError, match="sample rate of 3 Hz"):
        stream.add(low, 3)
    stream.add(low)
    stream.finish()
    np.testing.assert_allclose(
        stream.samples, np.concatenate((low, sounds.resample(high, 48000, 16000), low)), atol=1e-6
    )


def test_a_wrong_setting_of_a_reply_loses_no_question(model):
    session = Session(model, "Ada", **HOW)
    session.push(text="Who are you?")
    session.push(audio=noise(1.0))
    for wrong in (dict(speaker="Ben"), dict(max_codes=0), dict(max_new_tokens=-1)):
        with pytest.raises(InputError, match="unknown argument|at least 1"):
            session.reply(**wrong)
    with pytest.raises(InputError, match="unknown argument 'typo'"):
        Session(model, typo=1)
    assert session.open and session.messages == []
    assert [type(event) for event in session.reply()], "the question is still there"
    assert [message["content"] for message in session.messages][0] == "Who are you? [sound]"


def test_what_waits_for_the_lock_while_a_reply_is_asked_for_interrupts_it(model):
    session = Session(model, "Ada", **HOW)
    session.push(text="Hi.")
    with session.lock:
        pushing = threading.Thread(target=session.push, kwargs=dict(text="Wait!"))
        pushing.start()
        time.sleep(0.2)  # it waits for the lock
        reply = session.reply()
    pushing.join(60)
    assert not pushing.is_alive() and session.running is None
    assert list(reply) == [] and session.open and "Wait!" in session.text
    list(session.reply())
    assert [message["role"] for message in session.messages] == ["user", "assistant", "user", "assistant"]


def test_text_picture_and_sound_in_pieces_are_the_whole(model):
    session = Session(model, "Ada", **HOW)
    session.push(image=picture())
    wave = noise(5.3)
    packets(session, wave)
    session.push(text="What is it?")
    content = [
        {"type": "image", "image": picture()}, {"type": "audio", "audio": wave}, {"type": "text", "text": "What is it?"}
    ]  # fmt: skip
    compare(model, session, [{"role": "user", "content": content}])


def test_live_film_is_the_film_as_a_whole(model):
    session = Session(model, "Ada", **HOW)
    wave, frames = noise(6.0), [picture(i) for i in range(12)]
    for i in range(60):
        at = {"frame": frames[i // 5], "time": i / 10} if i % 5 == 0 else {}
        session.push(audio=wave[1600 * i : 1600 * (i + 1)], **at)
    session.push(text="What moved?")
    film = {"frames": np.stack(frames), "fps": 2.0, "audio": wave, "sample_rate": 16000}
    content = [{"type": "video", "video": film}, {"type": "text", "text": "What moved?"}]
    compare(model, session, [{"role": "user", "content": content}])


def test_video_file_is_that_of_the_processor(model, tmp_path):
    path = sorted((model.processor.folder.parents[1] / "video").glob("*.mp4"))[0]
    session = Session(model, "Ada", **HOW)
    session.push(video=path)
    session.push(text="Who spoke?")
    content = [{"type": "video", "video": path}, {"type": "text", "text": "Who spoke?"}]
    compare(model, session, [{"role": "user", "content": content}])


def test_second_turn_is_that_of_the_whole_conversation(model):
    session = Session(model, "Ada", **HOW)
    session.push(text="Hello.")
    reply = session.reply()
    list(reply)
    # Read the ids, not the text: random tokens need not be what the tokenizer would make of their text.
    session.push(text="And now?")
    tokenizer = model.processor.tokenizer
    first = model.processor.prompt([{"role": "user", "content": "Hello."}])
    ids = tokenizer.encode(first, add_special_tokens=False) + reply.ids
    ids += tokenizer.encode("<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n")
    with torch.no_grad():
        whole = model.thinker.prefill(input_ids=torch.tensor([ids]))
        heard = model.talker.prefill(
            model.talker_context(whole, {"input_ids": torch.tensor([ids])}, model.voice("Ada"))
        )
        session.reply(**HOW)
        ours = session.memory.talk(session.voice)
    torch.testing.assert_close(session.memory.output.logits, whole.logits, atol=2e-3, rtol=2e-3)
    for a, b in zip(session.memory.talker.keys, heard.cache.keys, strict=True):
        torch.testing.assert_close(a[:, :, : len(ids)], b[:, :, : len(ids)], atol=3e-3, rtol=3e-3)
    assert ours.position.tolist() == heard.position.tolist()
    assert [message["role"] for message in session.messages] == ["user", "assistant", "user"]


def test_little_is_left_to_do_when_the_question_ends(model):
    """30 s of sound and pictures, in packets of 100 ms: what remains is less than 15 % of all the work."""
    session = Session(model, "Ada", **HOW)
    wave, began = noise(30.0), time.thread_time()
    for i in range(300):
        at = {"frame": picture(i // 5), "time": i / 10} if i % 5 == 0 else {}
        if i == 299:
            before = time.thread_time()
        session.push(audio=wave[1600 * i : 1600 * (i + 1)], **at)
    session.reply(**HOW)
    end = time.thread_time()
    assert end - before < 0.15 * (end - began)
    session.close()


def test_barge_in_stops_the_reply_and_the_conversation_goes_on(model):
    session = Session(model, "Ada", max_new_tokens=400, max_codes=3000, **QUICK)
    session.push(text="Tell me a very long story.")
    heard, over = [], threading.Event()

    def listen():
        heard.extend(session.reply())
        over.set()

    thread = threading.Thread(target=listen)
    thread.start()
    while not any(isinstance(event, AudioChunk) for event in list(heard)):
        time.sleep(0.01)
    session.push(audio=noise(0.5))
    assert over.wait(5)
    thread.join()
    said = "".join(event.text for event in heard if isinstance(event, TextDelta))
    assert session.messages[-1] == {"role": "assistant", "content": said}
    session.push(text="Stop.")
    assert [type(e) for e in session.reply(**HOW)]
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 2
    assert session.memory.thinker.length == session.memory.place.length == session.memory.talker.length


def test_mistakes_take_the_turn_back_and_the_conversation_stays(model):
    session = Session(model, "Ada", **HOW)
    session.push(text="Hello.")
    list(session.reply())
    place = session.memory.place
    for wrong, error, words in (
        ({"audio": np.full(1600, np.nan)}, InputError, "not finite"),
        ({"audio": noise(600)}, InputError, "conversation is full"),
        ({"audio": np.zeros(0)}, InputError, "empty"),
        ({"image": b"garbage"}, MediaError, "not a picture|cannot"),
        ({"video": b"garbage"}, MediaError, "not|no such"),
        ({"frame": "nowhere.png"}, MediaError, "not|no such"),
        ({"text": 7}, InputError, "must be a string"),
    ):
        with pytest.raises(error, match=words):
            session.push(**wrong)
        assert session.memory.place == place
    with pytest.raises(InputError, match="nothing to answer"):
        session.reply()
    session.push(audio=noise(0.001))
    with pytest.raises(InputError, match="too short"):
        session.reply()
    session.push(audio=np.zeros(8000))  # silence is no mistake
    assert list(session.reply())
    session.push(audio=np.ones(8000) * 50)  # nor is clipping
    assert list(session.reply())


def test_memory_is_bounded_by_forgetting_old_turns(model):
    session = Session(model, "Ada", speak=False, max_tokens=160, max_new_tokens=12)
    for i in range(30):
        session.push(text=f"This is sentence {i} of many sentences.")
        list(session.reply())
        assert session.memory.place.length <= 160
    assert session.memory.thinker.capacity < 1024
    session.close()


def test_seven_ways_to_end_leave_no_thread(model):
    before = threading.active_count()
    for end in ("close", "stop", "interrupt", "drop", "with", "session", "whole"):
        session = Session(model, "Ada", **HOW)
        session.push(text="Hello.")
        reply = session.reply()
        next(reply)
        if end in ("close", "stop"):
            getattr(reply, end)()
        elif end == "interrupt":
            session.interrupt()
        elif end == "with":
            with reply:
                next(reply)
        elif end == "session":
            session.close()
        elif end == "whole":
            list(reply)
        del reply
    assert threading.active_count() == before
