"""The repository @pip: one virtual environment from the committed lock.

Editing this file, or the lock, installs the environment anew; so nothing else belongs in here.
"""

_BUILD = """
package(default_visibility = ["//visibility:public"])

# The whole environment is one label: one symbolic link in each test's runfiles, however many files it has.
filegroup(
    name = "environment",
    srcs = ["venv", "stamp.txt"],
)
"""

_HELP = """
The Python environment could not be installed.
  - "No matching distribution found for torch": the lock wants a CPU build of torch. Point pip at PyTorch's index for CPU
    wheels with PIP_EXTRA_INDEX_URL (PyTorch's installation page names it), or at a folder with the wheel by PIP_FIND_LINKS.
  - No network: set PACELINE_VENV to a virtual environment that has what the lock lists; it is used as it is.
"""

def _lock(repository_ctx):
    kind = repository_ctx.os.environ.get("PACELINE_TORCH", "") or "cpu"
    if kind == "cpu":
        return repository_ctx.path(repository_ctx.attr.cpu_lock)
    if kind == "cuda":
        return repository_ctx.path(repository_ctx.attr.cuda_lock)
    fail("PACELINE_TORCH={}: must be cpu (the default) or cuda".format(kind))

def _run(repository_ctx, arguments, what):
    result = repository_ctx.execute(arguments, timeout = 3600, quiet = True, environment = {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_RETRIES": repository_ctx.os.environ.get("PIP_RETRIES", "2"),
    })
    if result.return_code:
        fail("{} failed:\n{}\n{}\n{}".format(what, result.stdout[-3000:], result.stderr[-3000:], _HELP))
    return result.stdout

def _python(repository_ctx):
    python = repository_ctx.which("python3.11") or repository_ctx.which("python3")
    if not python:
        fail("python3 is not on PATH; install Python 3.11 with venv and pip")
    version = _run(repository_ctx, [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], "python3").strip()
    if version != "3.11":
        fail("python3 is {}; the lock is for Python 3.11: put a python3.11 on PATH".format(version))
    return python

def _pip_environment_impl(repository_ctx):
    repository_ctx.file("BUILD.bazel", _BUILD)
    existing = repository_ctx.os.environ.get("PACELINE_VENV", "")
    if existing:
        repository_ctx.symlink(existing, "venv")
        repository_ctx.file("stamp.txt", "PACELINE_VENV={}\n".format(existing))
        return
    lock = _lock(repository_ctx)
    python = _python(repository_ctx)
    repository_ctx.report_progress("installing the Python environment (one to five minutes)")
    _run(repository_ctx, [python, "-m", "venv", "--without-pip", "venv"], "python3 -m venv")
    _run(repository_ctx, [
        python,
        "-m",
        "pip",
        "--python",
        repository_ctx.path("venv/bin/python"),
        "install",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--progress-bar",
        "off",
        "-r",
        lock,
    ], "pip install")
    frozen = _run(repository_ctx, [python, "-m", "pip", "--python", repository_ctx.path("venv/bin/python"), "freeze"], "pip freeze")
    repository_ctx.file("stamp.txt", frozen)

pip_environment = repository_rule(
    implementation = _pip_environment_impl,
    attrs = {
        "cpu_lock": attr.label(allow_single_file = True, mandatory = True),
        "cuda_lock": attr.label(allow_single_file = True, mandatory = True),
    },
    # Not PATH: another shell, or an activated environment, would install everything anew.
    environ = ["PACELINE_TORCH", "PACELINE_VENV"],
    doc = "A virtual environment with exactly what the lock for PACELINE_TORCH=cpu|cuda lists. PACELINE_VENV links an existing one instead.",
)
