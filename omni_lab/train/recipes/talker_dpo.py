"""Stage 2 of the talker: direct preference optimisation on how it says hard sentences (report, section 4.3).

The triples are collected once, before training. The talker says a sentence as it would in a reply; DiT and vocoder make
it sound, and an independent recogniser writes it down. If that is wrong, the talker says it several times more, hotter,
and the best of these is preferred to what it said. At what it says right no attempts are made. The voice from which
the talker learned its codes competes, since the best of wrong attempts teaches little.
"""

import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from ...codec.token2wav import Token2Wav
from ...data import sentences, speech
from ...data.splits import generator, pick
from ...errors import ConfigError, DataError
from ...evaluate import ears, metrics
from ...evaluate.asking import POINTS
from ...talker import IGNORE, Talker
from .. import preferences, reading, speech_bank
from ..loader import to_device
from ..optimise import decay_groups
from ..parts import DRAWN, TEMPERATURE, need_part, of_replies, part_path, reference_speaker, save_part
from ..preferences import Triple
from ..recipe import Batch
from .talker import CPU as TALKER_CPU
from .talker import Spoken, TalkerRecipe, TalkerSettings, said, talker_view


@dataclass(frozen=True)
class DPOSettings(TalkerSettings):
    # Sentences on which preferences are collected; of three, one gives a pair. On a CPU one that is said right takes 4
    # seconds of a core and one that is not 22: two hours in all, shared by the cores and by processes.
    texts: int = 720
    tries: int = 4  # times more each is said, if its reply was wrong
    source: bool = True  # whether the source voice's own rendition stands among these, and mostly wins
    temperature: float = 0.7  # of these: above the assembled model's, or none would differ
    beta: float = 0.1
    anchor: float = 5.0  # weight of the loss on the chosen codes themselves, against drifting from speech
    learns: str = r"model\.layers\.\d+\.self_attn\."  # regular expression on the names of what learns; "": all


CPU = DPOSettings(
    **{
        **{k: getattr(TALKER_CPU, k) for k in TALKER_CPU.__dataclass_fields__},
        # Of 120 hard sentences of training's side (1,277 words) a talker said 193 words wrong. With 234 pairs of what
        # it did say: 169 after 300 steps (173 with the worst hot attempt of the same sentences in the reply's place),
        # 189 after 120 at half the rate, 198 so with anchor 1 and where the source voice did not compete.
        # With 69 to 77 pairs of hot attempts: 197 to 211; with `mishear`, which its steps had lacked: 192.
        "steps": 300,
        "batch_size": 8,
        "learning_rate": 2e-4,
        "ema": 0.9,
        "evaluate_every": 0,
        "reading": 0.0,
    }
)


