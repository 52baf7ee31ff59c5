"""
The gateway: Memphis' REST protocol in front of a broker, on the public names of memphis_sync alone.

Rules: the event loop never blocks, what blocks runs in the threads of ``Sessions``; each error is an answer in JSON; no
answer says that a message is stored before the broker has said so.
"""
