# What people do with this checkout, each in one command. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Python 3.12 or 3.13: make PYTHON=/path/to/python3.13 demo
PYTHON ?= $(shell for python in python3.12 python3.13; do \
	$$python -c '' 2>/dev/null && echo $$python && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Where the compiler's packages are installed, JAX complains about the missing GPU
# whenever it starts: so they are not in .venv.
COMPILE_VENV := .venv-gpu-compile
COMPILE_PYTHON := $(COMPILE_VENV)/bin/python
COMPILE_READY := $(COMPILE_VENV)/ready
DEMO := runs/demo
SOURCES := $(shell find kernels capsjax experiments -name '*.py')
# For `make gpu`: an environment with JAX for CUDA, the folder of TFDS data sets, and the
# folder of the results; RESULTS=results to commit them.
GPU_PYTHON ?= $(BIN)/python
DATA_DIR ?=
RESULTS ?= runs/benchmarks

PIP_PROGRESS := | awk '/^(Collecting|Installing|Successfully)/ \
	{print "  " $$1, $$2; fflush()}'

.PHONY: help setup demo test cluster-programs test-gpu-compile compile-report \
	experiments-smoke gpu lint clean

help: ## Lists the commands
	@echo "capsjax: capsule networks in JAX and Flax"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' \
		| awk -F '\t' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(READY) ## Installs everything into .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 12), (3, 13)])' \
		|| { echo "error: capsjax needs Python 3.12 or 3.13, and $(PYTHON) is" \
		"$$($(PYTHON) --version 2>&1); name one with: make PYTHON=python3.12" \
		"$(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up $(VENV): some minutes and 1.5 GB, once."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off \
		--constraint constraints.txt --editable '.[test,lint]' \
		$(PIP_PROGRESS)
	@touch $@

demo: $(DEMO)/result.json ## Trains CapsNet on scikit-learn's digits and draws plots
	@echo "Look at the figures in $(DEMO)/plots. (The demo trains again when the code" \
		"has changed, or after: rm -r $(DEMO))"

$(DEMO)/result.json: $(READY) $(SOURCES)
	@echo "Training CapsNet on 1,257 handwritten digits, half a minute on two cores;" \
		"the run goes to $(DEMO)."
	@rm -rf $(DEMO)
	@$(BIN)/python -m experiments.train \
		--config=experiments/configs/digits.py --workdir=$(DEMO)

test: $(READY) ## Runs all tests
	@echo "Running the tests on 2 processes."
	@$(BIN)/python -m pytest -n 2 -m "not gpu_compile"

CLUSTER_PACKAGES := slurmctld slurmd slurm-client munge openmpi-bin

cluster-programs: ## Installs Slurm and Open MPI, on Debian as root, for their tests
	@for program in slurmctld slurmd sbatch munged mpirun; do \
		PATH="$$PATH:/usr/sbin" command -v $$program >/dev/null || missing=1; \
	done; if [ -n "$${missing:-}" ]; then \
		echo "Installing $(CLUSTER_PACKAGES)."; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && apt-get -qq install --no-install-recommends \
			$(CLUSTER_PACKAGES) >/dev/null; \
	fi

test-gpu-compile: $(READY) $(COMPILE_READY) ## Compiles the kernels for an H200; no GPU
	@echo "Compiling the fused kernels for an H200 on 2 processes, about three minutes."
	@CAPSJAX_GPU_COMPILE_PYTHON=$(CURDIR)/$(COMPILE_PYTHON) \
		$(BIN)/python -m pytest -n 2 -m gpu_compile

compile-report: $(READY) $(COMPILE_READY) ## Renews results/routing_compile.md; no GPU
	@$(BIN)/python -m experiments.compile_routing --python=$(COMPILE_PYTHON) \
		--output=results

# With DATA_DIR on the real MNIST, else on scikit-learn's digits at the same size.
SMOKE := runs/smoke
SMOKE_IMAGES := $(if $(DATA_DIR),--images=mnist --data_dir=$(DATA_DIR),--images=digits)
SMOKE_TRAIN := --config=experiments/configs/digits.py:quick --config.max_steps=20

experiments-smoke: $(READY) ## Runs each of the paper's experiments, tiny, in minutes
	@echo "Running every experiment at its smallest; the results go to $(SMOKE)."
	@rm -rf $(SMOKE)
	@$(BIN)/python -m experiments.sweep_routing $(SMOKE_TRAIN) --iterations=1,3 \
		--seeds=1 --workdir=$(SMOKE)/sweep
	@$(BIN)/python -m experiments.reproduce --table=1 --scale=smoke --max_steps=20 \
		--seeds=1 $(SMOKE_IMAGES) --workdir=$(SMOKE)/table1
	@$(BIN)/python -m experiments.affnist --scale=smoke $(SMOKE_IMAGES) \
		--workdir=$(SMOKE)/affnist
	@$(BIN)/python -m experiments.ensemble $(SMOKE_TRAIN) --members=2 \
		--workdir=$(SMOKE)/ensemble
	@$(BIN)/python -m experiments.perturb --workdir=$(SMOKE)/ensemble/seed0 --class_name=3
	@$(BIN)/python -m experiments.compare_routing --scale=smoke $(SMOKE_IMAGES) --seeds=1 \
		--max_steps=20 --workdir=$(SMOKE)/routings
	@$(BIN)/python -m experiments.gradient_flow --scale=smoke $(SMOKE_IMAGES) \
		--routings=dynamic,uniform --depths=1,2 --max_steps=20 --workdir=$(SMOKE)/gradients
	@$(BIN)/python -m experiments.inspect_network --workdir=$(SMOKE)/ensemble/seed0 \
		--steps=20 --repeats=3
	@$(BIN)/python -m experiments.data_efficiency --quick $(SMOKE_IMAGES) --seeds=1 \
		--networks=mnist:paper,deep_convnet --images_per_class=1,10 --max_steps=20 \
		--workdir=$(SMOKE)/data_efficiency
	@$(BIN)/python -m experiments.find_features --images=100,1000 --seeds=2 --steps=100 \
		--output=$(SMOKE)/found_features
	@$(BIN)/python -m experiments.attack --workdirs=$(SMOKE)/ensemble/seed0 \
		--attacks=fgsm,pgd --linf=0.1,0.5 --l2= --num_images=40 --steps=5 \
		--restarts=1 --output=$(SMOKE)/attacks
	@$(BIN)/python -m experiments.transform_test \
		--workdirs=$(SMOKE)/ensemble/seed0,$(SMOKE)/ensemble/seed1 --num_images=100 \
		--output=$(SMOKE)/transformations
	@$(BIN)/python -m experiments.scrambled_parts --workdir=$(SMOKE)/quarters \
		--quarters=$(SMOKE)/ensemble/seed0,$(SMOKE)/ensemble/seed1
	@$(BIN)/python -m experiments.scrambled_parts --scale=smoke \
		--workdir=$(SMOKE)/scrambled_parts
	@$(BIN)/python -m experiments.report $(SMOKE)/* --output=$(SMOKE)/report.html

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(READY)) ## Tests, benchmark and training on a GPU, 10 minutes
	@$(GPU_PYTHON) -m experiments.run_on_gpu --results=$(RESULTS) \
		$(if $(DATA_DIR),--data_dir=$(DATA_DIR))

$(COMPILE_READY): $(READY) pyproject.toml constraints.txt
	@echo "Setting up $(COMPILE_VENV): a minute or two and 1.3 GB, once."
	@$(BIN)/python -m venv --clear $(COMPILE_VENV)
	@$(COMPILE_PYTHON) -m pip install --disable-pip-version-check --progress-bar off \
		--constraint constraints.txt jax jaxtyping \
		$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", \
		"rb"))["project"]["optional-dependencies"]["gpu-compile"])') $(PIP_PROGRESS)
	@touch $@

lint: $(READY) ## Checks format, style and types
	@echo "Checking format, style and types."
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean: ## Removes environments and caches; keeps runs
	rm -rf $(VENV) $(COMPILE_VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
