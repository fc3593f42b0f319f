"""The packed copy of the vocoder gives the vocoder's own samples, follows its weights, and steps aside when it must."""

import pytest
import torch

from omni_lab.codec import bigvgan, packed_vocoder
from omni_lab.codec.packed_vocoder import packable, vocode

from ..comparison import relative
from .reference import BIGVGAN_CONFIGS
from .test_bigvgan import mel_of, our_bigvgan


@pytest.mark.parametrize("name", BIGVGAN_CONFIGS)
@pytest.mark.parametrize("frames", [1, 2, 36, 41])
@pytest.mark.parametrize("at_once", [50, 60_000])
@torch.no_grad()
def test_it_gives_the_same_samples(name, frames, at_once, monkeypatch):
    monkeypatch.setattr(packed_vocoder, "AT_ONCE", at_once)
    model, mel = our_bigvgan(name), mel_of(BIGVGAN_CONFIGS[name], frames, batch=1)
    assert packable(model, mel)
    assert relative(vocode(model, mel), model(mel)) < 1e-5


@pytest.mark.parametrize("name", BIGVGAN_CONFIGS)
@pytest.mark.parametrize("piece", [7, 20])
@torch.no_grad()
def test_a_long_mel_goes_piece_by_piece_to_the_samples_of_the_whole(name, piece, monkeypatch):
    model, mel = our_bigvgan(name), mel_of(BIGVGAN_CONFIGS[name], 61, batch=1)
    whole = model(mel)
    monkeypatch.setattr(packed_vocoder, "PIECE", piece)
    assert relative(vocode(model, mel), whole) < 1e-5
    first = 3 * model.hop + 1
    assert relative(vocode(model, mel, first), whole[:, first:]) < 1e-5


@pytest.mark.parametrize("name", BIGVGAN_CONFIGS)
@torch.no_grad()
def test_a_part_is_that_of_the_whole(name):
    """What is left out of a window is what the wanted samples do not hear: no more."""
    model, mel = our_bigvgan(name), mel_of(BIGVGAN_CONFIGS[name], 41, batch=1)
    whole, plain = vocode(model, mel), model(mel)
    hop = model.hop
    for first, last in ((0, 9 * hop), (17 * hop + 1, 18 * hop - 1), (12 * hop, 36 * hop + 7), (40 * hop, 99 * hop)):
        part = vocode(model, mel, first, last)
        assert part.shape == whole[:, first:last].shape
        assert float((part - whole[:, first:last]).abs().max()) < 1e-5 * float(whole.abs().max())
        assert torch.equal(packed_vocoder.vocode(Known(plain), mel, first, last), plain[:, first:last])


class Known:
    """What stands in a vocoder's place, as in lab 07: it is cut as well."""

    def __init__(self, wave):
        self.wave = wave

    def __call__(self, mel):
        return self.wave


@torch.no_grad()
def test_it_follows_weights_that_change():
    model = our_bigvgan("other rates and kernels")
    mel = mel_of(model.config, 9, batch=1)
    before = vocode(model, mel)
    for change in (
        lambda w: w.mul_(1.5),
        lambda w: model.load_state_dict({n: 0.9 * p for n, p in model.state_dict().items()}),
    ):
        change(model.conv_pre.weight)
        after = vocode(model, mel)
        assert relative(after, model(mel)) < 1e-5 < relative(after, before)


def a_fused_step(model):
    torch.optim.SGD(model.parameters(), 1e-3, fused=True).step()


def a_step_by_hand(model):
    for parameter in model.parameters():
        parameter.data.sub_(1e-3 * parameter.grad)


@pytest.mark.parametrize("move", [a_fused_step, a_step_by_hand])
def test_it_follows_weights_that_learn_behind_the_back_of_their_counters(move):
    model = our_bigvgan("other rates and kernels")
    mel = mel_of(model.config, 9, batch=1)
    with torch.no_grad():
        before = vocode(model, mel)
    model(mel).square().sum().backward()
    move(model)
    with torch.no_grad():
        assert packable(model, mel)
        after = vocode(model, mel)
        assert relative(after, model(mel)) < 1e-5 < relative(after, before)


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.resblocks[0].convs2[1], lambda m: m.activation_post.act])
@torch.no_grad()
def test_it_steps_aside_for_whoever_listens(part):
    model = our_bigvgan("other rates and kernels")
    mel, heard = mel_of(model.config, 9, batch=1), []
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        heard.clear()
        hook = getattr(part(model), register)(lambda *given: heard.append(given[0]))
        vocode(model, mel)
        assert heard == [part(model)] and not packable(model, mel)
        hook.remove()
    assert packable(model, mel)


def test_it_steps_aside(monkeypatch):
    model = our_bigvgan("other rates and kernels")
    mel = mel_of(model.config, 9, batch=1)
    assert not packable(model, mel)  # gradients are asked for
    vocode(model, mel).sum().backward()
    with torch.no_grad():
        wave = vocode(model, mel)
        assert not packable(model, mel.double()) and not packable(model.double(), mel.double())
        model.float()
        monkeypatch.setattr(bigvgan, "snake_beta", lambda x, alpha, beta: torch.tanh(x))
        assert relative(vocode(model, mel), wave) > 1e-3, "a student's function is not used"
        model.conv_pre.register_forward_hook(lambda module, given, made: 2 * made)
        assert not packable(model, mel)
        assert relative(vocode(model, mel), model(mel)) == 0
        assert vocode(model, mel[:, :0]).shape == (1, 0)
