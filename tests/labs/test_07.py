"""The student-built streamer passes the package's own tests, on toy sound, on speech, and on the DiT and vocoder."""

from pathlib import Path

import pytest
import torch

from omni_lab.codec.bigvgan import BigVGAN
from omni_lab.codec.speech_tokenizer import nearest, pairs
from omni_lab.config import BigVGANConfig
from omni_lab.errors import InputError
from omni_lab.lab import codebook, codec_parts, streamer
from omni_lab.lab.authoring import load_lab
from omni_lab.streaming.account import Account
from omni_lab.streaming.mel import MelStream
from omni_lab.streaming.speech import Speech, WaveStream

LAB = load_lab(Path(__file__).parents[2] / "solutions" / "exercises" / "07_streaming_codec.py")
STREAM = LAB.answers["codec.stream"].solution
WAYS = {"student": STREAM, "package": streamer.packaged}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def parts():
    """DiT, voice and vocoder with random weights, small."""
    torch.manual_seed(0)
    dit = codec_parts.small_dit(64, 3).eval()
    vocoder = BigVGAN(BigVGANConfig(upsample_initial_channel=64)).eval()
    with torch.no_grad():
        voice = dit.voice(torch.randn(1, 192), torch.randn(1, 60, 80))
    return dit, voice, vocoder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("block", "ahead", "blocks"), [(4, 1, 6), (12, 1, 3), (3, 2, 5), (4, 0, 4)])
def test_same_codes_bounded_state_no_seams_first_sound_in_time(way, block, ahead, blocks):
    found = streamer.examine(WAYS[way], block, ahead, blocks)
    # Without look-ahead nothing lies beyond a chunk's end, so that there is nothing to fade from.
    assert found.passed if ahead else found.codes and found.samples and found.first == block == found.held


def test_the_tests_find_what_is_wrong():
    found = {name: streamer.examine(function) for name, _, function in LAB.answers["codec.stream"].wrong[:-1]}
    assert not any(f.passed for f in found.values()), [n for n, f in found.items() if f.passed]
    assert found["waits_for_all"].first > found["waits_for_all"].expected
    assert found["seams"].seams > 10 and found["end_is_missing"].codes is False


def test_empty_chunks_are_no_sound():
    def waiting(codec):
        for place, chunk in enumerate(streamer.packaged(codec)):
            yield from [torch.empty(0)] * place
            yield chunk
        yield torch.empty(0)

    assert streamer.examine(waiting) == streamer.examine(streamer.packaged)
    assert not streamer.examine(lambda codec: iter([torch.empty(0)])).passed


def test_some_sentences_are_held_out_and_some_are_left():
    heard, unheard = codec_parts.clips(held_out=0)
    assert len(heard) == 96 and unheard == []
    assert [len(part) for part in codec_parts.clips(held_out=95)] == [1, 95]
    for count in (96, 200, -1):
        with pytest.raises(InputError, match=f"of 96 sentences {count} cannot be held out"):
            codec_parts.clips(held_out=count)
    with pytest.raises(InputError, match="0 moments of speech cannot make 8 codes"):
        codec_parts.teach_tokenizer(codec_parts.small_tokenizer(8), [], 1)


@torch.no_grad()
@pytest.mark.parametrize("count", [60, 29, 5])
def test_student_and_package_stream_the_same_sound_through_dit_and_vocoder(parts, count):
    dit, voice, vocoder = parts
    codes = [int(c) for c in torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(1))]
    how = {"num_steps": 3, "solver": "euler"}
    own = torch.cat(list(STREAM(streamer.real_codec(codes, dit, voice, vocoder, **how))))
    speech = Speech(MelStream(dit, voice, **how), WaveStream(vocoder), Account(), most_blocks=1)
    theirs = [samples for code in codes if (samples := speech.add(code)) is not None]
    theirs = torch.cat([*theirs, *speech.finish()])
    assert own.shape == theirs.shape == (count * 480,)
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-5)


def test_a_codec_takes_no_more_than_its_window():
    codec = streamer.toy_codec(list(range(20)), block=3, ahead=1)
    with pytest.raises(ValueError, match="7 codes at once, expected 1 to 6"):
        codec.render(list(range(7)))


@torch.no_grad()
def test_griffin_lim_keeps_the_mel_and_its_seams_are_faded_away():
    clip = codec_parts.clips()[1][0]
    mel, vocoder = clip.mel[:144], codec_parts.GriffinLim(8)
    wave = torch.cat(list(STREAM(streamer.mel_codec(mel, vocoder))))
    naive = torch.cat([vocoder(piece[None])[0] for piece in mel.split(24)])
    assert wave.shape == naive.shape == (144 * 240,)
    places = torch.arange(24 * 240 - 1, len(wave) - 1, 24 * 240)
    jumps = [w.diff().abs()[places].mean() / w.diff().abs().mean() for w in (naive, wave)]
    assert jumps[1] < jumps[0]


def test_a_small_tokenizer_learns_as_well_as_k_means_and_says_when_it_heard_too_little():
    heard, unheard = codec_parts.clips()
    tokenizer = codec_parts.small_tokenizer(64)
    losses = codec_parts.teach_tokenizer(tokenizer, heard[:12], 60, batch=6)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    moments = torch.cat([pairs(clip.mel) for clip in heard[:12]])
    again = pairs(tokenizer.mel(tokenizer.codes(moments.reshape(-1, 80))))
    centres = codebook.k_means(moments, 64)
    error = (centres[nearest(moments, centres)] - moments).square().mean()
    assert (again - moments).square().mean() < 1.15 * error
    codes = tokenizer.codes(unheard[0].mel)
    average = torch.cat([clip.mel for clip in heard[:12]]).mean(0)
    off = [(guess - unheard[0].mel).abs().mean() for guess in (tokenizer.mel(codes), average)]
    assert len(codes.unique()) > 16 and off[0] < 0.6 * off[1]
    with pytest.raises(InputError, match="cannot make 4096 codes"):
        codec_parts.teach_tokenizer(codec_parts.small_tokenizer(4096), heard[:1], 1)


def test_a_small_dit_learns(parts):
    heard, _ = codec_parts.clips()
    torch.manual_seed(0)
    tokenizer, dit = codec_parts.small_tokenizer(64), codec_parts.small_dit(32, 2, 64)
    codec_parts.teach_tokenizer(tokenizer, heard[:4], 5)
    losses = codec_parts.teach_dit(dit, tokenizer, heard[:4], 30, batch=4, frames=48)
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
