"""The audible mark of enrolled voices: there by default, the same in chunks, found in speech and in nothing else."""

import pytest
import torch

from omni_lab.codec import disclosure, speaker
from omni_lab.codec.speaker import Speaker, SpeakerEncoder
from omni_lab.codec.token2wav import Token2Wav
from omni_lab.config import preset
from omni_lab.data import speech
from omni_lab.errors import InputError
from omni_lab.streaming.account import Account
from omni_lab.streaming.speech import Speech

CONFIG = preset("nano").token2wav_config


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_a_tone_is_measured_whatever_its_phase() -> None:
    time = torch.arange(24_000).double() / 24_000
    for phase in (0.0, 1.0, 2.5):
        wave = 0.3 * torch.sin(2 * torch.pi * 2500 * time + phase)
        level = disclosure.tone_level(wave, 24_000, 2500.0, 1920)
        assert level.shape == (12,) and torch.allclose(level, torch.full((12,), 0.3).double(), atol=1e-6)
        assert disclosure.tone_level(wave, 24_000, 3000.0, 1920).max() < 1e-6


def test_the_mark_is_found_in_speech_wherever_it_is_cut_and_in_no_other() -> None:
    clips = [torch.from_numpy(s.wave.copy()) for s in speech.shipped()[:40]]
    clips = [clip for clip in clips if len(clip) > 2.5 * 24_000]
    assert len(clips) > 20
    for number, clip in enumerate(clips):
        marked = disclosure.mark(clip)
        assert disclosure.found(marked) and disclosure.found(marked[317 * (number % 30) :])
        assert disclosure.found(marked[: 2 * 24_000]), "a period is enough"
        assert not disclosure.found(clip) and not disclosure.found(clip[: 2 * 24_000])
        assert (marked - clip).abs().max() <= disclosure.LEVEL + 1e-6 and marked.abs().max() <= 1
    assert not disclosure.found(torch.zeros(24_000)) and not disclosure.found(torch.zeros(72_000))


def test_chunks_carry_the_mark_of_the_whole() -> None:
    wave = 0.1 * torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0))
    pieces, start = [], 0
    for piece in wave.split(7_001, dim=1):
        pieces.append(disclosure.mark(piece, start=start))
        start += piece.shape[1]
    assert torch.equal(torch.cat(pieces, dim=1), disclosure.mark(wave))
    with pytest.raises(InputError, match="4000 Hz cannot hold"):
        disclosure.mark(wave, 4000)


def test_enrolment_discloses_unless_told_otherwise(tmp_path) -> None:
    encoder = SpeakerEncoder(CONFIG.dit_config).eval()
    wave = 0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(1))
    marked, plain = speaker.enrol(wave, 24_000, encoder, 7), speaker.enrol(wave, 24_000, encoder, 7, disclose=False)
    assert marked.disclosed and not plain.disclosed
    path = tmp_path / "spk_dict.pt"
    speaker.save_speakers(path, {"own": marked, "nobody": plain})
    loaded = speaker.load_speakers(path)
    assert loaded["own"].disclosed and not loaded["nobody"].disclosed
    assert set(torch.load(path, weights_only=True)["nobody"]) == {"bos_token", "cond", "ref_mel"}  # as the reference's


@torch.no_grad()
def test_offline_and_streamed_speech_of_a_disclosed_voice_are_marked() -> None:
    torch.manual_seed(0)
    codec = Token2Wav(CONFIG).eval()
    voice = Speaker(0, torch.randn(1, 192), torch.randn(1, 60, 80), disclosed=True)
    plain = Speaker(0, voice.cond, voice.ref_mel)
    codes, noise = torch.randint(0, 1024, (10,)), torch.randn(1, 20, 80)
    how = {"noise": noise, "num_steps": 2, "solver": "euler"}
    expected = disclosure.mark(codec(codes, speaker=plain, **how))
    assert torch.equal(codec(codes, speaker=voice, **how), expected) and len(expected) == 4800

    class Parts:
        """Chunks of a known wave."""

        codes, blocks = [0], 0

        def advance(self, blocks, ended):
            return torch.full((1, 24, 80), 0.1), None

        def add(self, mel, ahead):
            return mel[0, :, 0].repeat_interleave(240)

    for disclosed in (True, False):
        stream = Speech(Parts(), Parts(), Account(), disclosed=disclosed)
        made = torch.cat([stream.chunk(1) for _ in range(9)])
        whole = torch.full((9 * 24 * 240,), 0.1)
        assert torch.equal(made, disclosure.mark(whole) if disclosed else whole)
