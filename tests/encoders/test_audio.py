"""Audio encoder: the facts of FACTS.md, agreement with the reference, and chunk by chunk = whole."""

import pytest
import torch

from omni_lab.config import AudioConfig
from omni_lab.encoders import audio
from omni_lab.encoders.audio import AudioEncoder
from omni_lab.errors import InputError
from tests.comparison import relative
from tests.thinker_reference import CONFIGS, reference, released_names


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    theirs = reference(CONFIGS[request.param]).model.audio_tower
    ours = AudioEncoder(CONFIGS[request.param].audio_config)
    ours.load_state_dict(released_names(theirs.state_dict()))
    return ours.eval(), theirs


@pytest.mark.parametrize(("frames", "tokens"), [(1, 0), (2, 0), (3, 1), (200, 50), (203, 51), (450, 112)])
def test_token_count(frames, tokens):
    assert audio.token_count(frames) == tokens
    assert audio.token_count(torch.tensor([frames])).tolist() == [tokens]


@pytest.mark.parametrize("lengths", [[37], [16, 16], [5, 40, 3, 21], [2, 9]])
@torch.no_grad()
def test_equals_the_reference(pair, lengths):
    ours, theirs = pair
    clips = torch.randn(len(lengths), ours.config.num_mel_bins, max(lengths))
    joined = torch.cat([clip[:, :n] for clip, n in zip(clips, lengths, strict=True)], dim=1)
    wanted = theirs(joined, feature_lens=torch.tensor(lengths)).last_hidden_state
    got = ours(clips, torch.tensor(lengths))
    assert got.shape[0] == sum(audio.token_count(n) for n in lengths)
    assert relative(got, wanted) < 1e-5
    assert torch.equal(ours(joined, lengths), got)


@torch.no_grad()
def test_chunk_by_chunk_equals_the_whole(pair):
    ours, _ = pair
    chunk = 2 * ours.config.n_window
    sound = torch.randn(1, ours.config.num_mel_bins, 3 * chunk + 7)
    pieces = [ours(piece, [piece.shape[2]]) for piece in sound.split(chunk, dim=2)]
    assert relative(torch.cat(pieces), ours(sound, [sound.shape[2]])) < 1e-6


def test_sinusoids_are_sines_then_cosines():
    table = audio.sinusoids(4, 6)
    assert table[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.allclose(table[3, [0, 3]], torch.tensor([3.0]).sin().new_tensor([0.14112, -0.98999]), atol=1e-5)


def test_pair_average_drops_an_odd_frame():
    assert audio.pair_average(torch.arange(5.0)[None, :, None]).flatten().tolist() == [0.5, 2.5]


def test_chunks():
    assert audio.chunk_lengths([450, 200, 0, 3]) == [200, 200, 50, 200, 3]


def test_an_empty_clip_gives_no_token(pair):
    ours, _ = pair
    mels = ours.config.num_mel_bins
    assert ours(torch.zeros(1, mels, 0), [0]).shape == (0, ours.config.output_dim)
    both = ours(torch.ones(2, mels, 12), [0, 12])
    assert torch.allclose(both, ours(torch.ones(1, mels, 12), [12]))


def test_wrong_shapes_are_named(pair):
    ours, _ = pair
    with pytest.raises(InputError, match="expected .* with at least 12 frames"):
        ours(torch.zeros(1, ours.config.num_mel_bins, 9), [12])


def test_keys_have_no_bias():
    assert AudioEncoder(AudioConfig(8, 1, 2, 8, 8, 50, 4, 8)).layers[0].self_attn.k_proj.bias is None
