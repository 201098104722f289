"""A way to the gateway that breaks, or looks inside."""

import select
import socket
import ssl
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from components.governance.identity_files import SiteFolder


class Relay:
    """Passes bytes on, cut after so many; with a certificate of its own it is a middlebox that ends TLS.

    With `connects` it is an HTTP proxy: it waits for CONNECT first.
    """

    def __init__(self, port: int, *, cut: int = 1 << 60, inspect: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
                 connects: bool = False) -> None:  # fmt: skip
        self.cut, self.asked = cut, 0
        self._port, self._inspect, self._connects = port, inspect, connects
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ending.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                self.asked += 1
                accepted, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(accepted,)))
                self._threads[-1].start()

    def _serve(self, near: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(near)
            if self._connects:
                assert near.recv(65536).startswith(b"CONNECT ")
                near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            far = stack.enter_context(socket.create_connection(("127.0.0.1", self._port)))
            if self._inspect is not None:
                near = stack.enter_context(self._inspect[0].wrap_socket(near, server_side=True))
                far = stack.enter_context(self._inspect[1].wrap_socket(far))
            self._pass(near, far)

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        while not self._ending.is_set():
            for source, target in ((near, far), (far, near)):
                waiting = getattr(source, "pending", int)()
                if waiting or select.select([source], [], [], 0.01)[0]:
                    data = source.recv(65536)
                    self.cut -= len(data)
                    if not data or self.cut <= 0:
                        self.cut = 1 << 60
                        return
                    target.sendall(data)


def through(folder: SiteFolder, relay: Relay, tmp_path: Path) -> SiteFolder:
    """Return a copy of a site's folder whose gateway is behind a relay."""
    copy = SiteFolder(tmp_path / "copy")
    keys = folder.read_keys()
    for key, name in ((keys.signing, "signing"), (keys.sealing, "sealing"), (keys.tls, "tls")):
        key.save(copy.state / "keys" / f"{name}.key")
    copy.write_credential(folder.credential.read_bytes())
    pinned = folder.read_federation().model_copy(update={"gateway": f"https://127.0.0.1:{relay.port}"})
    copy.write_federation(pinned)
    return copy
