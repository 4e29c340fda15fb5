"""Wheels, reproducible to the byte."""

load(":python.bzl", "VENV", "venv_directory")

_BUILD = """
set -euo pipefail
venv="$PWD/$1" package="$2" out="$PWD/$3" prefix="$4" bin="$5"
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
for file in "${@:6}"; do
  case "$file" in
    "$bin"/*) target="$stage/$prefix/${file#"$bin/$package/"}" ;;
    *) target="$stage/${file#"$package/"}" ;;
  esac
  mkdir -p "$(dirname "$target")"
  cp -L "$file" "$target"
done
cd "$stage"
find . -exec touch -h -d @315532800 {} +
chmod -R u=rwX,go=rX .
SOURCE_DATE_EPOCH=315532800 PYTHONHASHSEED=0 "$venv/bin/python" -c '
import sys
from setuptools import build_meta
build_meta.build_wheel(sys.argv[1])
' "$out" > "$stage.log" 2>&1 || { cat "$stage.log" >&2; exit 1; }
rm -f "$stage.log"
"""

def _py_wheel_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    files = ctx.files.srcs + ctx.files.generated
    ctx.actions.run_shell(
        inputs = files + ctx.files._venv,
        outputs = [out],
        command = _BUILD,
        arguments = [
            venv_directory(ctx.files._venv).path,
            ctx.label.package,
            out.path,
            ctx.attr.generated_prefix,
            ctx.bin_dir.path,
        ] + [file.path for file in files],
        mnemonic = "Wheel",
        progress_message = "Building the wheel of //%s" % ctx.label.package,
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

py_wheel = rule(
    implementation = _py_wheel_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = True, mandatory = True),
        "generated": attr.label_list(allow_files = True),
        "generated_prefix": attr.string(doc = "folder that generated files are put under"),
        "_venv": VENV,
    },
    doc = "A folder with the wheel of a package: its sources, pyproject.toml and README.md as they lie in the package.",
)
