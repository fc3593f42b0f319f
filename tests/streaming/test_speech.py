"""Codes to sound in chunks: what equals the whole, what it may differ by, and that no seam can be measured."""

import itertools

import pytest
import torch

from omni_lab.codec import packed_dit
from omni_lab.errors import InputError
from omni_lab.streaming.account import Account
from omni_lab.streaming.mel import NUM_STEPS, MelStream
from omni_lab.streaming.seams import seam_flux, seam_score
from omni_lab.streaming.speech import FIRST, Speech, WaveStream, chunk_blocks, crossfade

MEL_TOLERANCE = 3e-4  # of the mel's spread: what one block of look-ahead cannot see (measured: 6e-5 to 8e-5)
HALF_TOLERANCE = 1e-2  # of the first chunk's, which sees half as far (measured: 4e-3)
WAVE_TOLERANCE = 3e-3  # of the wave's (that, and the vocoder's shorter context)


@pytest.fixture(scope="module")
def spoken(model):
    """Codes, voice, noise, and mel and wave of the whole."""
    dit, vocoder = model.token2wav.code2wav_dit_model, model.token2wav.code2wav_bigvgan_model
    speaker = model.speakers["Ada"]
    with torch.no_grad():
        voice = dit.voice(speaker.cond, speaker.ref_mel)
        codes = torch.randint(0, 1000, (101,), generator=torch.Generator().manual_seed(5))
        noise = torch.randn(1, 202, 80, generator=torch.Generator().manual_seed(0))
        mel = dit.solve(codes[None], voice, noise, NUM_STEPS)
        return codes, voice, noise, mel, vocoder(mel)[0]


def stream_mel(model, spoken, plan, **how):
    mel = MelStream(model.token2wav.code2wav_dit_model, spoken[1], **how)
    mel.add(spoken[0].tolist())
    with torch.no_grad():
        return torch.cat([mel.advance(blocks, True)[0] for blocks in plan if mel.codes], dim=1)


def test_all_blocks_at_once_are_the_whole(model, spoken):
    torch.testing.assert_close(stream_mel(model, spoken, [9]), spoken[3], atol=2e-5, rtol=0)


def test_kept_keys_and_values_make_the_past_exact(model, spoken):
    """With a single network call the receptive field is all there is: one block at a time is then the whole."""
    dit = model.token2wav.code2wav_dit_model
    with torch.no_grad():
        whole = dit.solve(spoken[0][None], spoken[1], spoken[2], 2, solver="euler")
    torch.testing.assert_close(
        stream_mel(model, spoken, [1] * 9, num_steps=2, solver="euler", first_ahead=12), whole, atol=2e-5, rtol=0
    )


def test_look_ahead_of_one_block_is_nearly_enough_and_two_are_enough(model, spoken):
    def error(ahead):
        made = stream_mel(model, spoken, [1] * 9, ahead=ahead, first_ahead=12 * ahead)
        return float((made - spoken[3]).std() / spoken[3].std())

    none, one, two = error(0), error(1), error(2)
    assert two < 1e-5 < one < MEL_TOLERANCE < none


def test_half_a_block_of_look_ahead_is_enough_for_the_first_chunk(model, spoken):
    """It costs the first chunk a little more of what it cannot see, and those behind it next to nothing."""
    half, none = (stream_mel(model, spoken, [1] * 9, first_ahead=first) - spoken[3] for first in (6, 0))
    spread = spoken[3].std()
    assert float(half[:, :24].std() / spread) < HALF_TOLERANCE
    assert float(half[:, :24].std()) < 0.75 * float(none[:, :24].std())
    assert float(half[:, 24:].std() / spread) < MEL_TOLERANCE


def test_a_packed_network_streams_as_the_plain_one_does(model, spoken, monkeypatch):
    packed = stream_mel(model, spoken, [1, 2, 1, 5])
    monkeypatch.setattr(packed_dit, "packable", lambda *_: False)
    torch.testing.assert_close(packed, stream_mel(model, spoken, [1, 2, 1, 5]), atol=2e-5, rtol=0)
    dit = model.token2wav.code2wav_dit_model
    with torch.no_grad():  # the fixture's whole was packed
        torch.testing.assert_close(
            spoken[3], dit.solve(spoken[0][None], spoken[1], spoken[2], NUM_STEPS), atol=2e-5, rtol=0
        )


