#!/usr/bin/env bash
# Runs Python tests against an extension that is built with AddressSanitizer, both bindings, in a copy of the tree.
#
#   bash tests/c/asan_python.sh [PYTEST ARGS...]    the whole suite by default, in two to three times the usual time
#
# PYTHON is the interpreter (python3 by default), with what the test extra needs. One test is left out: it bounds the memory
# of a process, and under the sanitizer most of that is the sanitizer's.
# Leaks are not looked for: the interpreter itself keeps memory until it ends. Python's own allocator is replaced by malloc,
# so that an object used after its end is seen as well. The first error ends the process that made it, with a report.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
CC=${CC:-gcc}
[ $# -gt 0 ] || set -- tests --deselect tests/cli/test_pub_sub.py::test_many_lines_in_bounded_memory -o timeout=600
BUILD=$(mktemp -d)
trap 'rm -rf "$BUILD"' EXIT
mkdir "$BUILD/tree"
cp -r .ci csrc memphis_sync tests bench docs setup.py pyproject.toml README.md CONTRIBUTING.md CHANGELOG.md LICENSE "$BUILD/tree"
cd "$BUILD/tree"
find . -name '*.so' -delete
MEMPHIS_SYNC_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g" \
    MEMPHIS_SYNC_LDFLAGS="-fsanitize=address,undefined" MEMPHIS_SYNC_BUILD=both \
    "$PYTHON" setup.py -q build_ext --inplace
for library in memphis_sync/_core/*.so; do
    grep -q __asan_init "$library" || { echo "$library was built without the sanitizer"; exit 1; }
done
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:abort_on_error=0:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc
LD_PRELOAD="$("$CC" -print-file-name=libasan.so) $("$CC" -print-file-name=libubsan.so)" \
    "$PYTHON" -m pytest -q -p no:cacheprovider "$@"
