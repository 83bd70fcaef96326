"""StreamService: what is known about streams, their retention and deletion."""

from dataclasses import replace

from treering_server.core.model import DeleteStream, ListStreams, UpdateStream
from treering_server.core.reader import Reader
from treering_server.core.streams import StreamChanges
from treering_server.services import requests, responses
from treering_server.services.calls import Calls, Handler
from treering_server.services.intake import Context

NAME = "treering.v1.StreamService"


class StreamService:
    """Translates, and decides nothing."""

    def __init__(self, reader: Reader, changes: StreamChanges) -> None:
        """Serves what a reader finds."""
        self._reader = reader
        self._changes = changes

    def handlers(self, calls: Calls) -> dict[str, Handler]:
        """The methods by name."""
        unary = calls.unary
        return {
            "GetStream": unary("GetStream", requests.read_get_stream, self.get_stream),
            "ListStreams": unary("ListStreams", requests.read_list_streams, self.list_streams),
            "UpdateStream": unary("UpdateStream", requests.read_update_stream, self.update_stream),
            "DeleteStream": unary("DeleteStream", requests.read_delete_stream, self.delete_stream),
        }

    async def get_stream(self, name: str, _context: Context) -> bytes:
        """See the proto file, as for all methods."""
        return responses.stream(await self._reader.stream(name))

    async def list_streams(self, asked: ListStreams, _context: Context) -> bytes:
        """See the proto file."""
        # One more than asked for tells whether there is a next page.
        found = await self._reader.streams(replace(asked, page_size=asked.page_size + 1))
        page = found[: asked.page_size]
        token = (
            requests.next_page_token(asked.prefix, page[-1].name) if len(found) > len(page) else ""
        )
        return responses.streams(page, token)

    async def update_stream(self, asked: UpdateStream, _context: Context) -> bytes:
        """See the proto file."""
        return responses.updated_stream(await self._changes.update(asked))

    async def delete_stream(self, asked: DeleteStream, _context: Context) -> bytes:
        """See the proto file."""
        return responses.deleted_stream(await self._changes.delete(asked))
