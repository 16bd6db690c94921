"""One thread, so that tests run side by side; and no deadline, since the first call of a torch operation is slow.

With EQUISPIKE_CORE, the path of a compiled core, that one is tested (``make sanitize``). Where there is no GPU, kernels
for GPUs run in Triton's interpreter, if Triton is installed.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

if path := os.environ.get("EQUISPIKE_CORE"):
    spec = spec_from_file_location("equispike.simulation._core", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])

settings.register_profile(
    "fixed", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("fixed"), derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))  # "search": other examples, and more of them
