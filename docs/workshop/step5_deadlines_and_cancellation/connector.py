"""The connector of another system, as its vendor ships it: it only blocks, and a connection serves one call at a time."""

import socket


class Connection:
    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self._socket.settimeout(None)
        self._answers = self._socket.makefile("rb")

    def ask(self, seconds: float) -> str:
        """Asks the system, which takes that time to answer."""
        self._socket.sendall(f"{seconds}\n".encode())
        answer = self._answers.readline()
        if not answer:
            raise ConnectionError("the system has closed the connection")
        return answer.decode().strip()

    def hang_up(self) -> None:
        """Ends a call that another thread waits for. `close` would leave that thread waiting."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()
