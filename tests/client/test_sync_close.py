# Made by tools/sync_client.py from tests/client/test_async_close.py.
# Change that one, and run `python tools/sync_client.py`.

import pytest

from treering import Client, ClientClosed, Event


def test_a_closed_client_takes_no_calls(address, name):
    client = Client(address)
    client.append(name, Event("A"))
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.append(name, Event("A"))
    with pytest.raises(ClientClosed):
        client.head()
    with pytest.raises(ClientClosed):
        client.stream(name)
    with pytest.raises(ClientClosed):
        client.read(name)
    with pytest.raises(ClientClosed):
        client.subscribe(name)
    with pytest.raises(ClientClosed):
        for _ in client.streams():
            pass


def test_a_client_that_was_never_used_is_closed(address):
    with Client(address):
        pass


def test_a_client_listens_to_a_socket_file_too(server_process, tmp_path):
    from databases import sqlite_url

    address = f"unix:{tmp_path / 'treering.sock'}"
    server_process(sqlite_url(tmp_path), listen=address)
    with Client(address) as client:
        assert (client.append("s", Event("A"))).first_position == 1
