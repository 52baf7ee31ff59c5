# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
# cython: embedsignature.format=python, freethreading_compatible=True
"""
The Cython binding of the C core: checks types, calls, wraps. Declarations first, then sections 1 to 5, then the link.
"""

include "_core_decl.pxi"
include "_link_decl.pxi"
include "_frames.pxi"
include "_link.pxi"
