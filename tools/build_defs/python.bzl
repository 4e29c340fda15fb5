"""Python libraries and programs in plain Starlark: no native rule, no toolchain, nothing downloaded but @pip.

The native rules need other repositories on old versions of Bazel, are gone from new ones, and write __init__.py files into
runfiles, which breaks namespace packages.
"""

PythonInfo = provider(
    doc = "What a Python target brings along.",
    fields = {
        "files": "depset of source and data files",
        "roots": "depset of import roots, relative to the runfiles folder",
    },
)

VENV = attr.label(default = "@pip//:environment", allow_files = True)

def root_of(ctx, folder):
    """Path in runfiles of `folder` inside the target's package."""
    parts = [part for part in [ctx.workspace_name, ctx.label.package, folder] if part]
    return "/".join(parts)

def collect(ctx, files, roots):
    """PythonInfo of these files and roots and of everything in deps."""
    return PythonInfo(
        files = depset(files, transitive = [dep[PythonInfo].files for dep in ctx.attr.deps]),
        roots = depset(roots, transitive = [dep[PythonInfo].roots for dep in ctx.attr.deps]),
    )

def venv_directory(files):
    """The one directory among the files of @pip//:environment."""
    for file in files:
        if file.basename == "venv":
            return file
    fail("@pip//:environment has no folder named venv")

def _py_library_impl(ctx):
    info = collect(ctx, ctx.files.srcs + ctx.files.data, [root_of(ctx, ctx.attr.import_root)])
    return [info, DefaultInfo(files = info.files)]

py_library = rule(
    implementation = _py_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".py", ".pyi", ".typed"]),
        "data": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [PythonInfo]),
        "import_root": attr.string(doc = "folder of the package that goes on PYTHONPATH"),
    },
    doc = "Python sources that others import from `import_root`.",
)

_LAUNCHER = """#!/usr/bin/env bash
set -euo pipefail
if [[ -z "${{RUNFILES_DIR:-}}" ]]; then
  if [[ -n "${{TEST_SRCDIR:-}}" ]]; then RUNFILES_DIR="$TEST_SRCDIR"
  elif [[ -d "$0.runfiles" ]]; then RUNFILES_DIR="$(cd "$0.runfiles" && pwd)"
  else RUNFILES_DIR="${{0%.runfiles/*}}.runfiles"; fi
fi
export RUNFILES_DIR
export PYTHONPATH="{pythonpath}"
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
exec "$RUNFILES_DIR/{venv}/bin/python" "$RUNFILES_DIR/{main}" {arguments} "$@"
"""

def runfiles_path(ctx, file):
    """Path of a file in runfiles; one of another repository begins with '../'."""
    return ctx.workspace_name + "/" + file.short_path

def write_launcher(ctx, info, main, arguments = []):
    """The executable of a Python program."""
    launcher = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(launcher, _LAUNCHER.format(
        pythonpath = ":".join(["$RUNFILES_DIR/" + root for root in info.roots.to_list()]),
        venv = runfiles_path(ctx, venv_directory(ctx.files._venv)),
        main = runfiles_path(ctx, main),
        arguments = " ".join(["'%s'" % argument for argument in arguments]),
    ), is_executable = True)
    return launcher

def runnable(ctx, launcher, info, extra = []):
    """DefaultInfo of a program with its runfiles."""
    return DefaultInfo(
        executable = launcher,
        runfiles = ctx.runfiles(files = ctx.files._venv + extra, transitive_files = info.files),
    )

def _py_binary_impl(ctx):
    info = collect(ctx, [ctx.file.main] + ctx.files.data, [])
    return [info, runnable(ctx, write_launcher(ctx, info, ctx.file.main), info)]

py_binary = rule(
    implementation = _py_binary_impl,
    executable = True,
    attrs = {
        "main": attr.label(allow_single_file = [".py"], mandatory = True),
        "data": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [PythonInfo]),
        "_venv": VENV,
    },
    doc = "A Python program for `bazel run`. Its children inherit PYTHONPATH, so they can run any module it can import.",
)