class TalkerDPO(TalkerRecipe):
    """-log sigmoid of how much more the policy prefers the better attempt than the talker before did."""

    name: ClassVar[str] = "talker_dpo"
    starts_from: ClassVar[tuple[str, ...]] = ("talker",)
    reads: ClassVar[tuple[str, ...]] = ("speech_tokenizer", "talker", "dit", "bigvgan")
    writes: ClassVar[tuple[str, ...]] = ("talker_dpo",)
    scales = {
        "smoke": replace(
            CPU, steps=2, batch_size=2, texts=2, tries=2, workers=0, evaluate_every=0, log_every=1, longest=40
        ),
        "cpu": CPU,
        "t4": replace(CPU, steps=150, batch_size=16, workers=2),
        "gpu": replace(CPU, workers=4),  # the schedule that was measured: ten epochs on about 240 pairs
    }
    least = {**speech_bank.LEAST, "texts": 1}
    settings: DPOSettings

    def build(self) -> nn.Module:
        if self.settings.start:
            raise ConfigError(f"{self.name} begins with the talker of its own run: leave `start` empty")
        model: Any = super().build()
        need_part(self.parts, "talker", model["talker"], self.name)
        model["reference"] = Talker(self.config.talker_config).requires_grad_(False)
        model["reference"].load_state_dict(model["talker"].state_dict())
        self.triples = self.find_triples(model)
        if not self.triples:
            raise DataError(f"none of {self.settings.texts} sentences gave a pair to prefer from: --set texts=N, more")
        return model

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        """Where the talker looks, and no more: what it gets wrong is mostly which word is next. So what changes is
        small enough to be kept beside a checkpoint, to be heard with it and without (`parts.added_by_dpo`)."""
        chosen = [(name, p) for name, p in model["talker"].named_parameters() if re.match(self.settings.learns, name)]
        return {"main": decay_groups(chosen, self.settings)}

    def find_triples(self, model: Any) -> list[Triple]:
        """The triples of this talker. Each sentence's is kept as soon as it is found: processes share them, and one
        that was killed goes on where it was."""
        if self.parts is None:
            raise ConfigError(f"{self.name} needs a folder of trained parts")
        folder = self.parts / f"triples_{self.fingerprint(model, self.parts):08x}"
        folder.mkdir(exist_ok=True)
        kept = [folder / f"{number:05d}.json" for number in range(self.settings.texts)]
        missing = [number for number in own_first(self.settings.texts, *rank()) if not kept[number].exists()]
        if missing:
            self.collect(model, self.parts, missing, kept)
        rows = [json.loads(path.read_text()) for path in kept]
        return [
            Triple(r["text"], r["speaker"], torch.tensor(r["chosen"]), torch.tensor(r["rejected"])) for r in rows if r
        ]

    def fingerprint(self, model: Any, parts: Path) -> int:
        """What tells the attempts of one talker and one way to draw and to hear them from those of another."""
        of = self.settings
        way = (of.preset, DRAWN, of.tries, of.source, of.temperature, of.longest, of.steps < 10, self.seed)
        known = zlib.crc32(repr(way).encode())
        for name in ("speech_tokenizer", "dit", "bigvgan"):
            known = zlib.crc32(part_path(parts, name).read_bytes(), known)
        for tensor in (*model["thinker"].state_dict().values(), *model["talker"].state_dict().values()):
            known = zlib.crc32(tensor.flatten().view(torch.uint8).numpy(), known)
        return known

    @torch.no_grad()
    def collect(self, model: Any, parts: Path, numbers: Sequence[int], kept: Sequence[Path]) -> None:
        """Write the triple of each of these sentences to `kept`, or null where there is none. Another process may find
        the same meanwhile: it would be no other."""
        model = model.to(self.device).eval()
        token2wav = load_codec(self.config, parts, self.name).to(self.device)
        voice = reference_speaker(self.config, parts, "heart")
        for number in tqdm(numbers, desc="attempts", unit="sentence", leave=False):
            if kept[number].exists():
                continue
            rng = generator("preferences", "train", self.seed, number)
            text = pick(rng, (sentences.hard_sentence, sentences.paused_sentence))(rng, "train")
            found = self.triple(model, token2wav, voice, text, number)
            part = kept[number].with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(found))
            os.replace(part, kept[number])
        model.cpu().train()

    def triple(self, model: Any, token2wav: Token2Wav, voice: Any, text: str, number: int) -> dict[str, Any] | None:
        """A text, the reply that said it wrong, and the best of other ways to say it; None where it was right, or
        none of them is better."""
        smoke = self.settings.steps < 10  # nothing that an untrained talker says is better than the rest
        (reply,) = self.attempts(model, text, number, 1, DRAWN)
        (wrong,) = spoken_scores(text, token2wav, [reply], voice, number)
        if not wrong and not smoke:
            return None
        others = self.attempts(model, text, number, self.settings.tries, self.settings.temperature)
        if self.settings.source:
            own = self.tokenizer.encode(torch.from_numpy(speech.say(text, "heart", number)))
            others.append(own[: self.settings.longest].to(self.device))
        scores = spoken_scores(text, token2wav, others, voice, number)
        best = preferences.better(wrong, scores)
        if best is None and not smoke:
            return None
        chosen = others[best or 0]
        return {"text": text, "speaker": "heart", "chosen": chosen.tolist(), "rejected": reply.tolist()}

    def attempts(self, model: Any, text: str, number: int, tries: int, temperature: float) -> list[Tensor]:
        """Codes of `tries` ways to say a text, each at least one code long."""
        spoken = [Spoken(said(text), torch.zeros(1, dtype=torch.long), 0) for _ in range(tries)]
        device = model["talker"].codec_head.weight.device
        batch = to_device(self.pack(spoken), device)
        heard = model["thinker"](**batch["thinker"], logits_to_keep=0)
        context, reply = talker_view(model["thinker"], model["talker"], heard, batch)
        sampling = of_replies(model["talker"].default_sampling, temperature)
        how = {"sampling": sampling, "generator": torch.Generator(device).manual_seed(number)}
        codes = model["talker"].generate(
            context, reply, batch["reply_lengths"], max_new_tokens=self.settings.longest, **how
        )
        size = self.tokenizer.config.codebook_size
        return [row[row < size] if bool((row < size).any()) else row.new_zeros(1) for row in codes]

    def spoken(self, index: int, bad: list[str]) -> list[Spoken]:
        """Chosen attempts, then the rejected ones in the same order."""
        rng = generator("preference batch", "train", self.seed, index)
        chosen = [self.triples[i] for i in rng.integers(len(self.triples), size=self.settings.batch_size)]
        rows = [Spoken(said(t.text), t.chosen, 0) for t in chosen]
        return rows + [Spoken(said(t.text), t.rejected, 0) for t in chosen]

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            heard = model["thinker"](**batch["thinker"], logits_to_keep=0)
            context, reply = talker_view(model["thinker"], model["talker"], heard, batch)
        # With its own codes all right it would unlearn to read, as before stage 1 let it mishear.
        share, silence = self.settings.mishear * model.training, self.config.talker_config.tts_codec_mask_token_id
        codes = reading.misheard(batch["codes"], share, silence)
        given = (context, reply, codes, batch["reply_lengths"], batch["targets"])
        policy = model["talker"](*given).logits
        with torch.no_grad():
            reference = model["reference"](*given).logits
        targets = batch["targets"]
        chosen, rejected = preferences.sequence_log_probability(policy, targets).chunk(2)
        before_chosen, before_rejected = preferences.sequence_log_probability(reference, targets).chunk(2)
        margins = (chosen, rejected, before_chosen, before_rejected)
        preference = preferences.dpo_loss(*margins, self.settings.beta)
        anchor = -chosen.sum() / (targets.chunk(2)[0] != IGNORE).sum()
        metrics_ = {"preference": preference, "reward accuracy": preferences.reward_accuracy(*margins)}
        return preference + self.settings.anchor * anchor, metrics_

    def finish(self, model: Any) -> None:
        save_part(self.parts, self.name, model["talker"])


