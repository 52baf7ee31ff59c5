"""
Limits of a schema and of the check of one message, the same for clients and the broker.

Anybody who may create a schema decides what runs in every program that uses its station. So its cost is limited when it
is created, when it is compiled by a client, and while a message is checked. Each figure was measured on two cores; real
schemas need far less.
"""

from __future__ import annotations

# Characters of a source. GraphQL is the slowest to parse: half a megabyte takes as long as a megabyte of another kind.
MAX_SOURCE = 1 << 20
MAX_GRAPHQL_SOURCE = 1 << 19
# Base64 digits of a protobuf descriptor set: enough for a megabyte of source and all of Google's own files.
MAX_DESCRIPTOR = 4 << 20
# How deep a JSON or Avro source may be nested. Libraries use recursion, which Python limits to 1000.
MAX_DEPTH = 100
# How many parts (subschemas) of a JSON schema may check one value, with all allOf, anyOf and $ref followed.
MAX_PARTS = 10_000
# How many $ref, allOf and similar keywords may follow each other on one value: each is a recursion in C.
MAX_CHAIN = 200
# A message is checked in one call, which holds the GIL, when its characters times the schema's parts stay below this:
# half a second at worst. Beyond it, and with a schema that reaches a part again in several ways, steps are counted, and
# other threads run in between.
MAX_UNCOUNTED = 50_000_000
# Steps of a counted check, one to four microseconds each. Where the library cannot count, they are counted before the
# check, which then holds the GIL for a second or two.
MAX_STEPS = 2_000_000
# How many errors the library may find in one message, and that times the message's characters: it makes an error for
# each alternative that fails, in ten microseconds or more, with a copy of the value.
MAX_ERRORS = 2_000
MAX_ERROR_CHARACTERS = 10_000_000
# To match a key with a regular expression takes a fifth of a microsecond, and 32 bytes until the check has ended. All
# keys of an object are matched with all expressions of a part before anything can be counted.
MATCHES_A_STEP = 2
MAX_MATCHES = MAX_STEPS * MATCHES_A_STEP
# How often a regular expression may backtrack; beyond it the text does not match. A third of a millisecond.
MAX_BACKTRACKS = 10_000
BACKTRACK_STEPS, BACKTRACK_PARTS = 100, 10_000  # what an expression that can backtrack counts for
# Tokens of a GraphQL document. Its fields are compared with each other, so the time grows with their square.
MAX_TOKENS = 5_000
# Fields of Avro records that are missing from one message: one or two microseconds each, though they add no text to it.
MAX_ABSENT = 2_000_000
