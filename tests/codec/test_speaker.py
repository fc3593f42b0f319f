"""ECAPA against the reference, enrolment from a recording, and the file of speakers."""

import math
import zipfile

import pytest
import torch

from omni_lab.codec import speaker
from omni_lab.codec.mel import mel_spectrogram
from omni_lab.codec.speaker import ECAPA, Speaker, SpeakerEncoder
from omni_lab.errors import CheckpointError, InputError

from ..comparison import relative
from .reference import DIT_CONFIGS, models, pair, randomise, reference_dit

torch.set_num_threads(1)
CONFIG = DIT_CONFIGS["nano's proportions"]


def voice(hertz: float, seconds: float, rate: int = 24_000, seed: int = 0) -> torch.Tensor:
    """A buzz of that pitch that swells and fades, with a little noise."""
    time = torch.arange(int(seconds * rate)) / rate
    buzz = sum(torch.sin(2 * math.pi * hertz * k * time) / k for k in range(1, 12))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return 0.1 * (buzz * (1.2 + torch.sin(2 * math.pi * 1.5 * time)) + 0.05 * noise)


@pytest.mark.parametrize("name", DIT_CONFIGS)
@pytest.mark.parametrize("frames", [8, 57])
@torch.no_grad()
def test_ecapa_agrees_with_the_reference(name, frames):
    config = DIT_CONFIGS[name]
    ours, reference = ECAPA(config), models.ECAPA_TimeDelayNet(reference_dit(config).config)
    pair(ours, reference)
    mel = torch.randn(2, frames, config.mel_dim, generator=torch.Generator().manual_seed(0))
    assert relative(ours(mel), reference(mel)) < 1e-5
    assert relative(ours(torch.zeros_like(mel)), reference(torch.zeros_like(mel))) < 1e-5


def test_ecapas_gradients_agree_with_finite_differences():
    model = ECAPA(DIT_CONFIGS["one head, no neighbours, three frames a code"]).double()
    randomise(model)
    mel = torch.randn(2, 7, 11, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]

    def vector(mel, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (mel,))

    assert torch.autograd.gradcheck(vector, (mel, *model.parameters()), fast_mode=True)


def test_the_speaker_encoder_learns_to_tell_voices():
    torch.manual_seed(0)
    encoder = SpeakerEncoder(CONFIG)
    clips = [mel_spectrogram(voice(hertz, 0.6, seed=seed)) for hertz in (110.0, 220.0) for seed in (0, 1)]
    mels = torch.stack(clips)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    for _ in range(15):
        vectors = encoder(mels)
        assert torch.allclose(vectors.square().mean(1), torch.ones(4), atol=1e-4)
        similarity = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
        loss = similarity[:2, 2:].mean() - similarity[0, 1] - similarity[2, 3]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert similarity[:2, 2:].max() < similarity[0, 1] - 0.5


def test_enrolment_from_any_rate_and_channel_count():
    encoder = SpeakerEncoder(CONFIG).eval()
    wave = voice(150.0, 6.0, 16_000)
    mono = speaker.enrol(wave, 16_000, encoder, bos_token=7)
    assert mono.bos_token == 7 and mono.cond.shape == (1, CONFIG.enc_emb_dim) and mono.ref_mel.shape == (1, 400, 80)
    again = speaker.enrol(wave.repeat(2, 1), 16_000, encoder, 7)
    assert torch.allclose(mono.cond, again.cond, atol=1e-4) and torch.allclose(mono.ref_mel, again.ref_mel, atol=1e-4)
    assert not mono.cond.requires_grad
    short = speaker.enrol(wave[:8000], 16_000, encoder, 7)
    assert short.ref_mel.shape == (1, 400, 80)
    assert torch.equal(short.ref_mel[0, :50], short.ref_mel[0, 50:100])  # half a second, eight times


