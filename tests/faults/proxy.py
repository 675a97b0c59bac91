"""A proxy that picks whose replies it loses."""

import asyncio

from tests.proxy import BUFFER, Proxy, _Link

__all__ = ["PickyProxy"]


class PickyProxy(Proxy):
    """Loses every other reply to requests that contain `lose`, and their connections with them."""

    lose = b""
    lost = 0

    async def _requests(self, reader: asyncio.StreamReader, link: _Link, asked: asyncio.Event) -> None:
        odd = True
        while data := await reader.read(BUFFER):
            if self.lose and self.lose in data:
                odd = not odd
                self._dropping = odd
                if odd:
                    self.lost += 1
                    asked.set()
            await self._forward(data, link.server)
