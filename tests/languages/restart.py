"""`python restart.py PORT`: the server under test is restarted; ends once it answers again.

A command, since every language can run one (it is in TREERING_RESTART).
"""

import socket
import sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    sys.exit(connection.recv(4) != b"done")
