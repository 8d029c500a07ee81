"""A WebSocket echo server. Prints its port, then serves until it is killed."""

import asyncio

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    # No limits of its own and no extensions: what is tested is what lies in front of it.
    options = {"compression": None, "max_size": None, "max_queue": None, "ping_interval": None}
    async with serve(echo, "127.0.0.1", 0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
