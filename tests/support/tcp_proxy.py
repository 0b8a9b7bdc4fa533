"""A TCP proxy that simulates a bad network: delay, silence, reset, refusal."""

from __future__ import annotations

import socket
import struct
import threading
import time

from tests.support.broker import HOST


class TcpProxy:
    """Forwards connections to a port of this machine.

    Each forwarded chunk is delayed by `delay_s`; while `silent` is set nothing is forwarded and new connections get no
    answer; while `refusing` is set new connections are reset.
    """

    def __init__(self, target_port: int) -> None:
        self.delay_s = 0.0
        self.silent = False
        self.refusing = False
        self._target_port = target_port
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """End every connection with a TCP reset."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            _reset(sock)

    def close(self) -> None:
        """Stop listening and reset every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection((HOST, self._target_port), 2)
            except OSError:
                _reset(client)
                continue
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                time.sleep(self.delay_s)
                while self.silent:
                    time.sleep(0.02)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
