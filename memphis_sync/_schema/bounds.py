"""
How large a schema, and the check of one message, may become: one set of bounds for clients and the broker.

A schema comes from whoever may create one, and every program that uses its station runs it. So what it costs is bounded
when it is created, again where it is met, and while a message is checked. Each figure was measured on two cores; what
real schemas need lies far below.
"""

from __future__ import annotations

# A source's characters. GraphQL is the slowest to read: its half a megabyte takes as long as another's whole one.
MAX_SOURCE = 1 << 20
MAX_GRAPHQL_SOURCE = 1 << 19
# Base64 digits of a protobuf descriptor set: that of a megabyte of source with all of Google's own files fits.
MAX_DESCRIPTOR = 4 << 20
# How deep a JSON or Avro source may be nested. Libraries go down into it by recursion; Python's ends at 1000.
MAX_DEPTH = 100
# By how many parts of a JSON schema one and the same value may be checked, all allOf, anyOf and $ref followed.
MAX_PARTS = 10_000
# How many $ref, allOf and the like may follow each other before they go into the value: each is recursion in C.
MAX_CHAIN = 200
# A message is checked in one go, the interpreter locked meanwhile, when its characters times the schema's parts stay
# below this: half a second at worst. Beyond it, and by a schema that can come to a part again in several ways, steps
# are counted, and other threads run in between.
MAX_UNCOUNTED = 50_000_000
# Steps of a counted check, one to four microseconds each. Where the library cannot count, they are counted before
# the check, and it takes a second or two in one go.
MAX_STEPS = 2_000_000
# What the library may find wrong with one message, and that times the message's characters: it makes an error for each
# way that fails, in ten microseconds and more, with a copy of what is wrong.
MAX_ERRORS = 2_000
MAX_ERROR_CHARACTERS = 10_000_000
# A key that meets a regular expression takes a fifth of a microsecond, and 32 bytes until the check is over. All keys
# of an object meet all expressions of a part before anything can be counted.
MATCHES_A_STEP = 2
MAX_MATCHES = MAX_STEPS * MATCHES_A_STEP
# How often a regular expression may go back; beyond it the text does not match. A third of a millisecond.
MAX_BACKTRACKS = 10_000
BACKTRACK_STEPS, BACKTRACK_PARTS = 100, 10_000  # what an expression that can go back counts for
# Tokens of a GraphQL document. Its fields are compared with each other, so the time grows with the square.
MAX_TOKENS = 5_000
# Fields of Avro records that are absent in one message: one or two microseconds each, and none of them is in the text.
MAX_ABSENT = 2_000_000
