PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
DATA ?=
LABELS ?=
ARGS ?=
# Test files that run at the same time, each with some 2 GB. 0 runs all in one process. With more
# than cores Ray, which some start, can miss the 30 seconds that it gives itself.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores : 4)))

# A bare torch brings several gigabytes of CUDA packages; the pinned one is enough here.
STAMP := $(VENV)/.installed

# Each service's messages; the code made of NAME.proto lies beside it in generated/.
PROTOS := client/dpbitfit_client/guard.proto server/dpbitfit_monitor/monitor.proto

.PHONY: demo test check proto clean

demo: $(STAMP)
ifeq ($(DATA),)
	test -f $(OUT)/messages.csv || (mkdir -p $(OUT) && $(BIN)/dpbitfit corpus $(OUT)/messages.csv)
	$(BIN)/dpbitfit simulate --data $(OUT)/messages.csv --labels $(OUT)/messages.labels.txt \
	  --out $(OUT) --phases class-sums,head,biases --most-rounds 16 --rounds 5 --steps-per-round 4 \
	  --sampling-rate 0.2 $(ARGS)
else
	$(BIN)/dpbitfit simulate --data "$(DATA)" --labels "$(LABELS)" --out $(OUT) $(ARGS)
endif

# A crashed worker ends the run: replaced, it can leave xdist waiting for ever (xdist issue 784).
test: check
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  --max-worker-restart 0

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: $(STAMP)
	for proto in $(PROTOS); do \
	  folder=$$(dirname $$proto); package=$${folder#*/}/generated; mkdir -p $$folder/generated; \
	  $(BIN)/python -m grpc_tools.protoc -I $$package=$$folder --python_out=$${folder%%/*} \
	    --pyi_out=$${folder%%/*} --grpc_python_out=$${folder%%/*} \
	    $$package/$$(basename $$proto) || exit 1; \
	done

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[simulation]" --group dev
	touch $@

clean:
	rm -rf $(VENV) out
