"""The processes of one relay, what they share, and how an operator steers and watches them."""
