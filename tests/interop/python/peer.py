"""A workload over py-spiffe that is driven by lines; see ../README.md."""

import socket
import sys
import threading

from OpenSSL import SSL
from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier
from spiffe import SpiffeId, WorkloadApiClient, X509Source, X509Svid
from spiffetls import create_ssl_context, dial
from spiffetls.tlsconfig.authorize import authorize_any, authorize_id

# Seconds that one step may take.
PATIENCE = 30
MAX_TEXT = 4096


class Peer:
    def __init__(self) -> None:
        self.client = WorkloadApiClient()
        self.source = X509Source(timeout_in_seconds=PATIENCE)

    def svid(self) -> X509Svid:
        return self.source.get_x509_context().default_svid

    def answer(self, words: list[str]) -> str:
        match words:
            case ["serial"]:
                return f"serial {self.svid().leaf.serial_number:x}"
            case ["call", address, callee]:
                return "called " + self.call(address, callee)
            case ["jwt", audience]:
                return self.jwt(audience)
            case ["bundle"]:
                domain = self.svid().spiffe_id.trust_domain
                bundle = self.client.fetch_jwt_bundles(timeout=PATIENCE).get_bundle_for_trust_domain(domain)
                return f"bundle {len(bundle.jwt_authorities)}"
            case _:
                raise ValueError("not understood")

    def call(self, address: str, callee: str) -> str:
        connection = dial(address, self.source, authorize_fn=authorize_id(SpiffeId(callee)))
        said = b""
        try:
            while len(said) < MAX_TEXT:
                said += connection.recv(MAX_TEXT)
        except (SSL.ZeroReturnError, SSL.SysCallError):
            pass
        finally:
            connection.close()
        return said.decode().strip()

    def jwt(self, audience: str) -> str:
        svid = self.client.fetch_jwt_svid({audience}, timeout=PATIENCE)
        validated = self.client.validate_jwt_svid(svid.token, audience, timeout=PATIENCE)
        return f"jwt {svid.spiffe_id} {validated.spiffe_id}"


def serve(listener: socket.socket, source: X509Source) -> None:
    while True:
        accepted, _ = listener.accept()
        # The library's own listener keeps one context, and pyOpenSSL refuses to change one that was used: it would show
        # the first SVID for ever.
        context = create_ssl_context(SSL.TLS_SERVER_METHOD, source, authorize_any())
        connection = SSL.Connection(context, accepted)
        connection.set_accept_state()
        threading.Thread(target=greet, args=(connection,), daemon=True).start()


def greet(connection: SSL.Connection) -> None:
    try:
        connection.do_handshake()
        certificate = connection.get_peer_certificate().to_cryptography()
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        (spiffe_id,) = names.get_values_for_type(UniformResourceIdentifier)
        connection.sendall(f"you are {spiffe_id}\n".encode())
        connection.shutdown()
    except SSL.Error as error:
        print("handshake:", error, file=sys.stderr, flush=True)
    finally:
        connection.close()


def main() -> None:
    peer = Peer()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener, peer.source), daemon=True).start()
    port = listener.getsockname()[1]
    print("ready", peer.svid().spiffe_id, port, flush=True)
    for line in sys.stdin:
        try:
            answer = peer.answer(line.split())
        except Exception as error:  # every failure is an answer
            answer = "failed " + f"{type(error).__name__}: {error}".replace("\n", " ")
        print(answer, flush=True)


if __name__ == "__main__":
    main()
