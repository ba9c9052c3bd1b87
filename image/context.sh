#!/bin/sh
# context.sh BENTO FOLDER: lay out in FOLDER what the Containerfile copies, from a built Bento's folder. The Makefile adds the wheel for `tools`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bento=$1
folder=$2
rm -rf "$folder"
mkdir -p "$folder/wheels"
cp -R "$bento/src" "$folder/src"
cp "$here/Containerfile" "$here/.containerignore" "$here/install.sh" "$here/sbom.py" "$here/../constraints.txt" "$folder"
cp "$here/../serving/requirements.txt" "$folder/requirements.txt"
# Docker looks for another name.
cp "$here/.containerignore" "$folder/.dockerignore"
