"""The pretend card refuses what CUDA refuses, and the model answers on it as on a CPU, in text, sound and real time."""

import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omni_lab import OmniModel
from omni_lab.evaluate import dpo_change, suite
from omni_lab.lab import synchrony
from omni_lab.sampling import Sampling
from omni_lab.streaming import AudioChunk, Session, TextDelta, simulate
from omni_lab.train import utilisation
from tests.pretend_card import CUDA, L4, T4, Card, on_card, pretend_card

SAMPLES = Path(__file__).parents[1] / "data_samples"
NANO = SAMPLES / "checkpoints" / "nano"
FILM = SAMPLES / "video" / "av_synchrony_0.mp4"
PICTURE = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
SOUND = (0.3 * np.sin(np.arange(16000) / 20)).astype(np.float32)
SHORT = {"max_new_tokens": 6, "max_codes": 12, "num_steps": 2}
# Tasks that say nothing aloud; of those that do, one (the others make the same way through the model, and take long).
TASKS = [name for name in suite.ORDER if suite.SUITE[name] not in suite.speaking.TASKS.values()] + ["pause_errors"]


@pytest.fixture()
def card():
    with pretend_card(T4) as there:
        yield there


@pytest.fixture(scope="module")
def model():
    """The shipped model on a T4, in float16."""
    with pretend_card(T4):
        loaded = OmniModel.from_pretrained(NANO, "cuda")
        loaded.enrol(SOUND.repeat(2), 16000, "Me")
        return loaded


# The card itself.


@pytest.mark.parametrize("wrong", [
    lambda there, here: there + here,
    lambda there, here: here @ there,
    lambda there, here: torch.cat([there, here]),
    lambda there, here: torch.stack([there.sum(), here.sum()]),
    lambda there, here: F.embedding(here.long(), there),
    lambda there, here: torch.where(here > 0, there, 0.0),
    lambda there, here: here[there.long()],
    lambda there, here: here.sum().add_(there.sum()),
    lambda there, here: there.index_select(0, here.long()[0]),
    lambda there, here: there.__setitem__(here > 0, here.flatten()),
    lambda there, here: there.masked_fill(here > 0, 1.0),
    lambda there, here: there.random_(generator=torch.Generator()),
    lambda there, here: here.normal_(generator=torch.Generator("cuda")),
    lambda there, here: torch.randn(3, device="cuda", generator=torch.Generator()),
    lambda there, here: torch.randn(3, generator=torch.Generator("cuda")),
    lambda there, here: there.long() @ there.long(),
    lambda there, here: there.half() @ there,
    lambda there, here: torch.histogram(there, 4),
    lambda there, here: there.numpy(),
    lambda there, here: np.asarray(there),
    lambda there, here: there.to("cuda:1"),
    lambda there, here: there.pin_memory(),
    lambda there, here: setattr(here, "grad", there),
])  # fmt: skip
def test_what_cuda_refuses_is_refused(card, wrong) -> None:
    with pytest.raises((RuntimeError, TypeError, NotImplementedError)):
        wrong(torch.ones(3, 3, device="cuda"), torch.ones(3, 3))


@pytest.mark.parametrize("right", [
    lambda there, here: there + torch.tensor(2.0),
    lambda there, here: there * here.sum(),
    lambda there, here: there[here.long()[0]],
    lambda there, here: there[here > 0],
    lambda there, here: there.copy_(here),
    lambda there, here: torch.where(there > 0, torch.tensor(1.0), there),
    lambda there, here: here.to(there),
    lambda there, here: torch.randn(3, device="cuda", generator=torch.Generator("cuda").manual_seed(0)),
    lambda there, here: nn.utils.rnn.pad_sequence([there, there[:1]]),
    lambda there, here: torch.as_tensor(np.ones(3), device=there.device),
    lambda there, here: F.one_hot(there.long()),
    lambda there, here: there.new_tensor([1, 2]),
    lambda there, here: there.squeeze_(0),
    lambda there, here: torch.zeros_like(here, device="cuda"),
    lambda there, here: copy.deepcopy(there),
])  # fmt: skip
def test_what_cuda_allows_is_on_the_card(card, right) -> None:
    made = right(torch.ones(3, 3, device="cuda"), torch.ones(3, 3))
    assert on_card(made) and made.device == CUDA and made.is_cuda and not on_card(made.cpu())


