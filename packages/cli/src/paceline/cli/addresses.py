"""host:port, and whether a port can be had."""

from __future__ import annotations

import errno
import re
import socket
from contextlib import closing

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Host without brackets, and port. Raises ValueError: it is no host:port."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{address!r} is not host:port with a port up to 65535")
    return match[1].removeprefix("[").removesuffix("]"), int(match[2])


def why_not_free(address: str) -> str:
    """Why nobody could listen there, e.g. "the port is taken"; empty if one could. Raises ValueError."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as listening:
            # As servers do: what ended a moment ago is free.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen(1)
    except socket.gaierror as error:
        return f"{host} is no address: {error.strerror}"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "the port is taken"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine"
        return (error.strerror or str(error)).lower()
    return ""
