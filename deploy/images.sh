#!/usr/bin/env bash
# Builds both images from the Dockerfile without a registry or a daemon: on a Debian base made here, with buildah. For root.
#   deploy/images.sh [gateway|worker|store|prometheus ...]
set -euo pipefail
cd "$(dirname "$0")/.."
base=localhost/lego-serve/base:bookworm
root=${LEGO_BASE_ROOT:-/var/tmp/lego-serve-base}
for program in buildah debootstrap; do
    command -v "$program" >/dev/null || { echo "error: $program is missing: apt-get install buildah debootstrap runc" >&2; exit 1; }
done
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    [ -e "$root/usr/bin/python3" ] ||
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" "${LEGO_MIRROR:-http://deb.debian.org/debian}" >&2
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" / >/dev/null
    buildah commit --quiet "$container" "$base" >/dev/null
    buildah rm "$container" >/dev/null
fi
mounts=(-v /etc/ssl/certs:/etc/ssl/certs:ro)
torch=()
# Where a mirror of packages is used: pip's configuration, and folders that it names.
for path in /etc/pip.conf ${LEGO_PACKAGE_FOLDERS:-}; do
    [ -e "$path" ] && mounts+=(-v "$path:$path:ro")
done
[ -n "${TORCH_INDEX:-}" ] && torch=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
# Writes what an image's Python holds, as a CycloneDX document, into $LEGO_SBOM (a folder), where that is named.
inventory() {
    [ -n "${LEGO_SBOM:-}" ] && [ "$file" = Dockerfile ] || return 0
    local container root
    container=$(buildah from --pull-never "localhost/lego-serve:$1")
    root=$(buildah mount "$container")
    .venv/bin/cyclonedx-py environment --no-validate --output-reproducible --of JSON \
        -o "$LEGO_SBOM/lego-serve-$1.cdx.json" "$root/opt/venv"
    buildah rm "$container" >/dev/null
    echo "$LEGO_SBOM/lego-serve-$1.cdx.json"
}
for target in "${@:-gateway}"; do
    case $target in
        store | prometheus) file=deploy/local/Dockerfile ;; # what stands for the images of others
        *) file=Dockerfile ;;
    esac
    # The docker format: OCI's has no health check.
    buildah bud --isolation chroot --format docker --pull-never --layers --target "$target" \
        --build-arg BASE="$base" "${torch[@]}" "${mounts[@]}" -t "lego-serve:$target" -f "$file" . >&2
    buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' "localhost/lego-serve:$target"
    inventory "$target"
done
