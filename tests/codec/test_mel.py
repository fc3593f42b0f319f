"""The vocoder's mel spectrogram: geometry, the place of a tone, gradients, and bad input."""

import math

import pytest
import torch

from omni_lab.codec import mel
from omni_lab.errors import InputError


def tone(hertz: float, seconds: float = 0.5) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * mel.SAMPLE_RATE)) / mel.SAMPLE_RATE)


def test_a_hundred_frames_a_second_for_any_leading_shape():
    assert mel.mel_spectrogram(torch.zeros(24_000)).shape == (100, 80)
    assert mel.mel_spectrogram(torch.zeros(2, 3, 1200 + 239)).shape == (2, 3, 5, 80)
    assert mel.mel_spectrogram(torch.zeros(240)).shape == (1, 80)


def test_silence_is_the_floor_and_a_tone_peaks_in_its_band():
    assert torch.allclose(mel.mel_spectrogram(torch.zeros(2400)), torch.tensor(math.log(mel.LOG_FLOOR)))
    low, high = (mel.mel_spectrogram(tone(f))[25].argmax().item() for f in (300.0, 5000.0))
    centres = mel.mel_filters(80, torch.float32, torch.device("cpu")).argmax(0) * mel.SAMPLE_RATE / mel.WINDOW
    assert abs(centres[low] - 300) < 60 and abs(centres[high] - 5000) < 250


def test_a_frame_looks_at_its_own_place_only():
    wave = torch.zeros(9600)
    wave[4800] = 1.0
    moved = (mel.mel_spectrogram(wave) - mel.mel_spectrogram(torch.zeros(9600))).abs().amax(-1) > 1e-3
    assert moved.nonzero().squeeze(1).tolist() == list(range(18, 22))  # 1024 samples around sample 4800 of frame 20


def test_twice_as_loud_is_log_two_higher():
    wave = tone(1000.0)
    louder = mel.mel_spectrogram(2 * wave) - mel.mel_spectrogram(wave)
    peak = mel.mel_spectrogram(wave)[25].argmax()
    assert louder[25, peak].item() == pytest.approx(math.log(2), abs=1e-3)


def test_a_first_call_in_inference_mode_does_not_spoil_training():
    mel.mel_filters.cache_clear()
    with torch.inference_mode():
        mel.mel_spectrogram(tone(300.0))
    wave = tone(300.0).requires_grad_()
    mel.mel_spectrogram(wave).sum().backward()
    assert wave.grad.isfinite().all()


def test_gradient_agrees_with_finite_differences():
    wave = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: mel.mel_spectrogram(w), (wave,), fast_mode=True)


@pytest.mark.parametrize("wave", [torch.zeros(239), torch.zeros(0), torch.tensor(1.0), torch.full((480,), math.nan)])
def test_bad_waves_give_one_line(wave):
    with pytest.raises(InputError, match="^mel spectrogram: [^\n]*$"):
        mel.mel_spectrogram(wave)
