"""Every rule of this repository, under one label to load from."""

load(":python.bzl", _py_binary = "py_binary", _py_library = "py_library")
load(":proto.bzl", _py_proto = "py_proto")
load(":pytest.bzl", _pytest_tests = "pytest_tests")
load(":service.bzl", _service = "service")
load(":wheel.bzl", _py_wheel = "py_wheel")

py_binary = _py_binary
py_library = _py_library
py_proto = _py_proto
py_wheel = _py_wheel
pytest_tests = _pytest_tests
service = _service
