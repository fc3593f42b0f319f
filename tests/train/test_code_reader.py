"""What the speech tokenizer learns by: a choice that a gradient passes, and a network that reads what was chosen."""

import torch
import torch.nn.functional as F
from torch import nn

from omni_lab.codec.speech_tokenizer import k_means, nearest
from omni_lab.train.code_reader import CodeReader, chosen


def test_a_choice_is_the_nearest_and_its_gradient_the_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    entries = torch.randn(7, 3, generator=generator, dtype=torch.float64).requires_grad_()
    rows = chosen(vectors, entries, 2.0)
    assert torch.allclose(rows.detach(), F.one_hot(nearest(vectors, entries), 7).double())
    weights = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    got = torch.autograd.grad((rows * weights).sum(), (vectors, entries))
    distances = (vectors[..., None, :] - entries).square().sum(-1)
    soft = (-distances / (2 * 2.0)).softmax(-1)
    for one, other in zip(got, torch.autograd.grad((soft * weights).sum(), (vectors, entries)), strict=True):
        assert torch.allclose(one, other)


def test_the_reader_sees_a_third_of_a_second_to_both_sides() -> None:
    torch.manual_seed(0)
    reader = CodeReader(codes=9, phonemes=5, mel_dim=4, embedding=6, width=8)
    rows = F.one_hot(torch.randint(9, (1, 60)), 9).float()
    other = rows.clone()
    other[0, 30] = F.one_hot(rows[0, 30].argmax() - 1, 9)
    logits, mel = reader(rows)
    assert logits.shape == (1, 60, 2, 5) and mel.shape == (1, 60, 8)
    for one, two in zip(reader(rows), reader(other), strict=True):
        moved = (one != two).flatten(2).any(-1)[0].nonzero().flatten()
        assert (moved.min(), moved.max()) == (30 - 14, 30 + 14)


def test_a_codebook_learns_what_is_read_from_it() -> None:
    """Vectors vary much in one direction and are of two kinds in another: k-means codes the first, who is told codes
    the second."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(2, (2000,), generator=generator)
    vectors = torch.randn(2000, 2, generator=generator) * torch.tensor([4.0, 0.3])
    vectors[:, 1] += 2.0 * kind
    entries = nn.Parameter(k_means(vectors, 2))
    reader = nn.Parameter(torch.zeros(2, 2))

    def told() -> float:
        codes = nearest(vectors, entries.detach())
        share = torch.stack([kind[codes == code].float().mean() for code in range(2)])
        return float(((share[codes] > 0.5) == kind).float().mean())

    assert told() < 0.6
    optimiser = torch.optim.Adam([entries, reader], 0.05)
    for _ in range(400):
        loss = F.cross_entropy(chosen(vectors, entries, 2.0) @ reader, kind)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert told() > 0.95
