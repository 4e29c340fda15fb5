"""Python stubs from protobuf files."""

load(":python.bzl", "PythonInfo", "VENV", "root_of", "venv_directory")

def _py_proto_impl(ctx):
    outputs = []
    for source in ctx.files.srcs:
        relative = source.short_path[len(ctx.label.package) + 1:].replace(".proto", "")
        for suffix in ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py"]:
            outputs.append(ctx.actions.declare_file(relative + suffix))
    out = ctx.bin_dir.path + "/" + ctx.label.package
    ctx.actions.run_shell(
        inputs = ctx.files.srcs + ctx.files._venv,
        outputs = outputs,
        command = '"$1/bin/python" -m grpc_tools.protoc "-I$2" "--python_out=$3" "--pyi_out=$3" "--grpc_python_out=$3" "${@:4}"',
        arguments = [venv_directory(ctx.files._venv).path, ctx.label.package, out] +
                    [source.path for source in ctx.files.srcs],
        mnemonic = "Protoc",
        progress_message = "Generating Python stubs of //%s" % ctx.label.package,
    )
    return [
        PythonInfo(files = depset(outputs), roots = depset([root_of(ctx, "")])),
        DefaultInfo(files = depset(outputs)),
    ]

py_proto = rule(
    implementation = _py_proto_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".proto"], mandatory = True),
        "_venv": VENV,
    },
    doc = "Messages, their types, and gRPC stubs; imports in the files are relative to the package's folder.",
)
