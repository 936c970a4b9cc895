#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# kit.sh SRC BUILD [--lean]: BUILD/gpu-kit.tar.gz, what `make check-gpu` needs on a machine that has a driver, CUDA, cuDNN and Python alone: the
# programs with their libraries (those of CUDA and of the C library left out), goldens, the embedded model. There:
#
#   tar xf gpu-kit.tar.gz && gpu-kit/run [--seconds N] [--into DIR]        the report is DIR/CARD.md (DIR: gpu-kit/tree/doc/gpu)
#
# --lean: a fifth of it, for a machine that has the tree too, in whose root it is run. Without the tree's files, ../shared/golden and FFmpeg's
# libraries, so without the films.
set -eu
src=$(cd "$1" && pwd) build=$(cd "$2" && pwd) lean=${3:-}
top=$build/gpu-kit
rm -rf "$top"
mkdir -p "$top/lib" "$top/tree/build/tests/kernels" "$top/tree/build/tests/gpu"
if [ "$lean" = --lean ]; then
    cp "$build/tests/gpu/avatar" "$top/tree/build"
else
    mkdir -p "$top/tree/tests/gold" "$top/tree/model" "$top/shared"
    cp -r "$src/tests/gpu" "$top/tree/tests"
    cp -r "$src/tests/gold/parity" "$src/tests/gold/lips.wav" "$top/tree/tests/gold"
    cp -r "$src/model/nano" "$top/tree/model"
    [ ! -d "$src/../shared/golden" ] || cp -r "$src/../shared/golden" "$top/shared"
    cp "$build/avatar" "$top/tree/build"
fi
cp "$build/libavatar.so" "$build/libavatar_cuda.so" "$top/tree/build"
ln -s libavatar.so "$top/tree/build/libavatar.so.0"
cp "$build/tests/parity" "$top/tree/build/tests"
cp "$build/tests/gpu/stream" "$build/tests/gpu/frames" "$top/tree/build/tests/gpu"
find "$build/tests/kernels" -type f -perm -u+x -exec cp {} "$top/tree/build/tests/kernels" \;
find "$top/tree/build" -type f -exec strip --strip-debug {} +
[ "$lean" != --lean ] || touch "$top/tree/build/no-films"
ldd "$top/tree/build/avatar" "$build/tests/parity" "$top"/tree/build/tests/kernels/* | awk '$3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux.*)\.so|/lib(cublas|cudnn|cuda|nvrtc)' | xargs -I{} cp -L {} "$top/lib"
cat > "$top/run" <<'R'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
tree=$here/tree
[ -d "$tree/tests/gpu/" ] || tree=$PWD
exec "$tree/tests/gpu/check.sh" "$tree" "$here/tree/build" --libs "$here/lib" "$@"
R
chmod +x "$top/run"
tar -C "$build" -czf "$build/gpu-kit.tar.gz" gpu-kit
ls -l "$build/gpu-kit.tar.gz"