def test_results_of_the_host_stay_there(card) -> None:
    there, here = torch.ones(3, device="cuda"), torch.arange(3.0)
    here[:] = there
    for made in (here, here.view_as(there), here[there.long()[0]], torch.tensor([there.sum(), 1]), there.cpu()):
        assert not on_card(made) and made.device.type == "cpu"
    assert here.tolist() == there.tolist() == [1.0] * 3 and there.sum().item() == 3 and bool(there.all())
    assert there.cpu().numpy().sum() == 3 and torch.zeros_like(there, device="cpu").device.type == "cpu"


def test_autocast_follows_cudas_lists(card) -> None:
    x = torch.rand(4, 4, device="cuda")
    with torch.autocast("cuda", torch.float16):
        half = x @ x
        assert half.dtype == F.linear(x, x).dtype == torch.einsum("ij,jk->ik", x, x).dtype == torch.float16
        assert F.conv1d(x[None], x[..., None]).dtype == torch.float16 == (half + half).dtype
        wide = (half.softmax(-1), half.sum(), half.pow(2), half.exp(), half.norm(), half.cumsum(0), half + x)
        assert {t.dtype for t in wide} == {torch.float32}
        assert F.mse_loss(half, half).dtype == F.layer_norm(half, (4,)).dtype == torch.float32
        with pytest.raises(RuntimeError, match="unsafe to autocast"):
            F.binary_cross_entropy(x, x)
        with torch.autocast("cuda", enabled=False):
            assert (x @ x).dtype == torch.float32
    assert (x @ x).dtype == torch.float32


