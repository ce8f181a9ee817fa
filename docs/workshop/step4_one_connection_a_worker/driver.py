"""The driver of the other system, as its vendor ships it: it blocks, and serves one call at a time."""

import socket


class Client:
    """A connection."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))

    def ask(self, question: str) -> str:
        """Returns the answer. Blocks until it has come."""
        self._socket.sendall(f"{question}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            received = self._socket.recv(4096)
            if not received:
                raise ConnectionError("the system has hung up")
            answer += received
        return answer.decode().strip()

    def hang_up(self) -> None:
        """Ends a call that another thread waits for. `close` would leave that thread waiting."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
