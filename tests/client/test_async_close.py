import pytest

from treering import AsyncClient, ClientClosed, Event


async def test_a_closed_client_takes_no_calls(address, name):
    client = AsyncClient(address)
    await client.append(name, Event("A"))
    await client.close()
    await client.close()
    with pytest.raises(ClientClosed):
        await client.append(name, Event("A"))
    with pytest.raises(ClientClosed):
        await client.head()
    with pytest.raises(ClientClosed):
        await client.stream(name)
    with pytest.raises(ClientClosed):
        client.read(name)
    with pytest.raises(ClientClosed):
        client.subscribe(name)
    with pytest.raises(ClientClosed):
        async for _ in client.streams():
            pass


async def test_a_client_that_was_never_used_is_closed(address):
    async with AsyncClient(address):
        pass


async def test_a_client_listens_to_a_socket_file_too(server_process, tmp_path):
    from databases import sqlite_url

    address = f"unix:{tmp_path / 'treering.sock'}"
    server_process(sqlite_url(tmp_path), listen=address)
    async with AsyncClient(address) as client:
        assert (await client.append("s", Event("A"))).first_position == 1
