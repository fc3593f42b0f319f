"""Memory, processes, threads, output, disk, network, daemons, and reading what is not theirs."""

from .make import FULL, NONE, Expected, forger, honest, markdown, notebook

BOMB = "hoard = []\nwhile True: hoard.append(bytearray(16 << 20))"
SHARED_BOMB = """import mmap
hoard = []
while True:
    hoard.append(mmap.mmap(-1, 64 << 20)); hoard[-1].write(b"x" * (64 << 20))"""
FORK_BOMB = """import os
while True:
    try: os.fork()
    except OSError: pass"""
THREAD_BOMB = """import threading, time
for _ in range(100_000): threading.Thread(target=time.sleep, args=(3600,)).start()"""
DISK = """import os
for folder in ("/scratch", "/dev/shm", "/tmp", "/dev", "/", "/course", "/results"):
    try:
        for number in range(10_000):
            with open(f"{folder}/fill{number}", "wb") as file:
                for _ in range(8): file.write(b"x" * (1 << 20))
    except OSError as error: print(folder, error)
os.truncate("/scratch/fill0", 1 << 40)"""
NETWORK = """import socket, urllib.request
reached = []
for family, address in ((socket.AF_INET, ("127.0.0.1", @PORT@)), (socket.AF_INET, ("10.0.0.1", 80)),
                        (socket.AF_INET6, ("::1", @PORT@)), (socket.AF_UNIX, "\\0omni-lab-test-@PORT@"),
                        (40, (2, @PORT@))):
    try:
        connection = socket.socket(family, socket.SOCK_STREAM); connection.settimeout(0.3)
        connection.connect(address); connection.send(b"out"); reached.append(address)
    except Exception as error: print(error)
if reached: raise Exception(f"LEAK network {reached}")"""
DAEMON = """import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(7777)"])
    os._exit(0)
os.wait()
subprocess.Popen(["sleep", "7777"], start_new_session=True)
subprocess.Popen("nohup sleep 7777 &", shell=True)"""
READING = """import gc, glob, os, sys
leaks = []
def look(path):
    try:
        with open(path, "rb") as file: text = file.read(300_000)
    except OSError: return
    if b"CANARY-" + b"SOLUTION" in text or b"CANARY-" + b"CASES" in text or b"CANARY-" + b"ENVIRONMENT" in text:
        leaks.append(path)
for start in ("/", "..", "../..", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/.."):
    for folder, folders, files in os.walk(start):
        folders[:] = [f for f in folders if f not in ("usr", "proc", "sys", "lib", "lib64", "site-packages")]
        if folder.count("/") > 9: folders[:] = []
        for name in files: look(os.path.join(folder, name))
for pattern in ("/proc/*/environ", "/proc/*/cmdline", "/proc/*/fd/*", "/proc/*/maps", "/proc/*/task/*/environ"):
    for path in glob.glob(pattern):
        if os.path.isfile(path) and "fd" not in path: look(path)
frame = sys._getframe()
while frame:
    if any("expected" in str(name) for name in frame.f_locals): leaks.append("frame")
    frame = frame.f_back
for thing in gc.get_objects():
    if isinstance(thing, dict) and "toy.double" in thing and "expected" in repr(thing)[:5000]: leaks.append("gc")
others = [p for p in glob.glob("/**/*.ipynb", recursive=False) + glob.glob("/*/*.ipynb") if p != "/notebook.ipynb"]
if leaks or others: raise Exception(f"LEAK {leaks} {others}")"""
ESCAPE = """import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10000000) == -1 and libc.unshare(0x00020000) == -1
assert libc.mount(b"none", b"/scratch", b"tmpfs", 0, None) == -1
assert libc.chroot(b"/") == -1 and libc.ptrace(16, 1, 0, 0) == -1 and libc.setns(0, 0) == -1
try: os.setuid(0); raise Exception("LEAK root")
except OSError: pass
for path in ("/course/omni_lab/__init__.py", "/grader/probe.py", "/usr/bin/python3", "/cases", "/notebook.ipynb",
             "/work", "/etc", "/root", "/home", "/var", "/escaped", "/grader/escaped", "/course/escaped"):
    try:
        with open(path if os.path.splitext(path)[1] else path + "/escaped", "a") as file: file.write("x")
        raise Exception(f"LEAK wrote {path}")
    except OSError: pass"""
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"

SUBMISSIONS = {
    "memory-bombs": Expected(honest(BOMB, SHARED_BOMB), FULL),
    "fork-bomb": Expected(honest(FORK_BOMB), FULL),
    "thread-bomb": Expected(honest(f"{THREAD_BOMB}\n"), FULL),
    "200-megabytes-of-output-and-a-full-disk": Expected(
        honest("print('x' * 200_000_000)", "import os\nos.write(1, b'x' * 200_000_000)", DISK), FULL
    ),
    "network-and-background-daemons": Expected(honest(NETWORK, ESCAPE, DAEMON), FULL),
    "reads-everything": Expected(forger(READING), NONE),
    f"=cmd()|{SCRIPT.replace('/', '')}": Expected(
        honest(markdown(SCRIPT), f"from IPython.display import HTML\nHTML({SCRIPT!r})",
               f'@exercise("toy.double")\ndef double(x):\n    raise Exception({SCRIPT!r})'),
        FULL,
    ),
    "script-in-message": Expected(
        notebook("import torch\nfrom omni_lab.lab import exercise",
                 f'@exercise("toy.double")\ndef double(x):\n    raise Exception({SCRIPT!r} + "\\x1b[31m\\u202e")'),
        NONE,
    ),
}  # fmt: skip
