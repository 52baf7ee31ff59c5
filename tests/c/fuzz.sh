#!/usr/bin/env bash
# Fuzzes the C core (tests/c/fuzz_core.c) under ASan and UBSan, beginning with the inputs of tests/c/corpus.
#
#   bash tests/c/fuzz.sh               for FUZZ_S seconds, 60 by default; FUZZ_SEED repeats a run of one machine
#   bash tests/c/fuzz.sh FILE...       runs these inputs, each once
#
# An input that fails is shown and kept in $FUZZ_KEEP, /tmp by default. Needs gcc alone; with CC=clang and libFuzzer
# installed, LIBFUZZER=1 uses that instead of the driver of our own.
set -euo pipefail
cd "$(dirname "$0")/../.."
CC=${CC:-gcc}
STRICT=(-std=c11 -Wall -Wextra -Werror -Wconversion -D_GNU_SOURCE -Icsrc -Itests/c -pthread)
SANITIZE=(-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)
BUILD=$(mktemp -d)
trap 'rm -rf "$BUILD"' EXIT
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:quarantine_size_mb=8 UBSAN_OPTIONS=print_stacktrace=1

if [ -n "${LIBFUZZER:-}" ]; then
    "$CC" "${STRICT[@]}" "${SANITIZE[@]}" -fsanitize=fuzzer tests/c/fuzz_core.c csrc/*.c -o "$BUILD/fuzz"
    [ $# -gt 0 ] && exec "$BUILD/fuzz" "$@"
    mkdir "$BUILD/found"
    exec "$BUILD/fuzz" -max_total_time="${FUZZ_S:-60}" -timeout=10 -max_len=4096 "$BUILD/found" tests/c/corpus
fi

"$CC" "${STRICT[@]}" "${SANITIZE[@]}" -c tests/c/fuzz_driver.c -o "$BUILD/driver.o"
"$CC" "${STRICT[@]}" "${SANITIZE[@]}" -fsanitize-coverage=trace-pc tests/c/fuzz_core.c csrc/*.c "$BUILD/driver.o" \
    -o "$BUILD/fuzz"
if [ $# -gt 0 ]; then
    "$BUILD/fuzz" "$@"
    exit
fi
seed=${FUZZ_SEED:-$(date +%s)}
if ! "$BUILD/fuzz" "${FUZZ_S:-60}" "$seed" "$BUILD/input" tests/c/corpus; then
    kept=$(mktemp "${FUZZ_KEEP:-/tmp}/fuzz-input-XXXXXX")
    length=$(tail -c 8 "$BUILD/input")
    head -c "$((10#$length))" "$BUILD/input" >"$kept"
    echo "FAILED with FUZZ_SEED=$seed; run it again with: bash tests/c/fuzz.sh $kept"
    od -An -c "$kept" | head -n 40
    exit 1
fi
