#!/usr/bin/env bash
# libzstd 1.5.4+dfsg2-5+deb12u1 (Debian 12), x86_64; zstd 1.5.7 has the same lines.
# A compression context gives its memory back when it has been three times too large "continuously" for 128 frames (the comment at
# ZSTD_WORKSPACETOOLARGE_MAXDURATION). It counts every frame since its memory was allocated, also those that need all of it: a context that makes
# a frame of 4 MiB every 20 frames, and small ones between, exchanges its memory at the first small frame after 128 that follows a small one, nine
# frames after the last large one, and allocates it again eleven frames later. Whoever counts on a large frame now and then to keep the memory (to
# spare the allocations, or to know where the plain bytes are that the context has copied, which it frees without zeroing) is wrong.
# Output seen:
#   frame 1 of 4194304 bytes: 5216 to 1303448
#   frame 130 of 100 bytes: 1303448 to 27463
#   frame 141 of 4194304 bytes: 27463 to 1303448
#   frame 270 of 100 bytes: 1303448 to 27463
#   frame 281 of 4194304 bytes: 27463 to 1303448
set -euo pipefail
self=$(realpath "$0")
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download libzstd-dev=1.5.4+dfsg2-5+deb12u1 2>/dev/null
dpkg-deb -x libzstd-dev_*.deb root
cat > context.c <<'C'
#include <stdio.h>
#include <zstd.h>

int main(void) {
    static char plain[4 << 20], out[5 << 20];
    ZSTD_CCtx *context = ZSTD_createCCtx();
    for (int frame = 1; frame <= 400; frame++) {
        size_t before = ZSTD_sizeof_CCtx(context), length = frame % 20 == 1 ? sizeof plain : 100;
        ZSTD_compress2(context, out, sizeof out, plain, length);
        size_t after = ZSTD_sizeof_CCtx(context);
        if (before != after) printf("frame %d of %zu bytes: %zu to %zu\n", frame, length, before, after);
    }
}
C
gcc -O1 -I root/usr/include context.c root/usr/lib/*/libzstd.a -o context
./context | diff <(sed -n 's/^#   //p' "$self") -
echo seen
