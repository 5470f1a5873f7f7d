# Two commands matter: `make run` (the pipeline on the demo cohort, or on what
# params.yaml names) and `make test`. Both make the environment when it is missing.

PYTHON ?= python3
VENV := .venv
LOCK := requirements.lock
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
# settings that would send uv or the stages to another environment than .venv
CLEAN := env -u UV_PYTHON -u UV_PROJECT_ENVIRONMENT -u UV_NO_DEV -u VIRTUAL_ENV -u PYTHONPATH -u PYTHONHOME
ACTIVATE := $(CLEAN) VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(BIN)):$$PATH"

.PHONY: run study mnist test test-browser test-long test-remote test-jax bench ui lint lock environment clean

environment: $(STAMP)

# uv comes from the lock like everything else (first sed), then installs the rest:
# seconds instead of minutes. Bytecode is compiled once here, since a pipeline of many
# short processes would otherwise compile tensorflow anew in each where
# PYTHONDONTWRITEBYTECODE is set.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"histocae needs Python 3.11, 3.12 or 3.13, found {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(CLEAN) $(PYTHON) -m venv --clear $(VENV)
	sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^ /p;}' $(LOCK) > $(VENV)/uv.txt
	$(CLEAN) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.txt
	$(ACTIVATE) uv pip install --quiet --require-hashes --compile-bytecode -r $(LOCK) || \
		{ echo "uv could not; trying pip, which takes minutes but knows pip's own settings (mirror, certificates)"; \
		$(CLEAN) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK); }
	$(ACTIVATE) uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: $(STAMP)
	$(ACTIVATE) dvc repro

# The named set of params of examples/study.yaml, on whatever source params.yaml names.
study: $(STAMP)
	$(ACTIVATE) python examples/apply.py examples/study.yaml
	$(ACTIVATE) dvc repro

# Both examples on handwritten digits, with params, data and models of their own in examples/mnist.
mnist: $(STAMP)
	$(ACTIVATE) dvc repro examples/mnist/dvc.yaml

# Three on two cores: the tests of servers and jobs wait a good deal.
test: $(STAMP)
	$(ACTIVATE) python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Needs chromium.
test-browser: $(STAMP)
	$(ACTIVATE) python -m pytest -m browser

# Other machines, all of them this one: as root, on Debian and its like, installs and starts what that takes; as
# anybody else all but Slurm, with what is installed.
test-remote: $(STAMP)
	$(ACTIVATE) python tests/support/services.py python -m pytest -m "remote or not remote" tests/tracking/jobs tests/workers tests/test_remotes.py

# What would take the tests over ten minutes on two cores.
test-long: $(STAMP)
	$(ACTIVATE) python -m pytest -m long

# Speed beside the notebooks' way, into benchmarks/results.json and README.md; under 25 minutes on two idle cores.
bench: $(STAMP)
	$(ACTIVATE) python benchmarks/all.py

# The training in an environment of its own, which has keras, jax, numpy and pandas and nothing else of histocae's:
# what benchmarks/train_gpu.py needs on a machine with a graphics card.
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

lint: $(STAMP)
	$(ACTIVATE) ruff check src tests examples notebooks benchmarks

# Every platform and every Python that pyproject allows, with hashes; no index, no host.
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