def rank() -> tuple[int, int]:
    """(number of this process, how many there are)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def own_first(count: int, number: int, processes: int) -> list[int]:
    """Process `number`'s order of 0 ... count - 1: its own share, then the others' from their ends, so that it helps
    those who are slower and seldom does what one of them is doing."""
    own = range(count * number // processes, count * (number + 1) // processes)
    return [*own, *(i for i in reversed(range(count)) if i not in own)]


def load_codec(config, parts: Path, recipe: str) -> Token2Wav:
    """The trained DiT and vocoder, as quiet as in the assembled model."""
    token2wav = Token2Wav(config.token2wav_config).eval()
    need_part(parts, "dit", token2wav.code2wav_dit_model, recipe)
    need_part(parts, "bigvgan", token2wav.code2wav_bigvgan_model, recipe)
    token2wav.code2wav_dit_model.temperature = TEMPERATURE
    return token2wav


def spoken_scores(text: str, token2wav: Token2Wav, attempts: Sequence[Tensor], voice, seed: int) -> list[float]:
    """How badly each of these codes (n,) says `text`, by an independent recogniser: word errors, and wrong pauses.

    All attempts are heard with noise of the same seed and with as few steps as replies are."""
    waves = []
    for codes in attempts:
        torch.manual_seed(seed)
        waves.append(token2wav(codes, speaker=voice, num_steps=POINTS).float().cpu().numpy())
    scores = []
    for heard in ears.all_words(waves, speech.SPEAKING_RATE):
        errors, places = metrics.pause_errors(text, heard)
        words = metrics.word_error_rate([text], [" ".join(word for word, _, _ in heard)])
        scores.append(preferences.preference_score(words, errors / max(places, 1)))
    return scores
