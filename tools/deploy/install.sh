#!/bin/sh
# Installs one service from this checkout into a virtual environment, in the versions that a lock pins:
# what the Dockerfiles run. From the root of the checkout:
#
#   tools/deploy/install.sh SERVICE EXTRAS LOCK FOLDER      e.g. router http cpu /opt/paceline
#
# EXTRAS are separated by commas, and may be empty. LOCK is cpu or cuda. The checkout is not changed.
set -eu
service=$1 extras=$2 lock=$3 folder=$4

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r protos "packages/$service" "tools/locks/$lock.lock" "$work"
cd "$work"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$work/$lock.lock" SOURCE_DATE_EPOCH=315532800

python3 -m venv build
build/bin/pip install --quiet --only-binary :all: setuptools wheel grpcio-tools
build/bin/python -m grpc_tools.protoc -Iprotos \
  --python_out=protos/python --pyi_out=protos/python --grpc_python_out=protos/python protos/paceline/v1/*.proto
build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir wheels ./protos "./$service"

python3 -m venv --without-pip "$folder"
found=$(echo wheels/paceline_"$service"-*.whl)
build/bin/pip --python "$folder/bin/python" install --only-binary :all: --find-links wheels \
  "paceline-$service${extras:+[$extras]} @ file://$work/$found"
