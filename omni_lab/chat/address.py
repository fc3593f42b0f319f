"""Where the chat may be served, and to whom."""

from ..errors import InputError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def check_address(host: str, token: str | None) -> None:
    """Raise InputError for an address that strangers can reach without a token."""
    if host not in LOOPBACK and not token:
        raise InputError(f"on {host} others can reach this: set a token with --token, or bind to {LOOPBACK[0]}")