def test_wave_is_the_whole_one_within_the_tolerance(model, spoken):
    wave, borders = say(model, spoken)
    assert wave.shape == spoken[4].shape
    assert float((wave - spoken[4]).std() / spoken[4].std()) < WAVE_TOLERANCE
    assert len(borders) > 4


def say(model, spoken, margin=12, fade=0.01, ahead=1, first=FIRST):
    """Stream it code by code; the wave and where its chunks begin."""
    mel = MelStream(model.token2wav.code2wav_dit_model, spoken[1], ahead=ahead)
    waves = WaveStream(model.token2wav.code2wav_bigvgan_model, margin, fade)
    speech = Speech(mel, waves, Account(), 2, first=first)
    with torch.no_grad():
        pieces = [piece for code in spoken[0].tolist() if (piece := speech.add(code)) is not None]
        pieces += list(speech.finish())
    return torch.cat(pieces), list(itertools.accumulate(map(len, pieces)))[:-1]


def test_what_does_not_wait_for_the_look_ahead_changes_next_to_nothing(model, spoken):
    sketched, borders = say(model, spoken)
    whole, others = say(model, spoken, first=None)
    assert borders[0] == FIRST * 240 and borders[1:] == others and others[0] == 24 * 240
    assert float((sketched - whole).std() / spoken[4].std()) < WAVE_TOLERANCE
    torch.testing.assert_close(sketched[24 * 240 :], whole[24 * 240 :], atol=1e-5, rtol=0)
    mel = MelStream(model.token2wav.code2wav_dit_model, spoken[1], num_steps=2, solver="euler")
    speech = Speech(mel, WaveStream(model.token2wav.code2wav_bigvgan_model), Account(), first=FIRST)
    with torch.no_grad():
        pieces = {number: speech.add(code) for number, code in enumerate(spoken[0].tolist()[:19], start=1)}
        made = [(number, len(piece)) for number, piece in pieces.items() if piece is not None]
        assert made == [(12, FIRST * 240), (18, (24 - FIRST) * 240)]
        assert sum(map(len, speech.finish())) == 7 * 480, "what is left is not said"


@pytest.mark.parametrize("codes", [1, 11, 12, 13, 15, 17, 18])
def test_a_reply_that_ends_within_its_first_block_is_said_whole(model, spoken, codes):
    mel = MelStream(model.token2wav.code2wav_dit_model, spoken[1], num_steps=2, solver="euler")
    speech = Speech(mel, WaveStream(model.token2wav.code2wav_bigvgan_model), Account(), first=FIRST)
    with torch.no_grad():
        pieces = [piece for code in spoken[0].tolist()[:codes] if (piece := speech.add(code)) is not None]
        pieces += list(speech.finish())
    assert sum(map(len, pieces)) == codes * 480 and all(map(len, pieces))


def test_a_sketch_is_the_block_but_for_its_end_and_leaves_no_trace(model, spoken):
    dit = model.token2wav.code2wav_dit_model
    with torch.no_grad():
        once, twice = (MelStream(dit, spoken[1], noise=spoken[2].clone()) for _ in range(2))
        for stream in (once, twice):
            stream.add(spoken[0].tolist()[:12])
        sketch = twice.sketch()
        for stream in (once, twice):
            stream.add(spoken[0].tolist()[12:18])
        torch.testing.assert_close(once.advance(1), twice.advance(1), atol=0, rtol=0)
        assert sketch.shape == (1, 24, dit.config.mel_dim) and not twice.sketchable()
        with pytest.raises(InputError, match="a first block of 12 codes: 6 are known"):
            twice.sketch()


