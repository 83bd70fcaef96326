"""Whether somebody listens at a port of this machine."""

import socket


def listens(port: int) -> bool:
    """Tries to connect."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
