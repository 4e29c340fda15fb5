"""Tests: one target a file, run by pytest."""

load(":python.bzl", "PythonInfo", "VENV", "collect", "root_of", "runfiles_path", "runnable", "write_launcher")

def _pytest_test_impl(ctx):
    support = ctx.files.support + ctx.files.data + [ctx.file.src, ctx.file._config]
    info = collect(ctx, support, [root_of(ctx, ctx.attr.import_root)])
    arguments = [runfiles_path(ctx, ctx.file._config), runfiles_path(ctx, ctx.file.src)]
    launcher = write_launcher(ctx, info, ctx.file._runner, arguments)
    return [runnable(ctx, launcher, info, [ctx.file._runner])]

_pytest_test = rule(
    implementation = _pytest_test_impl,
    test = True,
    attrs = {
        "src": attr.label(allow_single_file = [".py"], mandatory = True),
        "support": attr.label_list(allow_files = True),
        "data": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [PythonInfo]),
        "import_root": attr.string(),
        "_runner": attr.label(default = "//tools/build_defs:pytest_runner.py", allow_single_file = True),
        "_config": attr.label(default = "//:pytest.ini", allow_single_file = True),
        "_venv": VENV,
    },
)

def pytest_tests(name, srcs, deps, support = [], data = [], import_root = "tests", large = [], exclusive = [], shards = {}, data_of = {}, tags = [], network = True):
    """One test target for each file of `srcs`, named after it, and a suite of all of them.

    Args:
        name: of the suite.
        srcs: files test_*.py.
        deps: libraries.
        support: files that tests import or read besides (conftest.py, helpers of one package's tests).
        data: other files.
        data_of: files that only one test needs, by file, so that a change to them runs nothing else again.
        import_root: folder of the package from which tests import each other's support.
        large: files that take longer than a minute.
        exclusive: files that use both cores, and so run alone.
        shards: number of shards by file.
        tags: for all of them.
        network: False takes even loopback away.
    """
    tests = []
    for src in srcs:
        test = src.rpartition("/")[2].replace(".py", "")
        own_tags = list(tags)
        if src in exclusive:
            own_tags.append("exclusive")
        if not network:
            own_tags.append("block-network")
        _pytest_test(
            name = test,
            src = src,
            support = support,
            data = data + data_of.get(src, []),
            deps = deps,
            import_root = import_root,
            size = "large" if src in large else "medium",
            shard_count = shards.get(src),
            tags = own_tags,
        )
        tests.append(":" + test)
    native.test_suite(name = name, tests = tests)
