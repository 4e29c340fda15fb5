"""What every service package has: a library, a wheel, tests; and nobody but its own tests and the tools may depend on it."""

load(":pytest.bzl", "pytest_tests")
load(":python.bzl", "py_library")
load(":wheel.bzl", "py_wheel")

def service(name, large = [], test_deps = []):
    """The targets of packages/<name>: <name>, wheel, tests, python (its files, for lint), deployment (files that start it), and
    pages (its documentation).

    A service is nobody's library: other services can't depend on it, only tools and tests that start it.

    Args:
        name: of the service, and of its package.
        large: test files that take longer than a minute.
        test_deps: libraries that only its tests need.
    """
    visibility = [
        "//packages/%s:__subpackages__" % name,
        "//tools:__subpackages__",
        "//:__pkg__",
    ]
    py_library(
        name = name,
        srcs = native.glob(["src/**/*.py", "src/**/py.typed"], allow_empty = True),
        data = native.glob(
            ["src/**/*." + ending for ending in ["cpp", "css", "h", "html", "js", "svg"]],
            allow_empty = True,
        ),
        import_root = "src",
        visibility = visibility,
        deps = ["//protos"],
    )
    py_wheel(
        name = "wheel",
        srcs = native.glob(["src/**"]) + ["CHANGELOG.md", "README.md", "pyproject.toml"],
        visibility = visibility,
    )
    pytest_tests(
        name = "tests",
        srcs = native.glob(["tests/test_*.py"], allow_empty = True),
        support = native.glob(["tests/*.py"], exclude = ["tests/test_*.py"], allow_empty = True),
        large = large,
        deps = [":" + name] + test_deps,
    )
    native.filegroup(
        name = "deployment",
        srcs = ["pyproject.toml"] + native.glob(["Dockerfile", "*.service"], allow_empty = True),
        visibility = visibility,
    )
    native.filegroup(
        name = "python",
        srcs = native.glob(["**/*.py"], allow_empty = True) + ["BUILD.bazel"],
        visibility = visibility,
    )
    native.filegroup(
        name = "pages",
        srcs = ["CHANGELOG.md", "README.md"],
        visibility = visibility,
    )
