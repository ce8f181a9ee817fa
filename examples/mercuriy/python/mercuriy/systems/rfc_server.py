"""The server of the RFC-shaped protocol: the functions of functions.json.

    python -m mercuriy.systems.rfc_server PORT

Prints its port (0 takes a free one), and serves until its standard input ends: so it ends with the process that has
started it, whatever ends that.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from . import wire

_running = 0
"""The number of calls of SLOW that run."""


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            frame = await reader.readexactly(wire.size_of(await reader.readexactly(4)))
            tag, texts = wire.decode(frame)
            if tag != wire.CALL or not texts:
                raise wire.ProtocolError("an answer from a client")
            writer.write(await _answer(texts[0], wire.parameters(texts[1:]), reader))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, wire.ProtocolError):
        pass  # the client hangs up, or should
    finally:
        writer.close()


async def _answer(function: str, sent: wire.Parameters, reader: asyncio.StreamReader) -> bytes:
    try:
        values = {name: json.loads(value) for name, value in sent.items() if name != "MESSAGE"}
        result = await _perform(function, values, reader)
        return wire.encode(wire.RESULTS, "RESULT", json.dumps(result))
    except _Failed as failed:
        return wire.encode(wire.FAILURE, failed.key, str(failed))
    except (KeyError, TypeError, ValueError, wire.ProtocolError) as error:
        return wire.encode(wire.FAILURE, "PARAMETER_INVALID", f"{type(error).__name__}: {error}")


class _Failed(Exception):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


async def _perform(function: str, sent: dict[str, Any], reader: asyncio.StreamReader) -> Any:
    match function:
        case "ECHO":
            return sent["X"]
        case "ADD":
            return sent["A"] + sent["B"]
        case "SLOW":
            return await _slow(sent["MS"], reader)
        case "FAIL":
            raise _Failed("FUNCTION_FAILED", sent["TEXT"])
        case "BIG":
            return "x" * sent["N"]
        case "RUNNING":
            return _running
        case _:
            raise _Failed("FUNCTION_NOT_FOUND", f"there is no function {function}")


async def _slow(ms: int, reader: asyncio.StreamReader) -> int:
    """Waits. Ends with the connection: hanging up is how a client cancels."""
    global _running
    _running += 1
    try:
        # A client that waits for its answer sends nothing.
        await asyncio.wait_for(reader.read(1), ms / 1000)
    except TimeoutError:
        return ms
    finally:
        _running -= 1
    raise ConnectionError("the client has hung up")


async def _main(port: int) -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    # Ctrl-C ends the service, which needs its systems to end its work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main(int(sys.argv[1])))
