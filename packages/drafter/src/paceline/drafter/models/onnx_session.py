"""ONNX Runtime as drafters use it: a graph in memory becomes a session that reads nothing else."""

from __future__ import annotations

import ctypes
import os
import sys

import onnxruntime
import structlog

from paceline.drafter.models.saturation import OPTION, saturates
from paceline.wire.errors import PacelineError, Reason, out_of_range

log = structlog.get_logger()

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(graph: bytes, threads: int, provider: str = "cpu") -> onnxruntime.InferenceSession:
    """Raises UNUSABLE_REVISION for what isn't a graph that this machine can run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what matters comes as an exception
    # An arena would keep the memory of the largest step for ever; steps take the same time without.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Weights may lie in files of their own, which nobody has checked: they are looked for where there is none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the verifier's cores may be these
    if saturates():
        options.add_session_config_entry(*OPTION)
    wanted = _providers(provider)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=wanted, enable_fallback=0)
    except Exception as error:  # as above
        if len(wanted) > 1:
            log.warning("the model can't run on the GPU; it runs on the CPU", why=first_line(error))
            return open_session(graph, threads)
        raise unusable(f"its graph can't be loaded: {first_line(error)}; export the model again") from error
    if session.get_providers()[0] != wanted[0]:
        log.warning("no usable GPU; the model runs on the CPU", provider=provider)
    session._model_bytes = None  # it would hold the graph for a fallback that is turned off here
    return session


def _providers(provider: str) -> list[str]:
    if provider not in ("auto", *PROVIDERS):
        raise out_of_range("provider", provider, f"auto, {', '.join(PROVIDERS)}")
    has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if provider == "cuda" and not has_cuda:
        log.warning("this build of ONNX Runtime has no CUDA; the model runs on the CPU", install="onnxruntime-gpu")
    return [PROVIDERS["cuda"], PROVIDERS["cpu"]] if has_cuda and provider != "cpu" else [PROVIDERS["cpu"]]


def give_memory_back() -> None:
    """What loading left on the heap, up to half as much as the weights. glibc keeps it unless it is told."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def unusable(why: str) -> PacelineError:
    return PacelineError(Reason.UNUSABLE_REVISION, f"revision: {why}", field="revision")
