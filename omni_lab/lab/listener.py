"""Lab 03's stage 1: a published encoder in front of the shipped language model, and one matrix between them that learns
(report, section 3: first the adapters, with the language model frozen).

Notable: what is frozen is run once. A step of training reads vectors of 40 ms, not sound. Two losses teach the matrix:
the next token of what was said, and CTC through the language model's own head, by which the shipped ears were taught
too (`train.transcripts`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from .. import checkpoints
from ..config import OmniConfig
from ..data.folders import samples_folder
from ..data.readers import TRANSCRIBE
from ..encoders.audio import AudioEncoder, pair_average
from ..processing.processor import OmniProcessor
from ..thinker import IGNORE, Thinker, place
from ..train import transcripts
from ..train.optimise import AdamW
from .listening import log_mel

SOUND = "<|AUDIO|>"


@torch.no_grad()
def vectors_of(encoder: AudioEncoder, wave: np.ndarray) -> Tensor:
    """What the projection of the encoder reads, of one wave (samples,) at 16 kHz: (tokens of 40 ms, d_model)."""
    mel = log_mel(wave, encoder.config.num_mel_bins).to(encoder.proj.weight.device)
    return encoder.ln_post(pair_average(encoder.frames(mel[None], [mel.shape[1]])[0]))


class Listener(nn.Module):
    """The shipped thinker with another audio encoder in the place of its own; only `audio_tower.proj` learns."""

    def __init__(self, encoder: AudioEncoder) -> None:
        """encoder: with an `output_dim` of the shipped language model's width. Raises CheckpointError for a shipped
        checkpoint that is damaged."""
        super().__init__()
        folder = samples_folder() / "checkpoints" / "nano"
        self.processor = OmniProcessor.from_pretrained(folder)
        config = OmniConfig.from_dict(checkpoints.read_json(folder / "config.json")).thinker_config
        self.thinker = Thinker(replace(config, audio_config=encoder.config)).eval()
        with checkpoints.opened(folder / checkpoints.WEIGHTS) as file:
            names = [name for name in file.keys() if name.startswith("thinker.model.")]  # noqa: SIM118 - no dict
            state = {name.removeprefix("thinker.model."): file.get_tensor(name).float() for name in names}
        self.thinker.model.load_state_dict(state)
        self.thinker.audio_tower = encoder
        self.requires_grad_(False)
        encoder.proj.requires_grad_(True)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.thinker.lm_head.weight.device

    def rows(self, counts: Sequence[int], texts: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Dialogues with `counts` places of sound each, up to the answer, or with the answers `texts`.

        ids and labels (clips, longest), padded on the right, where causality hides the padding."""
        asked = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": TRANSCRIBE}]}]
        prompt, tokenizer = self.processor.prompt(asked), self.processor.tokenizer
        rows, learned = [], []
        for i, count in enumerate(counts):
            before = tokenizer(prompt.replace(SOUND, SOUND * count))["input_ids"]
            answer = tokenizer(f"{texts[i]}<|im_end|>")["input_ids"] if texts is not None else []
            rows.append(torch.tensor(before + answer))
            learned.append(torch.tensor([IGNORE] * len(before) + answer))
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        labels = nn.utils.rnn.pad_sequence(learned, batch_first=True, padding_value=IGNORE)
        return ids.to(self.device), labels.to(self.device)

    def embed(self, ids: Tensor, sound: Tensor) -> Tensor:
        """Embeddings of ids (clips, length) with the projected sound (tokens, dim) in its places."""
        return place(self.thinker.model.embed_tokens(ids), ids == self.thinker.config.audio_token_index, sound, "audio")

    def losses(self, vectors: Sequence[Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(nats a token of the answers, nats a token of CTC) on clips of (tokens, d_model) and what they say."""
        counts = torch.tensor([len(v) for v in vectors], device=self.device)
        sound = self.thinker.audio_tower.proj(torch.cat(list(vectors)))  # (tokens of all clips, dim)
        ids, labels = self.rows(counts.tolist(), texts)
        # text and sound: t = h = w, one step a token
        positions = torch.arange(ids.shape[1], device=self.device).expand(3, *ids.shape)
        embeds = self.embed(ids, sound)
        answers = self.thinker(input_ids=ids, inputs_embeds=embeds, position_ids=positions, labels=labels).loss
        said = transcripts.join([self.processor.tokenizer(text)["input_ids"] for text in texts])
        spelled = self.thinker.lm_head(self.thinker.model.norm(sound))
        blank = self.processor.tokenizer.pad_token_id or 0
        return answers, transcripts.spelling_loss(spelled, counts, said.to(self.device), blank)

    @torch.no_grad()
    def write_down(self, vectors: Tensor, longest: int = 24) -> str:
        """What the language model writes when asked what it hears: (tokens, d_model) -> text."""
        ids, _ = self.rows([len(vectors)])
        embeds = self.embed(ids, self.thinker.audio_tower.proj(vectors))
        positions = torch.arange(ids.shape[1], device=self.device).expand(3, *ids.shape)
        new = self.thinker.generate(
            longest, stop_token_ids=self.processor.stop_ids, inputs_embeds=embeds, position_ids=positions
        )
        return self.processor.decode(new[0]).strip()


@torch.no_grad()
def compare(listener: Listener, vectors: Sequence[Tensor], texts: Sequence[str]) -> tuple[float, float]:
    """Loss of the answers (nats a token) with each one's own sound, and with the next one's: a language model that does
    not listen finds no difference."""
    others = [*vectors[1:], vectors[0]]
    return float(listener.losses(vectors, texts)[0]), float(listener.losses(others, texts)[0])


def train_adapter(
    listener: Listener,
    vectors: Sequence[Tensor],
    texts: Sequence[str],
    held_out: tuple[Sequence[Tensor], Sequence[str]],
    steps: int,
    seed: int = 0,
    batch: int = 8,
    lr: float = 3e-3,
) -> list[tuple[int, float, float]]:
    """Teach the projection; returns (step, held-out loss with the right sound, with another's) ten times on the way."""
    weights = list(listener.thinker.audio_tower.proj.parameters())
    optimiser = AdamW(weights, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    rng, points = np.random.default_rng(seed), [(0, *compare(listener, *held_out))]
    for step in range(1, steps + 1):
        chosen = rng.choice(len(vectors), min(batch, len(vectors)), replace=False)
        answers, spelling = listener.losses([vectors[i] for i in chosen], [texts[i] for i in chosen])
        optimiser.zero_grad()
        (answers + spelling).backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            points.append((step, *compare(listener, *held_out)))
    return points