def test_no_seam_can_be_measured_but_a_bad_one_is(model, spoken):
    wave, borders = say(model, spoken)
    of_whole, _ = seam_flux(spoken[4], borders)
    at, elsewhere = seam_flux(wave, borders)
    assert at < 1.02 * of_whole, "chunking raises the flux at the borders"
    assert at < 1.25 * elsewhere
    # The measure must be able to fail: every chunk given a step, as independent chunks would have.
    broken = wave.clone()
    for border in borders:
        broken[border : border + 400] += 0.3
    assert seam_flux(broken, borders)[0] > 1.1 * of_whole


def test_of_many_seams_none_stands_out(model, spoken):
    """Every block a chunk of its own: the flux at the borders ranks as elsewhere, within 3 standard deviations."""
    dit, vocoder = model.token2wav.code2wav_dit_model, model.token2wav.code2wav_bigvgan_model
    codes = torch.randint(0, 1000, (300,), generator=torch.Generator().manual_seed(6))
    quick = {"num_steps": 2, "solver": "euler"}
    speech = Speech(MelStream(dit, spoken[1], **quick), WaveStream(vocoder), Account(), 1, first=FIRST)
    with torch.no_grad():
        pieces = [piece for code in codes.tolist() if (piece := speech.add(code)) is not None]
        pieces += list(speech.finish())
        whole = vocoder(
            dit.solve(
                codes[None], spoken[1], torch.randn(1, 600, 80, generator=torch.Generator().manual_seed(0)), **quick
            )
        )[0]
    wave, borders = torch.cat(pieces), list(itertools.accumulate(map(len, pieces)))[:-1]
    assert len(borders) == 24 + 1  # of the blocks, and within the first of them
    assert seam_score(wave, borders) < 3
    assert seam_score(wave, borders) < seam_score(whole, borders) + 1, "chunking raises the flux at the borders"
    broken = wave.clone()
    for border in borders:
        broken[border : border + 400] += 0.3
    assert seam_score(broken, borders) > 3, "the measure cannot fail"


def test_chunks_grow_slower_than_the_sound_that_is_playing():
    spoken, sizes = 0, []
    while spoken < 24:
        sizes.append(chunk_blocks(spoken, 4))
        assert sizes[-1] <= max(1, spoken / 2)
        spoken += sizes[-1]
    assert sizes[:8] == [1, 1, 1, 1, 2, 3, 4, 4] and max(sizes) == 4


def test_state_stays_the_same_however_long_the_reply(model, spoken):
    mel = MelStream(model.token2wav.code2wav_dit_model, spoken[1], num_steps=2, solver="euler")
    wave = WaveStream(model.token2wav.code2wav_bigvgan_model)

    def held():
        kept = [t for pair in mel.past.values() for t in pair] + [mel.pending, wave.before, wave.beyond]
        return sum(t.untyped_storage().nbytes() for t in kept), len(mel.codes)

    sizes = []
    with torch.no_grad():
        for _ in range(12):
            mel.add(spoken[0].tolist()[:12])
            if mel.ready(1):
                wave.add(*mel.advance(1))
                sizes.append(held())
    assert len(set(sizes[1:])) == 1


def test_without_a_margin_nothing_of_the_past_is_kept(model, spoken):
    wave = WaveStream(model.token2wav.code2wav_bigvgan_model, 0)
    mel = spoken[3]
    for _ in range(3):
        assert len(wave.add(mel[:, :10], mel[:, :0])) == 10 * wave.vocoder.hop
        assert wave.before.shape[1] == 0


def test_crossfade_of_the_same_is_the_same():
    wave = torch.randn(50)
    torch.testing.assert_close(crossfade(wave[:20], wave), wave)
    torch.testing.assert_close(crossfade(wave[:0], wave), wave)
    assert len(crossfade(wave, wave[:10])) == 10


def test_wrong_codes_and_hasty_chunks_are_refused(model, spoken):
    mel = MelStream(model.token2wav.code2wav_dit_model, spoken[1])
    with pytest.raises(InputError, match="not in the table"):
        mel.add([5000])
    mel.add([1] * 12)
    with pytest.raises(InputError, match="only 12 codes are known"):
        mel.advance(1)
