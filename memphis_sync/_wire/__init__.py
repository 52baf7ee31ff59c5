"""
The Memphis rules without any IO: names, subjects, requests and replies, streams and partitions.

No socket, no thread, no clock: what the current time is, is an argument. Client and broker share it.
"""
