"""The adapters for aiohttp and Django, in one process. `test_web_servers.py` has real services."""

from __future__ import annotations

import asyncio
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support import jobs, scripts

import offloop

needs_aiohttp = pytest.mark.skipif(find_spec("aiohttp") is None, reason="needs aiohttp")
needs_django = pytest.mark.skipif(find_spec("django") is None, reason="needs Django")


async def until(condition: Any) -> None:
    async with asyncio.timeout(jobs.HANG):
        while not condition():
            await asyncio.sleep(0.005)


def serve(handler: Any, ask: Any, *, handler_cancellation: bool = False, **options: Any) -> None:
    """Serves `handler` by aiohttp, and runs `ask(client)`."""
    from aiohttp import ClientSession, web

    import offloop.aiohttp

    async def main() -> None:
        app = web.Application()
        offloop.aiohttp.setup(app, **options)
        app.router.add_route("*", "/", handler)
        runner = web.AppRunner(app, handler_cancellation=handler_cancellation)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        [(_, port)] = runner.addresses
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            await ask(client)
        await runner.cleanup()

    asyncio.run(main())


@needs_aiohttp
def test_aiohttp_raises_an_error_after_the_response_has_begun() -> None:
    from aiohttp import ClientError, web

    async def handler(request: Any) -> Any:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise offloop.RunTimeout("late")

    async def ask(client: Any) -> None:
        async with client.get("/") as response:
            assert response.status == 200
            with pytest.raises(ClientError):
                await response.read()

    serve(handler, ask)


@needs_aiohttp
def test_aiohttp_answers_errors_and_no_others() -> None:
    async def handler(request: Any) -> Any:
        raise {"full": offloop.QueueFull, "other": ValueError}[request.query["raise"]]("the reason")

    async def ask(client: Any) -> None:
        async with client.get("/?raise=full") as response:
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            assert await response.text() == "Service Unavailable\nQueueFull: the reason\n"
        async with client.get("/?raise=other") as response:
            assert response.status == 500

    serve(handler, ask, debug=True)


@needs_aiohttp
def test_aiohttp_cancels_neither_websockets_nor_requests_that_are_left_out() -> None:
    from aiohttp import web

    ended: list[str] = []

    async def handler(request: Any) -> Any:
        if "upgrade" in request.headers:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            assert (await socket.receive()).type == web.WSMsgType.CLOSE
        else:
            await until(lambda: request.transport is None)
        await asyncio.sleep(0.3)
        ended.append(request.method)
        return web.Response()

    async def ask(client: Any) -> None:
        socket = await client.ws_connect("/")
        await asyncio.sleep(0.2)
        await socket.close()
        await until(lambda: ended == ["GET"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.post("/"), 0.2)
        await until(lambda: ended == ["GET", "POST"])

    serve(handler, ask, cancel_on_disconnect=lambda request: request.method == "GET")


@needs_aiohttp
def test_aiohttp_cancels_once_if_both_notice_the_disconnect(tmp_path: Path) -> None:
    async def handler(request: Any) -> Any:
        try:
            await offloop.run_cpu(jobs.hang, tmp_path / "pid")
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)  # a clean-up that takes longer than the other needs to notice
            cleaned.append(True)
            raise

    async def ask(client: Any) -> None:
        asking = asyncio.ensure_future(client.get("/"))
        await until(lambda: (tmp_path / "pid").exists())
        asking.cancel()
        await until(lambda: cleaned)
        assert jobs.is_gone(int((tmp_path / "pid").read_text()))

    cleaned: list[bool] = []
    serve(handler, ask, handler_cancellation=True)


@needs_django
def test_django_answers_errors_in_views_of_both_kinds(tmp_path: Path) -> None:
    code = """
        import asyncio
        import django
        from django.conf import settings
        from django.test import AsyncClient, Client
        from django.urls import path
        import offloop

        settings.configure(
            SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
            MIDDLEWARE=["offloop.django.OffloopMiddleware"],
            OFFLOOP_STATUSES={offloop.QueueFull: 429},
        )
        django.setup()

        def view(request):
            raise offloop.QueueFull("the secret")

        async def async_view(request):
            raise offloop.QueueFull("the secret")

        def broken(request):
            raise ValueError

        urlpatterns = [path("sync", view), path("async", async_view), path("broken", broken)]
        for kind in ("sync", "async"):
            for response in (
                Client(raise_request_exception=False).get("/" + kind),
                asyncio.run(AsyncClient(raise_request_exception=False).get("/" + kind)),
            ):
                assert response.status_code == 429, response
                assert response.content == b"Too Many Requests\\n"
        assert Client(raise_request_exception=False).get("/broken").status_code == 500
        print("done")
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    done = scripts.run(script)
    assert done.stdout == "done\n", done.stderr


@needs_django
def test_django_gives_each_request_an_id_in_views_of_both_kinds(tmp_path: Path) -> None:
    code = """
        import asyncio
        import django
        from django.conf import settings
        from django.http import HttpResponse
        from django.test import AsyncClient, Client
        from django.urls import path
        import offloop

        settings.configure(
            SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
            MIDDLEWARE=["offloop.django.OffloopMiddleware"],
        )
        django.setup()

        def view(request):
            return HttpResponse(offloop.request_id.get())

        async def async_view(request):
            return HttpResponse(await offloop.run(offloop.request_id.get))

        urlpatterns = [path("sync", view), path("async", async_view)]
        for kind in ("sync", "async"):
            for given in ("r-1", None, "no id"):
                headers = {} if given is None else {"X-Request-ID": given}
                for response in (
                    Client().get("/" + kind, headers=headers),
                    asyncio.run(AsyncClient().get("/" + kind, headers=headers)),
                ):
                    name = response.content.decode()
                    assert response.headers["X-Request-ID"] == name
                    assert (name == given) == (given == "r-1") and name != "None", (kind, given, name)
        assert offloop.request_id.get() is None
        print("done")
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    done = scripts.run(script)
    assert done.stdout == "done\n", done.stderr
