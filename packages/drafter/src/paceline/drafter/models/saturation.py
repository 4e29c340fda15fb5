"""Whether this processor's sums of 8-bit products can be trusted.

With AVX2 and without VNNI, ONNX Runtime adds them up in 16 bits, which is not enough for every sum, unless it is told
to mind. Minding takes up to twice as long where there is VNNI, so it is found out.
"""

from __future__ import annotations

import base64
from functools import cache

import numpy as np
import onnxruntime

# One MatMulInteger of uint8 [1, 64] with an int8 [64, 32] full of 127; test_saturation writes it anew.
PROBE = base64.b64decode(
    "CAgSADqrAQo8CgVzaGFwZRIGd2VpZ2h0Ig9Db25zdGFudE9mU2hhcGUqGgoFdmFsdWUqDggBEAMqAX9CBXZhbHVloAEECiMKBHJv"
    "d3MKBndlaWdodBIEc3VtcyINTWF0TXVsSW50ZWdlchIFcHJvYmUqDwgCEAc6AkAgQgVzaGFwZVoWCgRyb3dzEg4KDAgCEggKAggB"
    "CgIIQGIWCgRzdW1zEg4KDAgGEggKAggBCgIIIEIECgAQEg=="
)
OPTION = ("session.x64quantprecision", "1")


@cache
def saturates() -> bool:
    """Measured once in each process."""
    session = onnxruntime.InferenceSession(PROBE, providers=["CPUExecutionProvider"])
    sums = session.run(None, {"rows": np.full((1, 64), 255, np.uint8)})[0]
    return not bool((sums == 64 * 255 * 127).all())
