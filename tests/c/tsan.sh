#!/usr/bin/env bash
# Runs all threads of a link at once under ThreadSanitizer (tests/c/race_link.c); a race fails it and shows both sides.
#
#   bash tests/c/tsan.sh [MESSAGES]      of each of the four appenders, 5000 by default; CC=clang for another compiler
set -euo pipefail
cd "$(dirname "$0")/../.."
CC=${CC:-gcc}
BUILD=$(mktemp -d)
trap 'rm -rf "$BUILD"' EXIT
"$CC" -std=c11 -Wall -Wextra -Werror -Wconversion -D_GNU_SOURCE -Icsrc -Itests/c -pthread \
    -O1 -g -fno-omit-frame-pointer -fsanitize=thread tests/c/race_link.c csrc/*.c -o "$BUILD/race_link"
# Kernels that spread addresses wider than the sanitizer's shadow knows make it give up; without the spread it runs.
NO_RANDOM=()
setarch -R true 2>/dev/null && NO_RANDOM=(setarch -R)
TSAN_OPTIONS="halt_on_error=0 exitcode=66 second_deadlock_stack=1" timeout 300 "${NO_RANDOM[@]}" "$BUILD/race_link" "$@"
