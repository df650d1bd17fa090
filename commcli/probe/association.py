"""What aiortc's SCTP needs, so that the data channel of the pings comes up on a lossy path."""

from __future__ import annotations

from aiortc import RTCSctpTransport
from aiortc.rtcsctptransport import Chunk, InitChunk

# RFC 9260 s. 16; aiortc has the three seconds of the one before.
RTO_INITIAL_S = 1.0


def mend(transport: RTCSctpTransport) -> None:
    """Before it starts: an INIT always goes out with verification tag 0 (RFC 9260 s. 8.5.1).

    Both ends send an INIT. aiortc (1.16) gives a repeated one the tag that it learnt from the other end's INIT, which
    no one takes: where both INIT ACKs are lost, the association never comes up.
    """
    send = transport._send_chunk

    async def send_chunk(chunk: Chunk) -> None:
        if not isinstance(chunk, InitChunk):
            return await send(chunk)
        tag, transport._remote_verification_tag = transport._remote_verification_tag, 0
        try:
            await send(chunk)
        finally:
            transport._remote_verification_tag = tag

    transport._rto = RTO_INITIAL_S
    # Looked up on the instance for each chunk, so an instance attribute is enough.
    transport._send_chunk = send_chunk  # type: ignore[method-assign]
