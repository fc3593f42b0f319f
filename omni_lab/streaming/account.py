"""Where the time of a streamed reply goes: the four sources of delay that the report names (section 2.4).

1 input processing     files and sound -> tensors, encoders, the thinker's prefill
2 first text to code   the thinker's first token, the talker's prefill, its first code
3 first codes to sound the codes that the first chunk needs, the DiT, the vocoder
4 the model itself     what a token, a code, and a second of sound cost from then on
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("input", "prefill", "thinker", "talker prefill", "talker", "dit", "vocoder")
SOURCES = ("1 input processing", "2 first text to first code", "3 first codes to sound", "4 the model itself")


@dataclass
class Account:
    """Spans of work of one request and its milestones. All times in seconds from the end of the question."""

    clock: Callable[[], float] = time.perf_counter  # time.process_time: what an idle machine would take
    began: float = field(init=False)
    spans: list[tuple[str, float, float]] = field(default_factory=list)  # (stage, start, end), never overlapping
    marks: dict[str, float] = field(default_factory=dict)  # "first text", "first code", "first sound", "end"
    tokens: int = 0
    codes: int = 0
    seconds: float = 0.0  # of sound given out
    chunks: list[tuple[float, float]] = field(default_factory=list)  # (when it was ready, seconds it plays)
    running: list[tuple[str, float]] = field(default_factory=list)  # stages at work, the innermost last

    def __post_init__(self) -> None:
        self.began = self.clock()

    def now(self) -> float:
        """Seconds since the end of the question."""
        return self.clock() - self.began

    @contextmanager
    def span(self, stage: str) -> Iterator[None]:
        """Count what happens inside as work of `stage`; a span within it pauses the one around it."""
        now = self.now()
        if self.running:
            outer, since = self.running[-1]
            self.spans.append((outer, since, now))
        self.running.append((stage, now))
        try:
            yield
        finally:
            now = self.now()
            name, since = self.running.pop()
            self.spans.append((name, since, now))
            if self.running:
                self.running[-1] = (self.running[-1][0], now)

    def mark(self, name: str) -> None:
        """Note when something happened for the first time."""
        self.marks.setdefault(name, self.now())

    def sounded(self, seconds: float) -> None:
        """A chunk of so many seconds has been given out."""
        self.mark("first sound")
        self.seconds += seconds
        self.chunks.append((self.now(), seconds))

    def spent(self, stage: str, before: float = float("inf")) -> float:
        """Seconds of work of `stage` that ended before a time."""
        return sum(end - start for name, start, end in self.spans if name == stage and end <= before)

    def sources(self) -> dict[str, float]:
        """Seconds of each of the four sources; 1 to 3 sum to the first sound, 4 is per second of sound from then on.

        A source that never came (no speech) is left out."""
        prefilled = max((end for name, _, end in self.spans if name in ("input", "prefill")), default=0.0)
        found = {SOURCES[0]: prefilled}
        if "first sound" in self.marks:
            found[SOURCES[1]] = self.marks["first code"] - prefilled
            found[SOURCES[2]] = self.marks["first sound"] - self.marks["first code"]
            later = self.seconds - self.chunks[0][1]
            if later > 0:
                work = sum(end - start for _, start, end in self.spans if start >= self.marks["first sound"])
                found[SOURCES[3]] = work / later
        return found

    def real_time_factor(self) -> float:
        """Seconds of work for a second of sound, first to last; infinite without sound."""
        work = sum(end - start for _, start, end in self.spans)
        return work / self.seconds if self.seconds else float("inf")

    def underrun(self) -> float:
        """Seconds for which a player that starts at the first chunk would have fallen silent."""
        silent, plays_until = 0.0, None
        for ready, seconds in self.chunks:
            if plays_until is not None and ready > plays_until:
                silent += ready - plays_until
            plays_until = max(ready, ready if plays_until is None else plays_until) + seconds
        return silent

    def table(self) -> str:
        """The account as text, milliseconds."""
        lines = [f"{name:<28} {1000 * seconds:8.1f} ms" for name, seconds in self.sources().items()]
        if len(lines) == len(SOURCES):
            lines[-1] += " per second of sound"
        lines += [f"   {stage:<25} {1000 * self.spent(stage):8.1f} ms" for stage in STAGES if self.spent(stage)]
        if self.seconds:
            lines.append(
                f"first sound after {1000 * self.marks['first sound']:.0f} ms, {self.seconds:.2f} s of sound, "
                f"real-time factor {self.real_time_factor():.2f}, silence {1000 * self.underrun():.0f} ms"
            )
        return "\n".join(lines)
