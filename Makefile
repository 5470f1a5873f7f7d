# Two commands matter: `make run` (the pipeline on the demo cohort, or on what
# params.yaml names) and `make test`. Both make the environment when it is missing.

PYTHON ?= python3
VENV := .venv
LOCK := requirements.lock
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
# without settings that would send uv or the stages to another environment than .venv
CLEAN := env -u UV_PYTHON -u UV_PROJECT_ENVIRONMENT -u UV_NO_DEV -u VIRTUAL_ENV -u PYTHONPATH -u PYTHONHOME
ACTIVATE := $(CLEAN) VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(BIN)):$$PATH"

.PHONY: run study mnist test test-quick test-browser test-long test-remote test-jax coverage bench ui lint format lock \
	environment clean

environment: $(STAMP)

# uv itself comes from the lock (the line with sed). It installs the rest in seconds instead of minutes.
# Bytecode is compiled once here: where PYTHONDONTWRITEBYTECODE is set, each of the pipeline's many short
# processes would otherwise compile TensorFlow again.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"histocae needs Python 3.11, 3.12 or 3.13, found {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(CLEAN) $(PYTHON) -m venv --clear $(VENV)
	sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^ /p;}' $(LOCK) > $(VENV)/uv.txt
	$(CLEAN) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.txt
	$(ACTIVATE) uv pip install --quiet --require-hashes --compile-bytecode -r $(LOCK) || \
		{ echo "uv failed; trying pip, which takes minutes but reads pip's own settings (mirror, certificates)"; \
		$(CLEAN) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK); }
	$(ACTIVATE) uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: $(STAMP)
	$(ACTIVATE) dvc repro

# Puts examples/study.yaml into params.yaml, on the source that params.yaml names.
study: $(STAMP)
	$(ACTIVATE) python examples/apply.py examples/study.yaml
	$(ACTIVATE) dvc repro

# Both examples on MNIST, with params, data and models of their own in examples/mnist.
mnist: $(STAMP)
	$(ACTIVATE) dvc repro examples/mnist/dvc.yaml

# Three processes on two cores: tests of servers and jobs wait a good deal.
PYTEST := python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
test: lint
	$(ACTIVATE) $(PYTEST)

# Under two minutes on two cores: no server and no process that runs a whole pipeline (tests/conftest.py).
test-quick: $(STAMP)
	$(ACTIVATE) python -m pytest -n 2 --dist loadfile -m "not slow and not browser and not long and not remote"

# Which lines of src the tests run, also in the processes that they start; longer than `make test`.
coverage: $(STAMP)
	rm -f .coverage .coverage.*
	$(ACTIVATE) $(PYTEST) --cov --cov-report=term --cov-report=html

# Needs chromium.
test-browser: $(STAMP)
	$(ACTIVATE) python -m pytest -m browser

# Jobs on other machines, all of which are this machine. As root on Debian and its like it installs and starts
# what that needs. As another user it leaves out Slurm and takes what is installed.
test-remote: $(STAMP)
	$(ACTIVATE) python tests/support/services.py python -m pytest -m "remote or not remote" tests/tracking/jobs tests/workers tests/test_remotes.py

# Tests with which `make test` would take more than ten minutes on two cores.
test-long: $(STAMP)
	$(ACTIVATE) python -m pytest -m long

# Speed compared with the notebooks' way, written into benchmarks/results.json and benchmarks/README.md. Takes
# less than 25 minutes on two idle cores.
bench: $(STAMP)
	$(ACTIVATE) python benchmarks/all.py

# A training in an environment of its own, with keras, jax, numpy, pandas and cachetools alone.
# benchmarks/train_gpu.py needs no more than that on a machine with a graphics card.
JAX := .venv-jax
test-jax: $(JAX)/.complete
	$(CLEAN) KERAS_BACKEND=jax PYTHONPATH=src $(JAX)/bin/python -m pytest -p no:cacheprovider -c /dev/null --rootdir . \
		--noconftest -q tests/training/test_steps.py

$(JAX)/.complete: benchmarks/requirements.lock $(STAMP)
	$(CLEAN) $(PYTHON) -m venv --clear $(JAX)
	$(ACTIVATE) uv pip install --quiet --python $(JAX)/bin/python --require-hashes -r benchmarks/requirements.lock
	touch $@

ui: $(STAMP)
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "the runs are on a server: open $$MLFLOW_TRACKING_URI"; exit 1;; esac
	$(ACTIVATE) mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --port $${PORT:-5000}

# Style, format, types, imports between packages, spelling; each is configured in pyproject.toml.
CODE := src tests examples notebooks benchmarks
lint: $(STAMP)
	$(ACTIVATE) ruff check $(CODE)
	$(ACTIVATE) ruff format --check $(CODE)
	$(ACTIVATE) mypy
	$(ACTIVATE) lint-imports
	$(ACTIVATE) codespell

format: $(STAMP)
	$(ACTIVATE) ruff check --fix $(CODE)
	$(ACTIVATE) ruff format $(CODE)

# For every platform and every Python that pyproject allows, with hashes, without the name of an index or host.
lock: $(STAMP)
	$(ACTIVATE) uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--upgrade --quiet --output-file requirements.lock
	cp requirements.lock requirements-gpu.lock
	$(ACTIVATE) uv pip compile pyproject.toml --extra dev --extra gpu --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--quiet --output-file requirements-gpu.lock
	$(ACTIVATE) uv pip compile benchmarks/requirements.in --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--upgrade --quiet --output-file benchmarks/requirements.lock

clean:
	rm -rf $(VENV) $(JAX)
