"""The rules of Memphis on the wire, without IO and without a clock: shared by the client and the broker."""