@pytest.mark.parametrize("rate", [44_101, 24_000.5, 15_999.9])
def test_enrolment_at_odd_rates(rate):
    """Filters for the exact ratio would take gigabytes, or cannot be made at all."""
    encoder, near = SpeakerEncoder(CONFIG).eval(), round(rate, -2)
    wave = voice(150.0, 1.0, near)
    odd, even = speaker.enrol(wave, rate, encoder, 7), speaker.enrol(wave, near, encoder, 7)
    assert relative(odd.cond, even.cond) < 0.05


def test_the_reference_is_the_loudest_stretch():
    mel = torch.full((900, 3), -10.0)
    mel[333:733] = 0.0
    window = speaker.reference_window(mel)
    assert window.shape == (400, 3) and (window == 0).all()


@pytest.mark.parametrize(
    "wave, rate, message",
    [
        (torch.zeros(24_000), 24_000, "silent"),
        (torch.zeros(0), 24_000, "0.00 s"),
        (torch.rand(11_000), 24_000, "0.46 s"),
        (torch.rand(2, 3, 24_000), 24_000, "wave is"),
        (torch.ones(24_000, dtype=torch.int16), 24_000, "wave is"),
        (torch.rand(24_000), 0, "sample rate"),
        (torch.rand(24_000), 500, "sample rate"),
        (torch.rand(24_000), math.nan, "sample rate"),
        (torch.rand(24_000), "24 kHz", "sample rate"),
        (torch.full((24_000,), math.nan), 24_000, "finite"),
    ],
)
def test_recordings_that_make_no_speaker(wave, rate, message):
    with pytest.raises(InputError, match=message) as raised:
        speaker.enrol(wave, rate, SpeakerEncoder(CONFIG), 7)
    assert "\n" not in str(raised.value)


def test_speakers_go_through_their_file(tmp_path):
    made = {
        "Ada": Speaker(5, torch.randn(1, 192), torch.randn(1, 400, 80)),
        "Bo": Speaker(6, torch.zeros(1, 192), torch.zeros(1, 9, 80)),
    }
    path = tmp_path / "spk_dict.pt"
    speaker.save_speakers(path, made)
    assert [p.name for p in tmp_path.iterdir()] == ["spk_dict.pt"]
    assert {member.compress_type for member in zipfile.ZipFile(path).infolist()} == {zipfile.ZIP_DEFLATED}
    raw = torch.load(path, weights_only=True)
    assert raw["Ada"]["bos_token"] == 5 and set(raw["Bo"]) == {"bos_token", "cond", "ref_mel"}
    read = speaker.load_speakers(path)
    assert list(read) == ["Ada", "Bo"] and torch.equal(read["Ada"].cond, made["Ada"].cond)
    assert torch.equal(read["Ada"].ref_mel, made["Ada"].ref_mel) and read["Bo"].bos_token == 6


def test_files_that_hold_no_speakers(tmp_path):
    path = tmp_path / "spk_dict.pt"
    good = dict(bos_token=5, cond=torch.zeros(1, 192), ref_mel=torch.zeros(1, 9, 80))
    changes = [dict(cond=3), dict(ref_mel=torch.zeros(9, 80)), dict(bos_token="x"), dict(bos_token=torch.zeros(2))]
    changes += [dict(cond=Speaker(1, torch.zeros(1), torch.zeros(1)))]  # an object that would run code on loading
    wrong = [[1, 2], {"Ada": 3}, {"Ada": {}}, *({"Ada": good | change} for change in changes)]
    for content in [b"", b"not a file of torch", b"PK\x03\x04 cut short"]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"^[^\n]*spk_dict.pt[^\n]*$"):
            speaker.load_speakers(path)
    for content in wrong:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"^[^\n]*spk_dict.pt[^\n]*$"):
            speaker.load_speakers(path)
    with pytest.raises(CheckpointError, match="no such file"):
        speaker.load_speakers(tmp_path / "none.pt")


def test_speakers_are_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "spk_dict.pt").mkdir()
    with pytest.raises(CheckpointError, match="spk_dict.pt: cannot be written"):
        speaker.save_speakers(tmp_path / "spk_dict.pt", {})
    assert [path.name for path in tmp_path.iterdir()] == ["spk_dict.pt"], "nothing half-written is left"
