# `make demo` and `make test` do everything on a machine that has Python >= 3.11 and make; a second call starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PLAIN := $(VENV)/.plain
# Where there is no NVIDIA GPU, and the index can be reached, torch without CUDA, which saves gigabytes.
CPU_TORCH := https://download.pytorch.org/whl/cpu
INDEX = $(shell command -v nvidia-smi >/dev/null 2>&1 || { $(PYTHON) -c "from urllib.request import urlopen; \
	urlopen('$(CPU_TORCH)/torch/', timeout=3)" 2>/dev/null && echo --extra-index-url $(CPU_TORCH); })
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(INDEX)
CORE := CMakeLists.txt $(wildcard equispike/simulation/csrc/*)

.PHONY: demo test sanitize lint docs clean

demo: $(PLAIN)
	$(BIN)/equispike demo --out equispike-demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST)

# The compiled core under the address and undefined-behaviour sanitizers. What Python leaves at exit is no leak, and what
# the sanitizer holds back no use of memory.
sanitize: $(READY) build/sanitized/.ready
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 EQUISPIKE_EXAMPLES=40 EQUISPIKE_CORE=$$(echo build/sanitized/_core*.so) \
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_events.py -k "not memory"

build/sanitized/.ready: $(READY) $(CORE)
	$(BIN)/python -m pip install -q --disable-pip-version-check cmake ninja nanobind
	$(BIN)/cmake -S . -B build/sanitized -G Ninja -DEQUISPIKE_SANITIZE=ON \
	    -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	    -Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)"
	$(BIN)/cmake --build build/sanitized
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(READY)
	$(BIN)/sphinx-build -W -q -b html docs docs/_build

# Without a virtual environment, or after a change of the dependencies or of the compiled core. The constraints hold pip to
# the tested torch.
$(READY): pyproject.toml constraints.txt $(CORE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[dev]'
	touch $@ $(PLAIN)

# The same with what the package itself needs.
$(PLAIN): pyproject.toml constraints.txt $(CORE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

clean:
	rm -rf $(VENV) build docs/_build docs/api .pytest_cache .ruff_cache .hypothesis equispike-demo
