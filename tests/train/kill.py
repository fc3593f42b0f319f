"""Train the toy in children that die at random moments, as by `kill -9`: kill.py KILLED WHOLE KILLS STEPS.

Children are forked after a first run, so that a kill costs milliseconds and not another import of torch and its parts.
"""

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from toy import TOY, Toy

from omni_lab.train.loop import train


def run(folder: Path, steps: int) -> None:
    train(Toy(replace(TOY, steps=steps), seed=3), folder, resume=True, device="cpu", progress=False)


def child(folder: Path, steps: int) -> int:
    pid = os.fork()
    if not pid:
        run(folder, steps)
        os._exit(0)
    return pid


def main(killed: Path, whole: Path, kills: int, steps: int) -> None:
    run(whole.with_name("first"), 2)
    started = time.monotonic()
    os.waitpid(child(whole, steps), 0)
    longest, dice, done = time.monotonic() - started, random.Random(1), 0
    while done < kills:  # on a busy machine some children end before their kill
        if (killed / f"step_{steps:08d}").exists():
            sys.exit("finished before its last kill: give it more steps")
        pid = child(killed, steps)
        time.sleep(dice.uniform(0, longest / 25))
        os.kill(pid, signal.SIGKILL)
        done += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    _, status = os.waitpid(child(killed, steps), 0)
    print(f"killed {done} times, then left with {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
