"""Lab 04's experiment: "what moved when the bell rang?", asked of one small decoder under four schemes of positions.

A clip has one video token a frame, which names the thing that moves in it, and 25 audio tokens a second, most of them
silence. Now and then a bell of some tone rings just as a thing begins to move. Behind the clip stand questions, each
naming a tone. To answer, the model must find the bell by what it is, and the frame by *when* it is. The frame rate
differs from clip to clip. Ids come from `omni_lab.tmrope`, looked up at call time: a student's function takes part.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from .. import tmrope
from ..config import TextConfig
from ..layers import Decoder
from ..train.optimise import AdamW

THINGS, TONES = 8, 8
SILENCE, BELL, QUESTION = THINGS, THINGS + 1, THINGS + 1 + TONES  # first token of each kind; things are 0 to 7
SCHEMES = ("full TMRoPE", "frames counted", "sequential ids", "time removed")
SECONDS_PER_GRID = (0.16, 0.24, 0.32, 0.4)  # between two frames: dynamic frame rate
CHANCE = 1 / THINGS
CONFIG = TextConfig(
    vocab_size=QUESTION + TONES, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, mrope_section=(4, 6, 6),
)  # fmt: skip


@dataclass(frozen=True)
class Clips:
    """A batch of clips of one frame rate."""

    tokens: Tensor  # (batch, length)
    positions: Tensor  # (3, length), the same for all: by the scheme
    answers: Tensor  # (batch, length): the thing that moved, at bells and questions; -100 elsewhere
    questions: int  # so many tokens at the end are questions


def positions_of(scheme: str, video: Tensor, sound: Tensor, chunks: list[Tensor], order: Tensor) -> Tensor:
    """Ids of the interleaved clip under a scheme: (3, tokens). `order`: place among video then sound, of each token."""
    if scheme == "sequential ids":
        return torch.arange(len(order)).expand(3, -1).clone()
    ids = torch.cat(chunks, dim=1)[:3].clone()
    if scheme == "time removed":
        ids[0] = 0
    if scheme == "frames counted":
        ids[0] = torch.cat([torch.arange(video.shape[1]), sound[0]])[order]
    return ids


def layout(scheme: str, seconds: float, second_per_grid: float) -> tuple[Tensor, Tensor, Tensor]:
    """Places and ids of one clip: order (tokens,) into video then sound, ids (3, tokens), frames' times (frames,)."""
    frames = int(seconds / second_per_grid)
    video, sound = tmrope.video_ids(0, frames, 1, 1, second_per_grid), tmrope.audio_ids(0, round(25 * seconds))
    # A fourth row says which token it is, and travels with the three ids through the interleaving.
    places = torch.arange(video.shape[1] + sound.shape[1])[None]
    named_video = torch.cat([video, places[:, : video.shape[1]]])
    named_sound = torch.cat([sound, places[:, video.shape[1] :]])
    chunks = tmrope.interleave(named_video, named_sound, 0, 50)
    order = torch.cat(chunks, dim=1)[3]
    return order, positions_of(scheme, video, sound, chunks, order), video[0]


def make_clips(scheme: str, batch: int, seconds: float, generator: torch.Generator, asked: int = 4) -> Clips:
    """Random clips of one random frame rate, with `asked` bells, each asked about at the end."""
    second_per_grid = SECONDS_PER_GRID[int(torch.randint(len(SECONDS_PER_GRID), (), generator=generator))]
    order, ids, times = layout(scheme, seconds, second_per_grid)
    frames, sounds = len(times), len(order) - len(times)
    things = torch.randint(THINGS, (batch, frames), generator=generator)
    rung = torch.rand(batch, frames, generator=generator).argsort(1)[:, :asked]  # frames at which a bell rings
    tones = torch.rand(batch, TONES, generator=generator).argsort(1)[:, :asked]
    moved = things.gather(1, rung)  # (batch, asked)
    sound = torch.full((batch, sounds), SILENCE).scatter(1, times[rung], BELL + tones)
    answer = torch.full((batch, sounds), -100).scatter(1, times[rung], moved)
    clip = torch.cat([things, sound], dim=1)[:, order]
    answers = torch.cat([torch.full((batch, frames), -100), answer], dim=1)[:, order]
    ids = torch.cat([ids, tmrope.text_ids(int(ids.max()) + 1, asked)], dim=1)
    return Clips(torch.cat([clip, QUESTION + tones], dim=1), ids, torch.cat([answers, moved], dim=1), asked)


class Watcher(nn.Module):
    """The package's decoder with a head that names things: Clips -> logits (batch, length, things)."""

    def __init__(self, config: TextConfig = CONFIG) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.head = nn.Linear(config.hidden_size, THINGS)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.5)

    def forward(self, clips: Clips) -> Tensor:
        device = self.head.weight.device
        embeds = self.model.embed_tokens(clips.tokens.to(device))
        positions = clips.positions[:, None].expand(-1, len(embeds), -1).to(device)  # (3, batch, length)
        return self.head(self.model(embeds, positions))


def train(
    scheme: str,
    steps: int,
    seconds: float = 4.0,
    batch: int = 32,
    seed: int = 0,
    lr: float = 3e-3,
    device: torch.device | str = "cpu",
    report: Callable[[int, float], None] | None = None,
) -> tuple[Watcher, list[float]]:
    """A Watcher trained under a scheme on clips of `seconds`; and the loss (nats) of every step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    watcher = Watcher().to(device).train()
    optimiser = AdamW(watcher.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    losses = []
    for step in range(steps):
        clips = make_clips(scheme, batch, seconds, generator)
        logits = watcher(clips).flatten(0, 1)  # (batch * length, things)
        loss = F.cross_entropy(logits, clips.answers.flatten().to(device), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(watcher.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if report is not None and (step + 1) % 100 == 0:
            report(step + 1, sum(losses[-100:]) / 100)
    return watcher.eval(), losses


@torch.no_grad()
def accuracy(
    watcher: Watcher, scheme: str, seconds: float, clips: int = 64, seed: int = 99, late: int = 0, at: str = "questions"
) -> float:
    """Share of right answers on clips of `seconds`, with all frame rates, never seen in training.

    late: the sound's ids are so many too high, 40 ms each. at: "questions" behind the clip, or "bells" within it."""
    generator, right, total = torch.Generator().manual_seed(seed), 0, 0
    for _ in range(-(-clips // 8)):
        made = make_clips(scheme, 8, seconds, generator)
        heard = (made.tokens[0] >= SILENCE) & (made.tokens[0] < QUESTION)  # the same places in all clips of a batch
        guess = watcher(replace(made, positions=made.positions + late * heard)).argmax(-1).cpu()  # (8, length)
        places = slice(-made.questions, None) if at == "questions" else slice(0, -made.questions)
        wanted = made.answers[:, places]
        right += int((guess[:, places] == wanted).sum())
        total += int((wanted >= 0).sum())
    return right / total


def cell(x: float, y: float, kind: int) -> Rectangle:
    """The square of a token in a row that is drawn: kind 0 is video, 1 sound."""
    return Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, color=("#56B4E9", "#E69F00")[kind], alpha=0.6)
