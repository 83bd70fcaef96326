"""StreamService: what is known about streams, their retention and deletion."""

from dataclasses import replace

from treering_server.core.limits import Limits
from treering_server.core.reader import Reader
from treering_server.core.streams import StreamChanges
from treering_server.services import requests, responses
from treering_server.services.calls import Calls, Context, Handler

NAME = "treering.v1.StreamService"


class StreamService:
    """Translates, and decides nothing."""

    def __init__(self, reader: Reader, changes: StreamChanges, limits: Limits) -> None:
        """Serves what a reader finds."""
        self._reader = reader
        self._changes = changes
        self._limits = limits

    def handlers(self, calls: Calls) -> dict[str, Handler]:
        """The methods by name."""
        return {
            "GetStream": calls.unary("GetStream", self.get_stream),
            "ListStreams": calls.unary("ListStreams", self.list_streams),
            "UpdateStream": calls.unary("UpdateStream", self.update_stream),
            "DeleteStream": calls.unary("DeleteStream", self.delete_stream),
        }

    async def get_stream(self, request: bytes, _context: Context) -> bytes:
        """See the proto file, as for all methods."""
        name = requests.read_get_stream(request, self._limits)
        return responses.stream(await self._reader.stream(name))

    async def list_streams(self, request: bytes, _context: Context) -> bytes:
        """See the proto file."""
        asked = requests.read_list_streams(request, self._limits)
        # One more than asked for tells whether there is a next page.
        found = await self._reader.streams(replace(asked, page_size=asked.page_size + 1))
        page = found[: asked.page_size]
        token = (
            requests.next_page_token(asked.prefix, page[-1].name) if len(found) > len(page) else ""
        )
        return responses.streams(page, token)

    async def update_stream(self, request: bytes, _context: Context) -> bytes:
        """See the proto file."""
        asked = requests.read_update_stream(request, self._limits)
        return responses.updated_stream(await self._changes.update(asked))

    async def delete_stream(self, request: bytes, _context: Context) -> bytes:
        """See the proto file."""
        asked = requests.read_delete_stream(request, self._limits)
        return responses.deleted_stream(await self._changes.delete(asked))
