#!/usr/bin/env bash
# Builds the C core with every warning an error, runs each tests/c/test_*.c under ASan and UBSan, prints the parser's rate.
#
#   bash tests/c/run.sh          CC=clang for another compiler; BUILD=folder keeps the programs
set -euo pipefail
cd "$(dirname "$0")/../.."
CC=${CC:-gcc}
STRICT=(-std=c11 -Wall -Wextra -Werror -Wconversion -D_GNU_SOURCE -Icsrc -Itests/c -pthread)
SANITIZE=(-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)
if [ -z "${BUILD:-}" ]; then
    BUILD=$(mktemp -d)
    trap 'rm -rf "$BUILD"' EXIT
fi
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1

# As it is shipped: the optimiser sees warnings that -O1 does not.
for source in csrc/*.c; do
    "$CC" "${STRICT[@]}" -O3 -c "$source" -o "$BUILD/shipped.o"
done

status=0
for test in tests/c/test_*.c; do
    name=$(basename "$test" .c)
    "$CC" "${STRICT[@]}" "${SANITIZE[@]}" -Wl,--wrap=clock_gettime,--wrap=pthread_cond_timedwait \
        "$test" tests/c/settable_clock.c csrc/*.c -o "$BUILD/$name"
    timeout 300 "$BUILD/$name" || status=1
done

"$CC" "${STRICT[@]}" -O3 tests/c/parse_rate.c csrc/*.c -o "$BUILD/parse_rate"
"$BUILD/parse_rate" || status=1
exit $status
