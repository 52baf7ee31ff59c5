# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
# cython: embedsignature.format=python, freethreading_compatible=True
"""
The Cython binding of the C core: checks types, calls, wraps. What each name does is written in __init__.pyi, the stub of
both bindings. _declarations.pxi is made by setup.py from csrc/memphis_core.h.
"""

include "_declarations.pxi"
include "_frames.pxi"
include "_link.pxi"
include "_outbox_file.pxi"
include "_route.pxi"
include "_receive_buffer.pxi"
