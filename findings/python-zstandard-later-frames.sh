#!/usr/bin/env bash
# zstandard 0.25.0 (PyPI), Python 3.11.
# A .zst file may hold several frames one behind the other; `zstd -d` writes the content of all. One decompressor object of the package
# gives two answers for the same bytes: decompress(), decompressobj() and read_to_iter() end after the first frame, without an error;
# stream_reader(), copy_stream() and zstandard.open() go on to the end. A loop over read_to_iter() loses all but the first frame.
# Output seen:
#   decompress b'one;'
#   decompressobj b'one;'
#   read_to_iter b'one;'
#   stream_reader b'one;two;'
#   copy_stream b'one;two;'
#   open b'one;two;'
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0
cat > "$dir/read.py" <<'PY'
import io
import zstandard

frames = b"".join(zstandard.ZstdCompressor().compress(text) for text in (b"one;", b"two;"))
reader = zstandard.ZstdDecompressor()
print("decompress", reader.decompress(frames))
print("decompressobj", reader.decompressobj().decompress(frames))
print("read_to_iter", b"".join(reader.read_to_iter(io.BytesIO(frames))))
print("stream_reader", reader.stream_reader(io.BytesIO(frames)).read())
copy = io.BytesIO()
reader.copy_stream(io.BytesIO(frames), copy)
print("copy_stream", copy.getvalue())
print("open", zstandard.open(io.BytesIO(frames)).read())
PY
diff <(sed -n 's/^#   //p' "$0") <("$dir/venv/bin/python" "$dir/read.py")
echo seen