def test_gradients_steps_and_recomputing_are_a_cpus(card) -> None:
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 6))
    host[3].weight = nn.Parameter(host[0].weight.detach().t().clone())
    there, x = copy.deepcopy(host), torch.randn(5, 6)
    weight = there[3].weight
    assert there.to("cuda")[3].weight is weight and all(map(on_card, there.parameters()))
    for net, rows, fused in ((host, x, None), (there, x.cuda(), True)):
        optimiser = torch.optim.AdamW(net.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cuda", enabled=bool(fused))
        for _ in range(3):
            optimiser.zero_grad()
            middle = torch.utils.checkpoint.checkpoint(net[:3], rows, use_reentrant=False)
            scaler.scale(net[3](middle).square().mean()).backward()
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            scaler.step(optimiser)
            scaler.update()
    back = there.cpu()
    for one, other in zip(host.parameters(), back.parameters(), strict=True):
        assert not on_card(other) and torch.allclose(one, other, atol=1e-5)


def test_gradients_cross_between_host_and_card(card) -> None:
    x = torch.ones(3, requires_grad=True)
    there = x.cuda() * 2
    (there.cpu() * torch.arange(3.0)).sum().backward()
    assert not on_card(x.grad) and x.grad.tolist() == [0, 2, 4]
    padded = nn.utils.rnn.pad_sequence([leaf := torch.ones(2, device="cuda", requires_grad=True), there.detach()])
    padded.sum().backward()
    assert on_card(leaf.grad) and leaf.grad.tolist() == [1, 1]


def test_a_graph_replays_on_the_same_memory_and_records_no_waiting(card) -> None:
    x, total, graph = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = x * 2
        total += made
    assert total.tolist() == [0, 0, 0]  # recorded, not run
    for _ in range(2):
        graph.replay()
    x.fill_(5)
    graph.replay()
    assert total.tolist() == [14] * 3 and made.tolist() == [10] * 3
    for wrong in (lambda: x.sum().item(), lambda: x.cpu(), lambda: torch.ones(3).cuda(), lambda: x.nonzero()):
        with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            wrong()


def test_threads_see_the_card_and_nothing_is_left_of_it() -> None:
    found = []
    with pretend_card(L4):
        thread = threading.Thread(target=lambda: found.append(torch.zeros(1, device="cuda")))
        thread.start()
        thread.join()
        assert on_card(found[0]) and torch.cuda.get_device_properties(0).name == "Pretend L4"
    assert not torch.cuda.is_available() and type(torch.Generator()) is torch.Generator
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")


# The model on it.


@pytest.mark.parametrize("question", [{}, {"images": [PICTURE]}, {"audio": [SOUND]}, {"videos": [str(FILM)]}])
def test_the_card_answers_what_the_cpu_answers(question) -> None:
    """In float32; on the card a token is a recorded graph."""
    host = OmniModel.from_pretrained(NANO, "cpu", torch.float32)
    expected = host.generate("Hi", **question, **SHORT)
    with pretend_card(T4):
        reply = OmniModel.from_pretrained(NANO, "cuda", torch.float32).generate("Hi", **question, **SHORT)
        assert reply.text == expected.text and torch.equal(reply.codes, expected.codes)
        assert not any(map(on_card, (reply.ids, reply.codes, reply.audio)))
        assert reply.audio.shape == expected.audio.shape and torch.allclose(reply.audio, expected.audio, atol=1e-4)


@pytest.mark.parametrize("kind", [T4, L4], ids=lambda card: card.name)
def test_replies_in_16_bits(kind, tmp_path: Path) -> None:
    with pretend_card(kind):
        loaded = OmniModel.from_pretrained(NANO, "cuda")
        assert loaded.thinker.lm_head.weight.dtype == (torch.float16 if kind is T4 else torch.bfloat16)
        drawn = Sampling(temperature=0.9, top_k=5, top_p=0.9, repetition_penalty=1.2)
        reply = loaded.generate("Hi", images=[PICTURE], audio=[SOUND], sampling=drawn, speaker="heart", **SHORT)
        assert reply.audio.dtype == torch.float32 and reply.audio.isfinite().all()
        loaded.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert OmniModel.from_pretrained(tmp_path, "cpu").speakers.keys() == loaded.speakers.keys()


def test_a_voice_enrolled_on_the_card_speaks(card, model) -> None:
    assert model.generate("Hi", speaker="Me", **SHORT).audio.isfinite().all()
    assert on_card(model.speech_tokenizer.encode(torch.from_numpy(SOUND)))


def test_replies_come_in_pieces(card, model) -> None:
    events = list(model.stream("Hi", max_codes=50, num_steps=2))
    assert {type(event) for event in events} == {TextDelta, AudioChunk}
    assert not any(on_card(event.samples) for event in events if isinstance(event, AudioChunk))


def test_a_conversation_hears_sees_and_forgets(card, model) -> None:
    session = Session(model, max_codes=12, num_steps=2)
    session.push(text="What is this?", image=PICTURE)
    session.push(audio=SOUND, frame=PICTURE)
    session.push(audio=SOUND, frame=PICTURE)
    assert list(session.reply())
    session.push(video=str(FILM), text="Hi")
    assert list(session.reply())


def test_the_simulators_costs_are_measured(card, model) -> None:
    costs = simulate.measure(model, model.prepare("Hi"), repeats=0)
    assert costs.prefill > 0 and costs.dit_call > 0


@pytest.mark.parametrize("task", TASKS)
def test_tasks_of_the_mini_suite(card, model, task: str) -> None:
    result = suite.run_task(task, model, 1, 0, False, NANO)
    assert not result["failed"], result["note"]


def test_what_dpo_added_is_taken_back_on_the_card(card, model) -> None:
    before = dpo_change.taken_back(copy.deepcopy(model.talker.state_dict()), NANO / dpo_change.FILE)
    assert all(map(on_card, before.values()))
    assert any(not torch.equal(before[name], weight) for name, weight in model.talker.state_dict().items())


def test_what_labs_measure_and_train_on_the_card(card) -> None:
    assert utilisation.measured_flops(CUDA, size=64) > 0 and utilisation.measured_bandwidth(CUDA, 1) > 0
    watcher, losses = synchrony.train("tmrope", 2, batch=2, seed=0, device=CUDA)
    assert all(map(on_card, watcher.parameters())) and np.isfinite(losses).all()


def test_a_cards_bandwidth_is_measured_on_more_than_its_launches_hide(monkeypatch) -> None:
    """4 GB, or a quarter of what is free; a CPU reads 64 MB."""
    monkeypatch.setattr(utilisation, "best_seconds", lambda run, device: 1.0)
    assert utilisation.measured_bandwidth(torch.device("cpu")) == 64e6
    with pretend_card(Card("Pretend", 8, 0, 10**9 + 480 * 10**6)):  # a thousand million are taken
        assert utilisation.measured_bandwidth(CUDA) == 120e6
        assert utilisation.measured_bandwidth(CUDA, 8) == 8e6
    with pretend_card(Card("Pretend H200", 9, 0, 141 * 10**9)):
        assert utilisation.enough_to_read(CUDA) == 4000
