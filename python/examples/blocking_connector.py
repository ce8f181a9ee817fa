"""A database driver without an async interface, used from asyncio: one connection per worker.

    python python/examples/blocking_connector.py

The database is a small TCP server in a thread of this program. `Client` stands for the driver: it
blocks, and must be used by one thread at a time. Each worker of a pool keeps one open.
"""

import asyncio
import functools
import socket
import socketserver
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import offloop
from heartbeat import Heartbeat, milliseconds

Address = tuple[str, int]


class Session(socketserver.StreamRequestHandler):
    """The server's side of one connection. It answers each line with a line."""

    def handle(self) -> None:
        for line in self.rfile:
            match line.decode().split():
                case ["SQUARE", number]:
                    time.sleep(0.005)  # a query takes its time
                    self.answer(str(int(number) ** 2))
                case ["SLEEP", seconds]:
                    time.sleep(float(seconds))
                    self.answer("slept")
                case ["CONNECTIONS"]:
                    assert isinstance(self.server, Server)
                    self.answer(str(self.server.connections))
                case _:
                    return  # hangs up

    def answer(self, line: str) -> None:
        try:
            self.wfile.write(f"{line}\n".encode())
        except ConnectionError:
            pass  # the client did not wait for it


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    connections = 0
    """The number of connections that were opened so far."""

    def process_request(self, request: object, client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]


@contextmanager
def server() -> Generator[Address, None, None]:
    with Server(("127.0.0.1", 0), Session) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        port: int = listening.server_address[1]
        yield "127.0.0.1", port
        listening.shutdown()


class Client:
    """The driver: one connection, one question at a time. Blocks."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address)

    def ask(self, question: str) -> str:
        self._socket.sendall(f"{question}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            received = self._socket.recv(4096)
            if not received:
                raise ConnectionError("the server has hung up")
            answer += received
        return answer.decode().strip()

    def hang_up(self) -> None:
        """Ends a question that another thread waits for. `close` would leave that thread waiting."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


def ask(question: str) -> str:
    """Asks the worker's connection. The pools run this function."""
    client: Client = offloop.worker_state()
    try:
        # A thread cannot be killed; a process is, if the job is cancelled.
        with offloop.on_cancel(client.hang_up):
            return client.ask(question)
    except BaseException:
        # The connection is broken: the next question needs another one.
        offloop.discard_worker_state()
        raise


async def demonstrate(
    title: str, pool: "offloop.ThreadPoolExecutor | offloop.ProcessPoolExecutor"
) -> None:
    print(title)

    async with Heartbeat() as heart:

        async def many() -> int:
            squares = await asyncio.gather(*(pool.run(ask, f"SQUARE {i}") for i in range(200)))
            return sum(map(int, squares))

        total, (took, late) = await heart.measure(many)
    assert total == sum(i * i for i in range(200))
    print(
        f"  200 questions at once    {milliseconds(took)}, loop late {milliseconds(late)} at worst"
    )
    connections = await pool.run(ask, "CONNECTIONS")
    print(f"  connections so far       {connections}")

    try:
        await pool.run(ask, "HANG UP")
    except ConnectionError as error:
        print(f"  a broken connection      ConnectionError: {error}")

    try:
        await pool.options(timeout=0.2).run(ask, "SLEEP 60")
    except offloop.RunTimeout as error:
        print(f"  a question out of time   RunTimeout: {error}")

    question = asyncio.ensure_future(pool.run(ask, "SLEEP 60"))
    await asyncio.sleep(0.2)
    question.cancel()
    try:
        await question
    except asyncio.CancelledError:
        print("  a cancelled question     CancelledError")

    total = await many()
    connections = await pool.run(ask, "CONNECTIONS")
    print(f"  the pool works on        {total} again, {connections} connections so far")


async def main() -> None:
    with server() as address:
        connect = functools.partial(Client, address)
        async with offloop.ThreadPoolExecutor(
            4, worker_state=connect, close_worker_state=Client.close
        ) as threads:
            await demonstrate("Four threads, whose questions hang up if they should stop:", threads)
        async with offloop.ProcessPoolExecutor(
            2, worker_state=connect, close_worker_state=Client.close
        ) as processes:
            await demonstrate("Two processes, which are killed if it should:", processes)


if __name__ == "__main__":  # worker processes import this file, and must not do this again
    asyncio.run(main())
