"""
The codec in readable Python: the oracle that both bindings of the C core are compared with.

It is written from the NATS client protocol page and ADR-4 (headers), slowly and plainly, and shares no line with the
package: a mistake would have to be made twice to stay hidden.
"""
