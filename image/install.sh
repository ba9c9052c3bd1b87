#!/bin/sh
# install.sh FOLDER PIP-ARGUMENT…: a virtual environment in FOLDER with these packages, at the versions of constraints.txt beside this file,
# without what only builds and tests need, and with a bill of materials.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
shift
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

python3 -m venv --without-pip "$folder"
# Bytecode is compiled below: pip's carries the times of the files.
python3 -m pip --python "$folder/bin/python" install --quiet --no-compile --only-binary :all: --constraint "$here/constraints.txt" "$@"

packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Tests and headers of packages, and Arrow's RPC, 33 MB: nobody imports them.
find "$packages" -type d \( -name tests -o -path '*/pyarrow/include' \) -prune -exec rm -r {} +
find "$packages" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' -o -name 'libarrow_flight.so*' -o -name '_flight.*.so' \) -delete

"$folder/bin/python" "$here/sbom.py" > "$folder/sbom.cdx.json"

# Read-only root file systems keep no bytecode: it comes along, checked against nothing, in one process, so that it is the same each time.
"$folder/bin/python" -m compileall -q -j 1 --invalidation-mode unchecked-hash "$packages" || true
find "$folder" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
