"""What a clone needs elsewhere, and a check that it is answered for."""

from __future__ import annotations

NEEDS = "dependencies: [http: 'http://10.1.2.3:8080', tcp: '10.1.2.3:5432', smtp: 10.1.2.3]\n"
_ASK = """
import socket
def ask(port, question, length):
    with socket.create_connection(("10.1.2.3", port), 60) as stream:
        stream.sendall(question)
        return stream.recv(length)
print(ask(8080, b"GET /health HTTP/1.1" + 2 * bytes([13, 10]), 12), ask(25, b"", 3))
print(socket.create_connection(("10.1.2.3", 5432), 60).getpeername())
print(socket.socket().connect_ex(("10.1.2.3", 81)))
"""
ANSWERED = f"""
def test_what_it_needs_is_there(host):
    done = host.run("python3 -c %s", {_ASK!r})
    said = done.stdout.splitlines()
    assert said == ["b'HTTP/1.1 200' b'220'", "('10.1.2.3', 5432)", "111"], done
"""
