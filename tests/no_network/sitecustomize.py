"""Python imports this at start when its folder is on PYTHONPATH: nothing but this machine can be reached from then on.

conftest.py puts it there, so every test, and every kernel and program that a test starts, runs without network.
"""

import ipaddress
import socket


def is_here(host: object) -> bool:
    if not isinstance(host, str) or host in ("", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback or host in ("0.0.0.0", "::")
    except ValueError:
        return False


class LocalSocket(socket.socket):
    """A socket that connects to this machine only."""

    def connect(self, address):
        self.refuse(address)
        return super().connect(address)

    def connect_ex(self, address):
        self.refuse(address)
        return super().connect_ex(address)

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_here(address[0]):
            raise ConnectionRefusedError(f"the tests run without network, and this wanted {address[0]}")


resolve = socket.getaddrinfo


def local_getaddrinfo(host, *arguments, **options):
    name = host.decode() if isinstance(host, bytes) else host
    if not is_here(name):
        raise socket.gaierror(f"the tests run without network, and this wanted {name}")
    return resolve(host, *arguments, **options)


socket.socket = LocalSocket
socket.getaddrinfo = local_getaddrinfo
