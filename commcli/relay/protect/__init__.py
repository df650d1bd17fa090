"""Against loss on a segment: parity, retransmission and copies, for which kind of media, and how much of each."""
